"""The front: who is on it, how it reads as JSON and CSV, its knee, and what can be asked of it."""

import csv
import io
import json

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from made_fronts import CONFIG, add_job

from nas.limits import Limit
from nas.results import frames, job_devices
from nas.results.front import ParetoFront, front
from nas.results.members import Member
from nas.store import Job, NewSubnet, Store
from nas.store import tables as t
from predictors.measurement.labels import Measurement
from search_spaces.errors import NotFoundError, UsageError


def member(latency_ms: float | None, quality: float, *, subnet: str = "s") -> Member:
    return Member("j", subnet, {}, 1, 1, "accuracy", quality, None, None, "cpu", None, latency_ms, None)


def of(*members: Member) -> ParetoFront:
    return ParetoFront(("j",), ("accuracy", "latency_ms"), "cpu", None, 0, members)


def test_the_json_is_the_contract(store: Store) -> None:
    data = front(store, add_job(store, "a")).to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    head = {key: value for key, value in data.items() if key != "front"}
    assert head == {
        "job": "a",
        "objectives": [
            {"name": "accuracy", "goal": "max"},
            {"name": "latency_ms", "goal": "min", "device": "cpu"},
        ],
        "hypervolume": 0.5,
        "evaluations": 5,
    }
    assert [entry["subnet"] for entry in data["front"]] == ["a0", "a1", "a2", "a3"]
    assert data["front"][1] == {
        "subnet": "a1",
        "architecture": {"depth": 1},
        "params": 100,
        "macs": 1000,
        "quality": {"metric": "accuracy", "value": 0.8, "stderr": 0.01},
        "latency": {
            "device": "cpu",
            "predicted_ms": pytest.approx(2.2),
            "measured_ms": 2.0,
            "spread_ms": 0.1,
            "interval_ms": None,
        },
        "peak_memory_bytes": None,
        "energy_mj": None,
    }


def test_where_and_device(store: Store) -> None:
    job = add_job(store, "a")
    conditions = [Limit.parse("latency_ms<=4"), Limit.parse("accuracy>0.6")]
    assert [m.subnet for m in front(store, job, where=conditions).members] == ["a1", "a2"]
    assert len(front(store, job, where=[Limit.parse("memory_bytes<=64")]).members) == 4
    assert len(front(store, job, device="cpu").members) == 4
    with pytest.raises(NotFoundError, match="Nothing of 'a' was measured on 'cpuu'") as caught:
        front(store, job, device="cpuu")
    assert caught.value.hint == "Did you mean 'cpu'?"


def test_a_job_that_was_measured_on_a_second_device_shows_its_own_unless_asked(store: Store) -> None:
    job = add_job(store, "a")
    with store.acquire(job) as lease:
        pi = store.register_device("pi", {"host": "pi"})
        subnets = [NewSubnet(f"a{i}", {"depth": i}, 100 * i, 1000 * i) for i in range(4)]
        slower = [(s, Measurement(10.0 * (i + 1))) for i, s in enumerate(subnets)]
        store.add_measurements(lease, slower, device_id=pi.id, purpose="finalist")
        name = job_devices.measured_elsewhere(pi.id)
        store.begin_stage(lease, name, "key")
        store.finish_stage(lease, name, {"predicted_ms": {"a0": [11.0, 9.5, 12.5]}})
        lease.finish("succeeded")
    own = front(store, job)
    assert (own.device, [m.measured_ms for m in own.members]) == ("cpu", [1.0, 2.0, 4.0, 8.0])
    there = front(store, job, device="pi")
    assert (there.device, [m.measured_ms for m in there.members]) == ("pi", [10.0, 20.0, 30.0, 40.0])
    assert [m.predicted_ms for m in there.members] == [11.0, None, None, None]
    assert there.members[0].interval_ms == (9.5, 12.5)
    assert [m.quality for m in there.members] == [m.quality for m in own.members]
    assert list(frames.jobs(store)["stage"]) == [None]


def test_without_measurements_the_prediction_counts(store: Store) -> None:
    found = front(store, add_job(store, "a", timed=False))
    assert [m.measured_ms for m in found.members] == [None] * 4
    assert [m.latency_ms for m in found.members] == pytest.approx([1.1, 2.2, 4.4, 8.8])
    assert found.select(Limit.parse("latency_ms<3")).subnet == "a1"


def test_a_job_without_finalists_has_an_empty_front(store: Store) -> None:
    job = store.create_job("new", config={}, seed=0, provenance={})
    found = front(store, job)
    assert found.to_dict()["front"] == []
    assert found.hypervolume is None
    assert found.to_pandas().empty
    for ask in (found.knee, found.select):
        with pytest.raises(NotFoundError):
            ask()


def shown_beats(one: Member, other: Member) -> bool:
    """Whether one row beats another in what is printed of both."""
    ours, theirs = [(-m.quality, m.latency_ms or 0.0) for m in (one, other)]
    return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))


def test_several_jobs_keep_what_no_other_beats_in_what_is_shown(store: Store) -> None:
    first = add_job(store, "a")
    # Beats a1 on the search split and loses on the report split, which is what is shown.
    second = add_job(store, "b", points=[(2.0, 0.70, 0.80), (9.0, 0.99, 0.91), (8.0, 0.90, 0.2)])
    found = front(store, [first, second, first])
    assert [m.subnet for m in found.members] == ["a0", "a1", "a3", "b2", "b1"]
    assert not any(shown_beats(a, b) for a in found.members for b in found.members)
    data = found.to_dict()
    assert (data["job"], data["hypervolume"], data["evaluations"]) == ("a, b", None, 9)
    assert [entry["job"] for entry in data["front"]] == ["a", "a", "a", "b", "b"]
    assert data["decided_by"] == ["accuracy", "latency_ms"]
    assert all("beaten_by" not in entry for entry in data["front"])


def test_what_several_jobs_have_found_is_told_once(store: Store) -> None:
    first, second = add_job(store, "a"), add_job(store, "b")
    members = front(store, [second, first]).members
    assert [m.subnet for m in members] == [f"{job}{i}" for i in (0, 1, 3) for job in "ba"]
    with store.write() as connection:  # as if the second job had found the subnets of the first
        key = sa.func.replace(t.subnets.c.key, "b", "a")
        connection.execute(sa.update(t.subnets).where(t.subnets.c.job_id == second.id).values(key=key))
    members = front(store, [second, first]).members
    assert [(m.job, m.subnet) for m in members] == [("b", f"a{i}") for i in (0, 1, 3)]


def test_a_prediction_is_compared_with_a_prediction(store: Store) -> None:
    measured = add_job(store, "a", points=[(2.0, 0.8, 0.8)])  # predicted: 2.2 ms
    predicted = add_job(store, "b", points=[(1.9, 0.7, 0.7), (2.2, 0.7, 0.7)], timed=False)
    # 2.09 ms predicted is less than 2.2 ms predicted; 2.42 ms is not, whatever was measured.
    assert [m.subnet for m in front(store, [measured, predicted]).members] == ["a0", "b0"]


def test_several_jobs_are_compared_by_the_costs_that_they_optimise(store: Store) -> None:
    points = [(1.0, 0.5, 0.5), (2.0, 0.5, 0.5)]
    small = add_job(store, "a", points=points, config=CONFIG | {"objectives": ["accuracy", "params"]})
    both = add_job(store, "b", points=[(1.5, 0.5, 0.5)], config=CONFIG | {"objectives": ["accuracy"]})
    found = front(store, [small, both])  # a0 and b0 have no parameters, a1 has 100
    assert (found.decided_by, sorted(m.subnet for m in found.members)) == (("params",), ["a0", "b0"])
    assert [m.subnet for m in front(store, [both, small, both]).members] == ["a0", "b0"]
    alone = add_job(
        store, "c", points=[(1.0, 0.6, 0.5), (3.0, 0.7, 0.5)], config=CONFIG | {"objectives": ["accuracy"]}
    )
    found = front(store, [alone, both])
    assert [m.subnet for m in found.members] == ["c1", "c0"]
    assert found.decided_by == ("latency_ms",)


def test_the_front_of_one_job_marks_what_another_row_beats(store: Store) -> None:
    found = front(store, add_job(store, "a"))
    assert {m.subnet: m.beaten_by for m in found.members} == {"a0": None, "a1": None, "a2": "a1", "a3": None}
    assert [entry.get("beaten_by") for entry in found.to_dict()["front"]] == [None, None, "a1", None]
    assert found.to_pandas()["beaten_by"].dropna().to_dict() == {2: "a1"}


def with_digest(store: Store, job: Job, digest: str) -> Job:
    with store.acquire(job) as lease:
        store.begin_stage(lease, "space", "key")
        store.finish_stage(lease, "space", {"data": {"digest": digest}})
        lease.finish("succeeded")
    return job


def test_the_digest_says_whether_data_are_the_same(store: Store) -> None:
    here = CONFIG | {"data": {"name": "image_folder", "root": "here"}}
    there = CONFIG | {"data": {"name": "image_folder", "root": "there"}}
    first = with_digest(store, add_job(store, "a", config=here), "1")
    moved = with_digest(store, add_job(store, "b", config=there), "1")
    changed = with_digest(store, add_job(store, "c", config=here), "2")
    assert {m.job for m in front(store, [first, moved]).members} == {"a", "b"}
    with pytest.raises(UsageError, match="which have changed between the jobs"):
        front(store, [first, changed])
    with pytest.raises(UsageError, match=r"their data differ \(root: here, there\)"):
        front(store, [changed, moved])


def test_jobs_of_two_qualities_do_not_compare(store: Store) -> None:
    first = add_job(store, "a")
    second = add_job(store, "b", config=CONFIG | {"quality": "balanced_accuracy"})
    with pytest.raises(UsageError, match="one is accuracy, the other balanced_accuracy"):
        front(store, [first, second])


def test_a_job_without_finalists_among_several_is_told(store: Store) -> None:
    new = store.create_job("new", config=CONFIG, seed=0, provenance={})
    assert front(store, [add_job(store, "a"), new]).without == ("new",)


def test_a_front_of_which_nothing_meets_the_conditions_says_between_what_it_lies(store: Store) -> None:
    found = front(store, add_job(store, "a"), where=[Limit.parse("accuracy>=95"), Limit.parse("params>1")])
    assert found.members == ()
    assert found.unmet == (
        "No subnet of the front of 'a' meets accuracy>=0.95 and params>1. "
        "It spans 1 to 8 ms and 0.5 to 0.9 accuracy and 0 to 300 params."
    )
    assert front(store, store.create_job("new", config={}, seed=0, provenance={})).unmet is None


def test_jobs_that_do_not_compare(store: Store) -> None:
    first = add_job(store, "a")
    other_data = add_job(store, "b", config={"data": {"name": "digit_pairs"}})
    other_machine = add_job(store, "c", device=("cpu", 2))
    other_device = add_job(store, "d", device=("pi", 1))
    with pytest.raises(UsageError, match="their data differ"):
        front(store, [first, other_data])
    large = add_job(store, "e", config={"data": {"name": "image_folder", "root": "/a", "image_size": 64}})
    small = add_job(store, "f", config={"data": {"name": "image_folder", "root": "/a", "image_size": 32}})
    with pytest.raises(UsageError, match=r"their data differ \(image_size: 64, 32\)"):
        front(store, [large, small])
    with pytest.raises(UsageError, match=r"their data differ \(image_folder, digit_pairs\)"):
        front(store, [large, other_data])
    with pytest.raises(UsageError, match="Latencies of different devices"):
        front(store, [first, other_machine], device="cpu")
    with pytest.raises(UsageError, match="Latencies of different devices"):
        front(store, [first, other_device])
    assert {m.job for m in front(store, [first, other_device], device="pi").members} == {"d"}


def test_a_refusal_says_in_what_two_devices_differ(store: Store) -> None:
    one, other = add_job(store, "a"), add_job(store, "b", device=("cpu", 2))
    with pytest.raises(UsageError, match=r"'cpu' \(1\), 'cpu' \(2\) \(threads: 1, 2\)\.$"):
        front(store, [one, other])


def test_a_job_of_which_a_cost_is_not_known_does_not_vanish_from_a_front_of_several(store: Store) -> None:
    by_memory = CONFIG | {"objectives": ["accuracy", "peak_memory_bytes"]}
    with pytest.raises(UsageError, match="by peak_memory_bytes, which is not known of any subnet of 'a'"):
        front(store, [add_job(store, "a"), add_job(store, "b", config=by_memory)])


def test_csv_runs_no_formula(store: Store) -> None:
    text = front(store, add_job(store, "=cmd()", device=("@SUM(1)", 1))).to_csv()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 4
    assert {row["job"] for row in rows} == {"'=cmd()"}
    assert {row["device"] for row in rows} == {"'@SUM(1)"}
    assert rows[1]["subnet"].startswith("'=")
    assert json.loads(rows[1]["architecture"]) == {"depth": 1}
    assert float(rows[1]["measured_ms"]) == 2.0


def test_the_knee() -> None:
    # On log-latency 1, 2, 4, 8 lie at 0, 1/3, 2/3, 1; the point at 2 ms is 0.75 - 1/3 above the chord.
    found = of(member(1, 0.5), member(2, 0.8, subnet="knee"), member(4, 0.85), member(8, 0.9))
    assert found.knee().subnet == "knee"


def test_the_knee_is_never_a_beaten_subnet() -> None:
    found = of(member(1, 0.5), member(2, 0.7, subnet="good"), member(3, 0.69), member(8, 0.71))
    assert found.knee().subnet == "good"


def test_the_knee_of_few() -> None:
    assert of(member(1, 0.5)).knee().quality == 0.5
    assert of(member(1, 0.5), member(2, 0.6)).knee().quality == 0.5
    assert of(member(1, 0.5), member(1, 0.5)).knee().quality == 0.5
    with pytest.raises(NotFoundError):
        of(member(None, 0.5)).knee()


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0, 1)), min_size=1, max_size=8))
def test_the_knee_is_on_the_front(points: list[tuple[float, float]]) -> None:
    knee = of(*(member(ms, quality) for ms, quality in sorted(points))).knee()
    assert not any(ms < (knee.latency_ms or 0) and quality > knee.quality for ms, quality in points)


def test_select_takes_the_best_and_of_equals_the_fastest() -> None:
    found = of(member(1, 0.5), member(2, 0.8, subnet="fast"), member(3, 0.8), member(8, 0.9))
    assert found.select(Limit.parse("latency_ms<=5")).subnet == "fast"
    assert found.select().quality == 0.9
    with pytest.raises(NotFoundError, match=r"meets latency_ms<0.5") as caught:
        found.select(Limit.parse("latency_ms<0.5"))
    assert caught.value.hint == "It spans 1 to 8 ms and 0.5 to 0.9 accuracy."
    with pytest.raises(UsageError, match="memory_bytes"):
        found.select(Limit.parse("memory_bytes<1"))
