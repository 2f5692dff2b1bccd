"""A generative job, and what its generator emits for conditions that nobody searched for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
import torch
from filled_store import finished_job
from tiny_job import copied
from torch.nn import functional as F

from nas import checkpoints, datasets
from nas.config import JobConfig
from nas.errors import ConflictError, JobFailedError
from nas.generation import Emitted, generate
from nas.generative.learner import Learner
from nas.limits import Limit
from nas.measuring.latency import Latency, stored_latency
from nas.results.extraction import export, extract, load_supernet
from nas.spaces.initial import load_folder
from nas.spaces.job_space import space_of
from nas.store import Job, Store
from search_spaces import SearchSpace
from search_spaces.errors import NotFoundError, UsageError

NAME = "generative"


@pytest.fixture
def store(generative_url: str) -> Iterator[Store]:
    with Store.open(generative_url, read_only=True) as opened:
        yield opened


@pytest.fixture
def job(store: Store) -> Job:
    return store.job(NAME)


@pytest.fixture
def spoilt(generative_url: str, tmp_path: Path) -> Iterator[Store]:
    """A copy that a test may change."""
    with Store.open(copied(generative_url, tmp_path / "copy")) as opened:
        yield opened


def latency_of(store: Store, job: Job, space: SearchSpace) -> Latency:
    config = JobConfig.model_validate(job.config, strict=False)
    found = stored_latency(store, job, config, space, store.devices()[0])
    assert found is not None
    return found


def emitted(store: Store, *conditions: str, count: int = 8, seed: int = 0) -> tuple[Emitted, ...]:
    parsed = [Limit.parse(text) for text in conditions]
    return generate(store, store.job(NAME), parsed, count, seed=seed).subnets


def middle_ms(store: Store, job: Job) -> float:
    """The latency that half of all architectures keep with the margin."""
    space = space_of(store, job)
    limited_ms = latency_of(store, job, space).limited_ms(space.all_codes())
    return float(sorted(limited_ms)[len(limited_ms) // 2])


def test_the_curve_is_stored(store: Store, job: Job) -> None:
    curve = [event.data for event in store.events(job, "generator")]
    rows = store.evaluations(job, "search")
    assert [point["round"] for point in curve] == [0, 1, 2, 3]
    assert [point["evaluations"] for point in curve] == [0, 16, 24, 32]
    assert all(0 <= point["feasible_rate"] <= 1 for point in curve)
    assert curve[0]["best"] is None
    for point in curve[1:]:
        assert point["best"] == max(row.value or 0.0 for row in rows[: point["evaluations"]])


def test_every_block_of_a_probed_network_has_a_reaction(store: Store, job: Job) -> None:
    events = store.events(job, "probe")
    searched = {row.subnet.key: row.subnet.architecture for row in store.evaluations(job, "search")}
    keys = [event.data["subnet"] for event in events]
    assert len(set(keys)) == len(keys) >= 4
    x, labels = next(iter(datasets.build("digits").batches("search", 64)))
    for key, event in zip(keys, events, strict=True):
        blocks = [f"blocks.{i}" for i in range(searched[key]["depth"])]
        reactions = event.data["reactions"]
        assert list(reactions) == ["stem", *blocks, "head"]
        assert [name for name, reaction in reactions.items() if reaction["bypass"] is not None] == blocks
        assert all(reaction["rms"] > 0 and reaction["rank"] >= 1 for reaction in reactions.values())
        with torch.inference_mode():
            loss = F.cross_entropy(extract(store, job, key)(x), labels)
        assert event.data["loss"] == pytest.approx(float(loss), rel=1e-5)


def test_the_generator_is_kept(store: Store, job: Job) -> None:
    stage = store.stage(job, "search")
    assert stage is not None
    assert stage.result is not None
    (artifact,) = store.artifacts(job, "generator")
    assert (stage.result["generator"], artifact.step) == (artifact.id, 32)
    tensors = checkpoints.load(store, artifact)
    assert {"bias", "into", "out"} <= tensors.keys()
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def check_emitted(store: Store, job: Job, found: tuple[Emitted, ...]) -> None:
    """All that is said of them is true, and the job's own limit is kept."""
    space = space_of(store, job)
    latency = latency_of(store, job, space)
    known = {row.subnet.key: row.value for row in store.evaluations(job, "search")}
    for one in found:
        arch = space.architecture(one.architecture)
        cost, (mean, std) = space.cost(arch), latency.predictor.predict(space.encode([arch]))
        assert (one.subnet, one.params, one.macs) == (arch.key, cost.params, cost.macs)
        assert one.memory_bytes == cost.weight_bytes + cost.activation_bytes
        assert (one.latency_ms, one.latency_std_ms) == pytest.approx((float(mean[0]), float(std[0])))
        assert one.params <= 10_000
        assert one.quality_std >= 0
        assert one.evaluated == known.get(one.subnet)
    assert len({one.subnet for one in found}) == len(found)
    assert [one.quality for one in found] == sorted((one.quality for one in found), reverse=True)


@pytest.mark.parametrize(
    "conditions",
    [(), ("macs<=105000",), ("params<5000", "memory_bytes<=60000"), ("params>=4000",), ("accuracy>=0.1",)],
)
def test_what_is_emitted_keeps_the_conditions(store: Store, job: Job, conditions: tuple[str, ...]) -> None:
    found = emitted(store, *conditions)
    assert 0 < len(found) <= 8
    check_emitted(store, job, found)
    for text in conditions:
        condition = Limit.parse(text)
        for one in found:
            known = {"params": one.params, "macs": one.macs, "memory_bytes": one.memory_bytes}
            assert condition.holds(known | {"accuracy": one.quality})


def test_a_condition_on_latency_is_kept_with_the_margin(store: Store, job: Job) -> None:
    limit = middle_ms(store, job)
    found = emitted(store, f"latency_ms<={limit:.9f}", "macs<=150000")
    check_emitted(store, job, found)
    assert all(one.latency_ms + one.latency_std_ms <= limit + 1e-9 for one in found)
    assert all(one.macs <= 150_000 for one in found)


def test_the_seed_decides_what_is_emitted(store: Store, job: Job) -> None:
    first, again, *others = (generate(store, job, count=100, seed=seed) for seed in (3, 3, 4, 5, 6))
    assert first == again
    assert any((one.feasible_rate, one.subnets) != (first.feasible_rate, first.subnets) for one in others)
    assert 0 < first.feasible_rate <= 1


def test_what_cannot_be_emitted_is_one_sentence(store: Store, job: Job) -> None:
    with pytest.raises(NotFoundError, match=r"found no architecture that keeps params<=1 and macs<=5\."):
        emitted(store, "params<=1", "macs<=5")
    for name in ("measured_ms", "predicted_ms"):
        with pytest.raises(UsageError, match=f"'{name}<=5' cannot be told"):
            emitted(store, f"{name}<=5")
    options: list[dict[str, Any]] = [{"count": 0}, {"temperature": 0.0}, {"temperature": float("nan")}]
    for impossible in options:
        with pytest.raises(UsageError, match="must be above 0"):
            generate(store, job, **impossible)


def test_where_no_sample_hits_a_window_samples_are_moved_into_it(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = space_of(store, job)
    costs = space.costs(space.all_codes())
    within = [limit.mask(costs) for limit in map(Limit.parse, job.config["constraints"])]
    low, *_, high, _ = sorted(set(costs["macs"][np.all(within, axis=0)].tolist()))[-5:]
    window = [Limit.parse(f"macs>={low}"), Limit.parse(f"macs<={high}")]
    smallest = space.encode([space.smallest])
    monkeypatch.setattr(
        Learner, "draw", lambda self, asked, rng, **_: np.repeat(smallest, len(asked), axis=0)
    )
    made = generate(store, job, window, 3)
    assert made.moved
    assert made.feasible_rate == 0
    assert made.subnets
    assert all(low <= subnet.macs <= high for subnet in made.subnets)


def test_what_was_evaluated_is_not_forgotten(store: Store, job: Job) -> None:
    """The best network that is known to keep the condition is among those that are told."""
    made = generate(store, job, [], 100)
    best = max(store.evaluations(job, "search"), key=lambda evaluation: evaluation.value or 0)
    assert best.subnet.key in {subnet.subnet for subnet in made.subnets}


def test_a_job_of_another_searcher_has_no_generator(store_url: str) -> None:
    with Store.open(store_url) as other:
        finished_job(other, "j", count=15)
        with pytest.raises(NotFoundError, match="has no generator: it was searched by 'surrogate'"):
            generate(other, other.job("j"))


def test_a_job_that_has_not_searched_yet_has_no_generator(begun_generative: str) -> None:
    with Store.open(begun_generative, read_only=True) as begun:
        with pytest.raises(ConflictError, match="is not finished") as caught:
            generate(begun, begun.job(NAME))
        assert "nas resume 1" in (caught.value.hint or "")


def test_a_search_of_everything_has_no_generator(spoilt: Store) -> None:
    with spoilt.write() as connection:
        forget = "UPDATE stages SET result = json_remove(result, '$.generator') WHERE name = 'search'"
        connection.execute(sa.text(forget))
    with pytest.raises(NotFoundError, match="its budget covered the whole space"):
        generate(spoilt, spoilt.job(NAME))


def test_a_damaged_generator_is_one_sentence(spoilt: Store) -> None:
    (artifact,) = spoilt.artifacts(spoilt.job(NAME), "generator")
    file = spoilt.artifact_root / artifact.path
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(JobFailedError, match=r"generator-00000032\.safetensors' is damaged: its SHA-256"):
        generate(spoilt, spoilt.job(NAME))
    file.unlink()
    with pytest.raises(JobFailedError, match="is missing"):
        generate(spoilt, spoilt.job(NAME))


def test_an_architecture_that_was_never_looked_at_is_extracted(
    store: Store, job: Job, tmp_path: Path
) -> None:
    net = load_supernet(store, job)
    new = next(one for one in emitted(store, count=60) if one.evaluated is None)
    assert new.subnet not in {subnet.key for subnet in store.subnets(job)}
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    export(store, job, new.architecture, tmp_path / "new")
    with torch.inference_mode():
        expected = net(x, net.space.architecture(new.architecture))
        assert torch.equal(extract(store, job, new.architecture)(x), expected)
        assert torch.equal(load_folder(tmp_path / "new")(x), expected)
    with pytest.raises(NotFoundError, match="has no weights 'finetuned'"):
        extract(store, job, new.architecture, weights="finetuned")


def test_any_architecture_is_found_again_by_its_data(store: Store, job: Job, tmp_path: Path) -> None:
    row = store.evaluations(job, "report")[0]
    for subnet, folder in ((row.subnet.key, "key"), (row.subnet.architecture, "data")):
        export(store, job, subnet, tmp_path / folder)
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / "key" / name).read_bytes() == (tmp_path / "data" / name).read_bytes()
