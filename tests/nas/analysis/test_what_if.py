"""Another question foretold, in stores whose qualities and latencies are known functions of the choices."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import pytest
from made_evaluations import SPACE, evaluated_job, milliseconds, truth

from nas.analysis import candidates
from nas.analysis.expected_gain import Gain
from nas.analysis.what_if import WhatIf, follow_up, question, what_if
from nas.errors import ConflictError
from nas.store import Job, NewSupernet, Store
from predictors.latency import flops
from search_spaces.errors import NotFoundError, UsageError
from search_spaces.space import Codes

ALL = SPACE.size
BY_PARAMS = ("accuracy", "params")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a store with job `some`, of which 80 subnets are evaluated, and `all`, of which all are."""
    url = f"sqlite:///{tmp_path_factory.mktemp('asked') / 'store.sqlite'}"
    with Store.open(url) as store:
        evaluated_job(store, "some")
        evaluated_job(store, "all", count=20 * ALL)
    return url


def asked(url: str, name: str, **question: Any) -> WhatIf:
    with Store.open(url, read_only=True) as store:
        return what_if(store, store.job(name), **question)


def codes_of(foretold: WhatIf) -> Codes:
    return SPACE.encode([SPACE.architecture(member.architecture) for member in foretold.members])


def true_front(codes: Codes, costs: Sequence[np.ndarray[Any, Any]]) -> set[tuple[float, ...]]:
    """What no other beats, as rounded true qualities and costs."""
    points = np.column_stack([-truth(codes), *costs])
    return set(map(tuple, np.round(points[moocore.is_nondominated(points)], 6).tolist()))


def test_evaluated_members_have_stored_values_and_others_none(url: str) -> None:
    foretold = asked(url, "some", objectives=BY_PARAMS, limits=["latency_ms<=2"])
    with Store.open(url, read_only=True) as store:
        stored = {e.subnet.key: e for e in store.evaluations(store.job("some"), "search")}
    assert {member.subnet in stored for member in foretold.members} == {True, False}
    for member in foretold.members:
        evaluation = stored.get(member.subnet)
        value, stderr = (evaluation.value, evaluation.stderr) if evaluation else (None, None)
        assert (member.evaluated, member.evaluated_stderr) == (value, stderr)
        assert 0 < member.quality_std < 0.01
    assert (foretold.evaluations, foretold.learned, foretold.sampled) == (80, 80, False)


def test_the_front_is_that_of_the_truth(url: str) -> None:
    foretold = asked(url, "some", objectives=BY_PARAMS, limits=["latency_ms<=2"])
    everything = SPACE.all_codes()
    within = everything[milliseconds(everything) <= 2]
    assert foretold.candidates == len(within)
    codes = codes_of(foretold)
    assert (milliseconds(codes) <= 2).all()
    np.testing.assert_allclose([m.quality for m in foretold.members], truth(codes), atol=0.01)
    assert [m.costs["params"] for m in foretold.members] == SPACE.costs(codes)["params"].tolist()
    np.testing.assert_allclose(
        [m.costs["latency_ms"] for m in foretold.members], milliseconds(codes), atol=0.01
    )
    # Every step of the true front is there: its quality at no more than its params.
    for loss, params in true_front(within, [SPACE.costs(within)["params"]]):
        nearby = (truth(codes) >= -loss - 1e-6) & (SPACE.costs(codes)["params"] <= params)
        assert nearby.any()


def test_where_all_is_evaluated_nothing_is_left_to_gain(url: str) -> None:
    foretold = asked(url, "all", objectives=BY_PARAMS)
    assert (foretold.within, foretold.candidates) == (ALL, ALL)
    assert foretold.gains == (Gain(0, 0.0, 0.0),)
    assert foretold.hypervolume == foretold.foretold
    assert all(member.evaluated is not None for member in foretold.members)


def test_the_gain_that_is_expected_is_the_one_that_there_is(url: str) -> None:
    some = asked(url, "some", objectives=BY_PARAMS, limits=["params<=60e3"])
    everything = asked(url, "all", objectives=BY_PARAMS, limits=["params<=60e3"])
    fifty, more = some.gains
    assert fifty.evaluations == 50 < more.evaluations <= 200
    assert 0 < fifty.gain <= more.gain + 3 * more.std
    gained = everything.hypervolume - some.hypervolume
    assert more.gain == pytest.approx(gained, abs=max(3 * more.std, 0.1 * gained))
    assert some.foretold == pytest.approx(everything.hypervolume, abs=0.005)


def test_the_same_store_foretells_the_same(url: str) -> None:
    one, other = (asked(url, "some", objectives=BY_PARAMS, limits=["latency_ms<=2"]) for _ in range(2))
    assert one == other
    assert json.loads(json.dumps(one.to_dict())) == one.to_dict()


def test_of_many_candidates_those_are_looked_at_that_may_be_on_the_front(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = asked(url, "some", objectives=BY_PARAMS)
    monkeypatch.setattr(candidates, "FEW", 200)
    assert [m.subnet for m in asked(url, "some", objectives=BY_PARAMS).members] == [
        m.subnet for m in exact.members
    ]


def test_of_a_large_space_a_sample_is_looked_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "MOST", 300)
    foretold = asked(url, "some", objectives=BY_PARAMS)
    assert foretold.sampled
    assert 80 < foretold.candidates < 380
    assert foretold == asked(url, "some", objectives=BY_PARAMS)
    # A limit that no sampled one keeps, but some do: those that come closest are moved.
    smallest = int(SPACE.costs(SPACE.encode([SPACE.smallest]))["params"][0])
    monkeypatch.setattr(candidates, "MOST", 1)
    assert asked(url, "some", limits=[f"params<={smallest}"]).candidates == 1


def test_of_very_many_evaluations_a_sample_teaches(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "MOST_LEARNED", 60)
    foretold = asked(url, "some", objectives=BY_PARAMS)
    assert (foretold.evaluations, foretold.learned) == (80, 60)
    np.testing.assert_allclose([m.quality for m in foretold.members], truth(codes_of(foretold)), atol=0.02)


def test_of_very_many_evaluations_the_best_for_their_size_are_looked_at(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = asked(url, "all", objectives=("accuracy", "macs"))
    monkeypatch.setattr(candidates, "MOST_LEARNED", 100)
    monkeypatch.setattr(candidates.evaluated_subnets, "__kwdefaults__", {"alone": False, "most": 200})
    foretold = asked(url, "all", objectives=("accuracy", "macs"))
    assert (foretold.evaluations, foretold.learned) == (ALL, 100)
    assert 200 <= foretold.within < 350
    assert foretold.hypervolume == pytest.approx(whole.hypervolume, abs=0.003)


def test_what_is_not_asked_is_the_jobs_own(store: Store) -> None:
    job = evaluated_job(store, "a")
    foretold = what_if(store, job)
    assert foretold.objectives == ("accuracy", "latency_ms")
    assert (foretold.limits, foretold.devices) == ((), ("cpu",))
    alone = what_if(store, job, objectives=["accuracy"])
    assert alone.members[0].quality == max(member.quality for member in alone.members)


def test_another_device_has_its_own_latencies(store: Store) -> None:
    job = evaluated_job(store, "a")
    codes = SPACE.all_codes()
    with store.acquire(job) as lease:
        phone = store.register_device("phone", {"host": "pocket"})
        fitted = flops.build(SPACE).fit(codes, 10 * milliseconds(codes))
        store.put_predictor(lease, device_id=phone.id, kind="flops", state=fitted.to_json(), score={})
        lease.finish("succeeded")
    foretold = what_if(store, job, device="phone", limits=["latency_ms<=20"])
    assert foretold.devices == ("phone",)
    assert foretold.candidates == int((10 * milliseconds(codes) <= 20).sum())
    found = codes_of(foretold)
    np.testing.assert_allclose(
        [m.costs["latency_ms"] for m in foretold.members], 10 * milliseconds(found), rtol=0.01
    )
    assert question(store, job, device="phone").devices["phone"].backend == "stored"


def using(store: Store, job: Job, key: str) -> Job:
    """The job, which uses the supernet with this key."""
    wanted = NewSupernet(f"net-{key}", key, {}, {}, {}, 1)
    with store.acquire(job) as lease:
        store.use_supernet(lease, wanted)
        lease.finish("succeeded")
    return job


def test_what_other_jobs_have_evaluated_with_the_same_supernet_counts(store: Store) -> None:
    few = using(store, evaluated_job(store, "few", count=20), "k")
    using(store, evaluated_job(store, "more", count=60), "k")
    using(store, evaluated_job(store, "other", count=70), "l")
    assert what_if(store, few).evaluations == len(
        {e.subnet.key for name in ("few", "more") for e in store.evaluations(store.job(name), "search")}
    )
    with pytest.raises(NotFoundError, match="has evaluated 5 subnets"):
        what_if(store, using(store, evaluated_job(store, "five", count=5), "m"))
    assert what_if(store, using(store, evaluated_job(store, "five-more", count=5), "k")).evaluations >= 60


def test_several_devices_keep_their_names(store: Store) -> None:
    job = evaluated_job(store, "a")
    config = question(store, job)
    assert question(store, job, ["latency_ms<=3"]).constraints == ("latency_ms<=3",)
    assert question(store, job, [], BY_PARAMS).objectives == BY_PARAMS
    assert config.objectives == ("accuracy", "latency_ms")


@pytest.mark.parametrize(
    ("asking", "error", "words"),
    [
        ({"limits": ["latency_ms<=0.1"]}, UsageError, r"keeps the limit 'latency_ms<=0.1': .* goes from"),
        ({"limits": ["params>=1e5", "macs<=2e5"]}, UsageError, "No subnet of space 'matformer' was found"),
        ({"limits": ["accuracy>=0.5"]}, UsageError, "not known before a subnet is evaluated"),
        ({"limits": ["speed<=5"]}, UsageError, "There is no quantity 'speed'"),
        ({"limits": ["peak_memory_bytes<=5"]}, UsageError, "Job 'some' cannot predict peak_memory_bytes"),
        ({"objectives": ["accuracy", "speed"]}, UsageError, "not 'speed'"),
        ({"objectives": ["accuracy", "peak_memory_bytes"]}, UsageError, "cannot predict peak_memory_bytes"),
        ({"objectives": ["params", "macs"]}, UsageError, "nothing has to be foretold"),
        ({"objectives": ["balanced_accuracy", "macs"]}, UsageError, "quality is accuracy"),
        ({"device": "pi"}, NotFoundError, "no latency predictor for 'pi'"),
    ],
)
def test_what_cannot_be_asked(url: str, asking: dict[str, Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words) as raised:
        asked(url, "some", **asking)
    assert "\n" not in raised.value.message


def test_jobs_that_cannot_be_asked(store: Store) -> None:
    with pytest.raises(NotFoundError, match="no latency predictor yet"):
        what_if(store, evaluated_job(store, "untimed", predictor=False))
    with pytest.raises(NotFoundError, match="has not begun"):
        what_if(store, evaluated_job(store, "new", space=False))
    job = evaluated_job(store, "training", count=3)
    with store.acquire(job) as lease:
        store.begin_stage(lease, "train", "key")
        lease.finish("stopped")
    with pytest.raises(NotFoundError, match="has evaluated 3 subnets and is at stage 'train'"):
        what_if(store, job)


def test_what_cannot_be_gone_on_with(store: Store, tmp_path: Path) -> None:
    job = evaluated_job(store, "a")
    with pytest.raises(UsageError, match="0 more evaluations are none"):
        follow_up(store, job, question(store, job), 0)
    with pytest.raises(ConflictError, match="has no front yet"):
        follow_up(store, job, question(store, job), 1)
    with store.acquire(job) as lease:
        store.begin_stage(lease, "finalists", "key")
        store.finish_stage(lease, "finalists", {})
        lease.finish("succeeded")
    with pytest.raises(NotFoundError, match="supernet of job 'a' is not in the store"):
        follow_up(store, job, question(store, job), 1)
