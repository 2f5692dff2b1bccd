"""What `nas` offers to Python beside the verbs that ask finished jobs."""

import pytest
from made_evaluations import evaluated_job
from made_fronts import POINTS, add_job

import nas
from nas.store import Store
from search_spaces.errors import NotFoundError


def test_a_handle_of_a_job_that_is_there(store: Store, store_url: str) -> None:
    add_job(store, "a")
    with nas.job("a", store=store_url).store as opened:
        assert [member.subnet for member in nas.job(1, store=opened).front().members] == [
            "a0",
            "a1",
            "a2",
            "a3",
        ]
    with pytest.raises(NotFoundError):
        nas.job("nobody", store=store_url)


def test_handles_of_two_jobs(store: Store) -> None:
    add_job(store, "a")
    add_job(store, "b", points=[(ms, quality - 0.1, 0.5) for ms, quality, _ in POINTS])
    one, other = nas.job("a", store=store), nas.job("b", store=store)
    assert {member.job for member in one.front(other).members} == {"a"}
    assert [front.beaten.value for front in one.compare(other).fronts] == [0.0, 1.0]


def test_a_handle_judges_and_explains(store: Store) -> None:
    add_job(store, "a")
    assert nas.job("a", store=store).gate(["accuracy>=90%"]).passed
    job = evaluated_job(store, "made")
    one, other, *_ = (row.key for row in store.subnets(job))
    explained = nas.job("made", store=store).explain(one, other)
    assert (explained.subnet.key, explained.other and explained.other.key) == (one, other)


def test_a_handle_asks_what_if(store: Store) -> None:
    evaluated_job(store, "made")
    foretold = nas.job("made", store=store).what_if(limits=["params<=20e3"], objectives=["accuracy", "macs"])
    assert all(member.costs["params"] <= 20e3 for member in foretold.members)
