"""Limits on latency hold for the prediction with its margin; what is measured in the end may break them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from same_process import evaluating_here
from tiny_job import GENERATIVE, copied

from nas import pipeline
from nas.config import JobConfig, merged
from nas.measuring.latency import Latency, stored_latency
from nas.progress import Silent
from nas.search import finalists as finalists_stage
from nas.spaces.job_space import space_of
from nas.store import Store
from search_spaces.errors import UsageError

NAME = "generative"
EVERYTHING = {"searcher": "random", "evaluations": 10_000, "batch": 1000, "finalists": 3, "images": 8}
SOME = EVERYTHING | {"evaluations": 12}


@pytest.fixture
def store(begun_generative: str, tmp_path: Path) -> Iterator[Store]:
    """A job whose search is to come."""
    with Store.open(copied(begun_generative, tmp_path / "copy")) as opened:
        yield opened


def latency_of(store: Store, *, margin: float = 1.0) -> Latency:
    job = store.job(NAME)
    config = JobConfig.model_validate(GENERATIVE | {"search": {"latency_margin": margin}})
    found = stored_latency(store, job, config, space_of(store, job), store.devices()[0])
    assert found is not None
    return found


def goes_on(store: Store, *constraints: str, **search: Any) -> set[str]:
    """Changes the job's limits and its search, and runs it to its end; the keys that it evaluated."""
    config = merged(JobConfig.model_validate(GENERATIVE | {"constraints": [*constraints], "search": search}))
    with store.write() as connection:
        connection.execute(sa.text("UPDATE jobs SET config = :c"), {"c": json.dumps(config)})
    with evaluating_here():
        pipeline.run(store, store.job(NAME), progress=Silent())
    return {row.subnet.key for row in store.evaluations(store.job(NAME), "search")}


def test_the_bound_is_the_mean_and_so_many_standard_deviations(store: Store) -> None:
    codes = space_of(store, store.job(NAME)).all_codes()
    for margin in (0.0, 1.0, 2.5):
        latency = latency_of(store, margin=margin)
        mean, std = latency.predictor.predict(codes)
        assert (std > 0).all()
        assert np.array_equal(latency.predict(codes), mean)
        assert latency.limited_ms(codes) == pytest.approx(mean + margin * std)
    assert np.array_equal(latency_of(store, margin=0.0).limited_ms(codes), mean)


@pytest.mark.parametrize("margin", [0.0, 1.0, 2.0])
def test_what_keeps_the_limit_with_the_margin_is_evaluated_and_nothing_else(
    store: Store, margin: float
) -> None:
    space = space_of(store, store.job(NAME))
    codes = space.all_codes()
    mean, std = latency_of(store).predictor.predict(codes)
    limit = float(f"{np.quantile(mean + std, 0.3):.9g}")
    keeps = mean + margin * std <= limit
    assert 0 < keeps.sum() < len(codes)
    assert keeps.sum() < (mean <= limit).sum() or margin == 0
    found = goes_on(store, f"latency_ms<={limit}", **EVERYTHING, latency_margin=margin)
    assert found == {arch.key for arch in space.decode(codes[keeps])}


@pytest.mark.parametrize("searcher", ["generative", "nsga2", "surrogate"])
def test_no_searcher_leaves_the_limit_with_the_margin(store: Store, searcher: str) -> None:
    space = space_of(store, store.job(NAME))
    limited_ms = latency_of(store).limited_ms(space.all_codes())
    limit = float(f"{np.quantile(limited_ms, 0.4):.9g}")
    section = {"searcher": searcher, "evaluations": 20, "batch": 10, "finalists": 2, "images": 8}
    options = {"initial": 10, "round": 5, "steps": 2} if searcher == "generative" else {}
    found = goes_on(store, f"latency_ms<={limit}", **section, options=options)
    assert len(found) == 20
    assert found <= {arch.key for arch in space.decode(space.all_codes()[limited_ms <= limit])}


def test_a_limit_that_only_the_mean_keeps_is_refused_before_the_search(store: Store) -> None:
    codes = space_of(store, store.job(NAME)).all_codes()
    latency = latency_of(store)
    lowest = float(latency.predict(codes).min()), float(latency.limited_ms(codes).min())
    assert lowest[0] < lowest[1]
    limit = f"latency_ms<={sum(lowest) / 2:.9g}"
    with pytest.raises(UsageError, match="latency_ms<="):
        goes_on(store, limit, **EVERYTHING)
    assert not store.evaluations(store.job(NAME))
    assert goes_on(store, limit, **EVERYTHING, latency_margin=0.0)


def warnings_of(store: Store) -> list[str]:
    return [event.data["message"] for event in store.events(store.job(NAME), "log")]


def test_a_finalist_that_breaks_the_limit_when_measured_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(run: Any, space: Any, device: Any, row: Any, archs: Any, **how: Any) -> Any:
        return {arch: 1234.5 if i == len(archs) - 1 else 3.0 for i, arch in enumerate(archs)}

    monkeypatch.setattr(finalists_stage, "measure", measured)
    goes_on(store, "latency_ms<=1000", "latency_ms<1200", "params<=10000", **SOME)
    (key,) = {message.split()[1] for message in warnings_of(store)}
    assert key in {row.subnet.key for row in store.evaluations(store.job(NAME), "report")}
    assert warnings_of(store) == [
        f"Subnet {key} was measured with 1234 ms and breaks latency_ms<=1000.",
        f"Subnet {key} was measured with 1234 ms and breaks latency_ms<1200.",
    ]


def test_finalists_that_keep_the_limits_are_not_told(store: Store) -> None:
    goes_on(store, "latency_ms<=1000", "params<=10000", **SOME)
    assert store.measurements(store.job(NAME), "finalist")
    assert warnings_of(store) == []
