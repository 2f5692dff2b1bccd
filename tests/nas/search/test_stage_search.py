"""The search of the tiny job: what it evaluated and chose, and the curve of its hypervolume."""

import numpy as np
import pytest
import sqlalchemy as sa
import tiny_job as tiny

import nas
import search_spaces
from nas.measuring.latency import Latency, stored_predictor
from nas.search import finalists as finalists_stage
from nas.search.belief import believed
from nas.search.objectives import Objectives
from nas.store import Store


def objectives(job: nas.JobHandle, *names: str) -> Objectives:
    """As the search had them, from the store."""
    stage = job.store.stage(job.job, "space")
    assert stage is not None
    assert stage.result is not None
    space = search_spaces.get("matformer", **stage.result["space"]["options"])
    device = job.store.devices()[0]
    predictor = stored_predictor(job.store, job.job, space, device)
    assert predictor is not None
    return Objectives(names or ("accuracy", "latency_ms"), space, Latency(device, predictor))


def test_the_search_evaluates_distinct_subnets_within_the_limits(tiny_job: nas.JobHandle):
    rows = tiny_job.store.evaluations(tiny_job.job, "search")
    space = objectives(tiny_job).space
    assert len({row.subnet.key for row in rows}) == len(rows) == 24
    assert {row.state for row in rows} == {"ok"}
    assert space.cost(space.largest).params > tiny.LIMIT
    for row in rows:
        arch = space.architecture(row.subnet.architecture)
        assert arch.key == row.subnet.key
        assert row.subnet.params == space.cost(arch).params <= tiny.LIMIT
    assert [row.batch for row in rows] == [i // 6 for i in range(24)]


def test_objectives_are_the_exact_costs_and_the_prediction(tiny_job: nas.JobHandle):
    told = objectives(tiny_job)
    for row in tiny_job.store.evaluations(tiny_job.job, "search"):
        arch = told.space.architecture(row.subnet.architecture)
        cost, codes = told.space.cost(arch), told.space.encode([arch])
        peak = row.objectives.pop("peak_memory_bytes")
        assert peak is not None
        assert peak > cost.weight_bytes
        assert row.objectives == {
            "accuracy": row.value,
            "params": cost.params,
            "macs": cost.macs,
            "memory_bytes": cost.weight_bytes + cost.activation_bytes,
            "latency_ms": pytest.approx(float(told.latency.predict(codes)[0])),
            **{
                name: pytest.approx(float(column[0]))
                for name, column in told.latency.intervals(codes).items()
            },
        }


def test_finalists_are_chosen_on_the_search_split_only(tiny_job: nas.JobHandle, tiny_copy: str):
    told = objectives(tiny_job)

    def chosen(store: Store) -> list[str]:
        found = finalists_stage.choose(told, store.evaluations(store.job("tiny"), "search"), 6)
        return [evaluation.subnet.key for evaluation in found]

    reported = {row.subnet.key for row in tiny_job.store.evaluations(tiny_job.job, "report")}
    before = chosen(tiny_job.store)
    assert set(before) == reported
    engine = sa.create_engine(tiny_copy)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE evaluations SET value = 1 - value WHERE split = 'report'"))
    engine.dispose()
    with Store.open(tiny_copy) as copy:
        assert chosen(copy) == before


def test_finalists_are_ends_and_gains_of_the_front(tiny_job: nas.JobHandle):
    told = objectives(tiny_job, "accuracy", "params")
    rows = tiny_job.store.evaluations(tiny_job.job, "search")
    everything = finalists_stage.choose(told, rows, 100)
    values = believed(told, rows)[:, 0].tolist()
    points = {row.subnet.key: (value, row.subnet.params) for row, value in zip(rows, values, strict=True)}

    def beaten(key: str) -> bool:
        value, params = points[key]
        return any(v >= value and p <= params and (v, p) != (value, params) for v, p in points.values())

    unbeaten = {points[key] for key in points if not beaten(key)}
    assert {points[row.subnet.key] for row in everything} == unbeaten
    two = finalists_stage.choose(told, rows, 2)
    assert {points[row.subnet.key] for row in two} == {
        max(unbeaten),
        min(unbeaten, key=lambda point: point[1]),
    }
    assert finalists_stage.choose(told, [], 5) == []


def area(points: list[tuple[float, float]]) -> float:
    """What points (gain, cost) in the unit square dominate: a sweep from the cheapest on."""
    total = best = 0.0
    steps = sorted((max(0.0, cost), gain) for gain, cost in points if cost < 1)
    for (cost, gain), (following, _) in zip(steps, [*steps[1:], (1.0, 0.0)], strict=True):
        best = max(best, gain)
        total += best * (following - cost)
    return total


def test_the_hypervolume_curve_is_that_of_the_rows(tiny_job: nas.JobHandle):
    told = objectives(tiny_job)
    slowest = float(told.latency.predict(told.space.encode([told.space.largest]))[0])
    rows = tiny_job.store.evaluations(tiny_job.job, "search")
    curve = [event.data for event in tiny_job.store.events(tiny_job.job, "hypervolume")]
    assert [point["evaluations"] for point in curve] == [6, 12, 18, 24]
    volumes = [point["hypervolume"] for point in curve]
    assert volumes == sorted(volumes)
    assert 0 < volumes[-1] < 1
    for point in curve:
        points = [
            (row.value or 0.0, (row.objectives["latency_ms"] or 0.0) / slowest)
            for row in rows[: point["evaluations"]]
        ]
        assert point["hypervolume"] == pytest.approx(area(points))
    assert tiny_job.front().hypervolume == volumes[-1]


def test_minimised_values_lie_between_0_and_1(tiny_job: nas.JobHandle):
    told = objectives(tiny_job, "accuracy", "macs")
    largest = told.space.cost(told.space.largest).macs
    values = np.array([[1.0, 0.0], [0.25, largest]])
    assert told.minimised(values).tolist() == [[0.0, 0.0], [0.75, 1.0]]
    assert told.hypervolume(values) == pytest.approx(1.0)
    assert told.hypervolume(values[1:]) == 0.0
    assert told.hypervolume(values[:0]) == 0.0
