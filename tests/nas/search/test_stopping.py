"""A search that no longer gains ends: when, how it is told, and that an interruption changes nothing."""

from typing import Any

import numpy as np
import pytest
from raced import QUALITY, Data, Looked, rows_of, run_search, running, table

from nas.config import StopConfig, checked_config
from nas.search import stage as search_stage
from nas.search.stopping import Gains
from nas.store import Store
from search_spaces.errors import UsageError

STOP = {"gain": 0.01, "patience": 2}
HITS = table(QUALITY)


def after(volumes: list[float], *, gain: float = 0.1, patience: int = 2) -> str | None:
    gains = Gains(StopConfig(gain=gain, patience=patience))
    for volume in volumes:
        gains = gains.after(volume)
    return gains.reason


@pytest.mark.parametrize(
    ("volumes", "ends"),
    [
        ([0.5, 0.54], False),  # the first batch gained everything
        ([0.5, 0.54, 0.59], True),
        ([0.5, 0.55, 0.59], False),  # exactly a tenth is enough
        ([0.5, 0.5, 0.6, 0.61], False),
        ([0.5, 0.6, 0.61, 0.61], True),
        ([0.0, 0.0], True),  # nothing succeeded
        ([0.0, 0.1], False),
        ([], False),
    ],
)
def test_a_search_ends_when_each_of_the_last_batches_gained_little(volumes: list[float], ends: bool) -> None:
    assert (after(volumes) is not None) == ends
    assert Gains(None).after(0.5).after(0.5).reason is None


def test_the_reason_in_words() -> None:
    assert after([0.5] * 4, gain=0.001, patience=3) == (
        "each of the last 3 batches gained less than 0.1 % of hypervolume"
    )
    assert after([0.5] * 2, patience=1) == "the last batch gained less than 10 % of hypervolume"


def curve(store: Store, name: str) -> list[Any]:
    return [event.data for event in store.events(store.job(name), "hypervolume")]


def ended_after(points: list[Any]) -> int:
    """Where the rule ends a search with this curve; batches of 12."""
    volumes = [0.0, *(point["hypervolume"] for point in points)]
    little = np.diff(volumes) < STOP["gain"] * np.array(volumes[:-1])
    return 12 * next(batch + 2 for batch in range(len(little) - 1) if little[batch] and little[batch + 1])


def test_a_search_ends_where_its_curve_says_and_tells_why(store: Store) -> None:
    whole = run_search(store, "whole", Looked(HITS), stop=None)
    points, count = curve(store, "whole"), ended_after(curve(store, "whole"))
    assert 24 < count < len(whole) == 96
    short = run_search(store, "short", Looked(HITS), stop=STOP)
    assert short == {key: row for key, row in whole.items() if row[0] < count}
    assert curve(store, "short") == points[: count // 12]
    stage = store.stage(store.job("short"), "search")
    assert stage is not None
    reason = "each of the last 2 batches gained less than 1 % of hypervolume"
    assert (stage.told("evaluations"), stage.told("ended")) == (count, reason)
    (log,) = store.events(store.job("short"), "log")
    assert log.data == {"message": f"The search ended after {count} of 96 subnets: {reason}."}
    whole_stage = store.stage(store.job("whole"), "search")
    assert whole_stage is not None
    assert "ended" not in (whole_stage.result or {})


@pytest.mark.parametrize("stop", [1, 9, 14])
def test_an_interrupted_search_ends_where_an_uninterrupted_one_ends(store: Store, stop: int) -> None:
    whole = run_search(store, "whole", Looked(HITS), stop=STOP)
    run_search(store, "halves", Looked(HITS, stop), stop=STOP)
    assert len(rows_of(store, "halves")) < len(whole)
    assert run_search(store, "halves", Looked(HITS), stop=STOP) == whole
    assert curve(store, "halves") == curve(store, "whole")


def test_a_search_that_had_ended_when_it_was_killed_asks_for_nothing_more(store: Store) -> None:
    whole = run_search(store, "a", Looked(HITS), stop=STOP)
    with running(store, "a", stop=STOP) as (run, objectives):
        store.begin_stage(run.lease, "search", "as if it had not been finished")
        pool = Looked(HITS)
        search_stage.search(run, objectives, Data(), pool)  # type: ignore[arg-type]
    assert (rows_of(store, "a"), pool.asked) == (whole, [])
    assert len(store.events(store.job("a"), "log")) == 1


def test_everything_is_evaluated_where_the_budget_covers_it(store: Store) -> None:
    assert len(run_search(store, "a", Looked(HITS), evaluations=5000, stop=STOP)) == len(QUALITY)


@pytest.mark.parametrize("stop", [{"gain": 0.0}, {"gain": 1.0}, {"patience": 0}, {"patient": 3}, "soon"])
def test_a_wrong_rule_is_refused(stop: Any) -> None:
    with pytest.raises(UsageError, match=r"search\.stop"):
        checked_config({"search": {"stop": stop}}, where="here")
