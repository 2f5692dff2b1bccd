"""A job in a process's hands: when it is another's by now, and what hung before and is given up."""

import pytest
import sqlalchemy as sa

from nas import watchdog
from nas.config import checked_config
from nas.errors import ConflictError, JobFailedError
from nas.job_run import attempt
from nas.measuring import subnets
from nas.measuring.requests import WORN_OUT
from nas.progress import Silent
from nas.store import HUNG, NewEvent, Store
from nas.store import tables as t
from nas.watchdog import HungError
from search_spaces import SearchSpace
from tests import made_device

DEVICE = {"backend": made_device.BACKEND, "batch": 2}
CONFIG = checked_config({"devices": {"it": DEVICE}, "predictor": {"rounds": 2, "max_rounds": 2}}, where="x")


@pytest.mark.parametrize("asked", [False, True])
def test_a_job_that_another_process_has_taken_over_has_not_stopped(store: Store, asked: bool) -> None:
    job = store.create_job("job", config={}, seed=0, provenance={})
    other = "elsewhere:1:0.00:x"

    def taken_over() -> None:
        with attempt(store, job, CONFIG, Silent()) as run:
            with store.write() as connection:
                connection.execute(sa.update(t.jobs).values(owner=other))
            if asked:
                run.stop.set()
                assert run.lease.stop_requested()
            run.check_stop()

    with pytest.raises(ConflictError, match="another one has taken the job over"):
        taken_over()
    with store.read() as connection:
        assert connection.scalar(sa.select(t.jobs.c.owner)) == other
    assert store.job("job").state == "running"


def test_a_job_that_was_asked_to_stop_has_stopped(store: Store) -> None:
    job = store.create_job("job", config={}, seed=0, provenance={})

    def stopped() -> None:
        with attempt(store, job, CONFIG, Silent()) as run:
            run.stop.set()
            run.check_stop()

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert store.job("job").state == "stopped"


def test_over_what_a_process_hung_for_good_is_noted_with_its_device(store: Store) -> None:
    job = store.create_job("job", config={}, seed=0, provenance={})
    noted: list[object] = []
    for about in ({"subnet": "x", "device_id": 1}, {"subnet": "a layer"}):
        with attempt(store, job, CONFIG, Silent()):
            assert watchdog._watchdog is not None
            watchdog._watchdog._last_words(HungError("It hung.", "", about))
        noted = [event.data for event in store.events(job, HUNG)]
        found = store.job("job")
        assert (found.state, found.error) == ("failed", "It hung.")
    assert noted == [{"subnet": "x", "device_id": 1}]


def test_what_processes_hung_over_for_good_is_a_failure_and_is_not_tried_again(
    store: Store, tiny: SearchSpace
) -> None:
    job = store.create_job("job", config={}, seed=0, provenance={})
    first, second, third = tiny.decode(tiny.all_codes()[:3])
    with attempt(store, job, CONFIG, Silent()) as run:
        device = subnets.build_device(run, "it")
        row = store.register_device("it", device.fingerprint())
        tries = {first.key: 3, second.key: 2}
        for key, count in tries.items():
            store.add_events(
                run.lease, [NewEvent(HUNG, {"subnet": key, "device_id": row.id}) for _ in range(count)]
            )
        store.add_events(run.lease, [NewEvent(HUNG, {"subnet": third.key, "device_id": 999})] * 3)
        found = subnets.measure(run, tiny, device, row, [first, second, third], purpose="sample")
        assert list(found) == [second, third]
        (failed,) = store.failures(job)
        assert (failed.subnet.key, failed.result.reason) == (first.key, WORN_OUT)
        run.failed.clear()
        subnets.measure(run, tiny, device, row, [first], purpose="finalist")
        assert [m.subnet.key for m in store.failures(job)] == [first.key] * 2
    assert issubclass(HungError, JobFailedError)
