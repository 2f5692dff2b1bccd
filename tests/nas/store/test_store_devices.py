import subprocess
import sys

import pytest
import sqlalchemy as sa

from nas.errors import ConflictError
from nas.store import Store, changes, devices, leases
from nas.store import tables as t
from search_spaces.errors import NotFoundError, UsageError

OPTIONS = {"backend": "torch_cpu", "threads": 1}
PI = {"cpu": "pi", "threads": 1}
BREATHES = """
import sys, time
from nas.store import Store
store = Store.open(sys.argv[1])
agent = store.acquire_agent("pi", {"cpu": "pi", "threads": 1}, {"backend": "torch_cpu"})
store.take_request(agent)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def store_url(any_url):
    return any_url


@pytest.fixture
def store(store_url):
    with Store.open(store_url) as opened:
        yield opened


def expire(store, table):
    with store.write() as connection:
        connection.execute(sa.update(table).values(lease_until=1.0))


def killed_holder(store_url):
    """A process that was killed while it held the agent 'pi' and a request."""
    process = subprocess.Popen([sys.executable, "-c", BREATHES, store_url], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_device_is_its_fingerprint(store):
    first = store.register_device("cpu", {"threads": 2, "torch": "2"})
    assert store.register_device("other", {"torch": "2", "threads": 2}) == first
    second = store.register_device("cpu", {"threads": 4, "torch": "2"})
    assert store.devices() == [first, second]
    assert len(first.digest) == 64
    assert (first.options, first.reference_ms) == (None, None)


def test_options_name_a_device_that_had_none_and_no_other(store):
    job_s = store.register_device("cpu", {"threads": 2})
    named = store.register_device("lab", {"threads": 2}, OPTIONS)
    assert (named.id, named.name, named.options) == (job_s.id, "lab", OPTIONS)
    assert store.register_device("again", {"threads": 2}, {"backend": "x"}) == named
    assert store.register_device("cpu", {"threads": 2}) == named
    assert store.device("lab") == named


def test_of_devices_of_one_name_the_last_counts_and_unknown_names_are_told(store):
    for threads in (1, 2):
        store.register_device("lab", {"threads": threads}, OPTIONS | {"threads": threads})
    store.register_device("nameless", {"threads": 8})
    assert store.device("lab").options["threads"] == 2
    for name in ("labb", "nameless"):
        with pytest.raises(NotFoundError, match=f"No device '{name}' is registered") as caught:
            store.device(name)
        assert "lab" in caught.value.hint


def test_a_device_that_is_registered_again_is_what_its_name_stands_for(store, monkeypatch):
    old, new = {"threads": 1}, {"threads": 2}
    first = store.register_device("lab", old, OPTIONS)
    second = store.register_device("lab", new, OPTIONS | {"threads": 2})
    assert store.device("lab") == second
    monkeypatch.setattr(devices, "now", lambda: first.created_at)  # a host whose clock is behind
    again = store.register_device("lab", old, OPTIONS | {"batch": 4})
    assert (again.id, again.options) == (first.id, OPTIONS | {"batch": 4})
    assert store.device("lab") == again
    assert store.register_device("lab", new) == second
    assert store.device("lab") == store.register_device("lab", old, OPTIONS) == again
    assert (
        store.register_device("lab", new, OPTIONS | {"threads": 2}).id == store.device("lab").id == second.id
    )
    store.register_device("cpu", {"threads": 3})
    assert store.register_device("lab", {"threads": 3}, OPTIONS) == store.device("lab")


def test_the_reference_is_set_once(store):
    device = store.register_device("lab", PI)
    assert store.reference(device.id) is None
    assert store.set_reference(device.id, 2.5) == 2.5
    assert store.set_reference(device.id, 9.0) == 2.5
    assert store.reference(device.id) == store.devices()[0].reference_ms == 2.5
    assert store.set_reference(device.id, 3.0, replace=True) == store.reference(device.id) == 3.0


def test_an_agent_is_live_while_it_is_held_and_seen_afterwards(store):
    assert (store.agents(), store.agent("pi")) == ([], None)
    with store.acquire_agent("pi", PI, OPTIONS):
        agent = store.agent("pi")
        assert (agent.live, agent.device.name, agent.device.options) == (True, "pi", OPTIONS)
        with pytest.raises(ConflictError, match=r"agent 'pi' runs already \(pid"):
            store.acquire_agent("pi", PI, OPTIONS, replace=True)
        with store.acquire_agent("other", PI, OPTIONS):
            assert [found.name for found in store.agents()] == ["other", "pi"]
    after = store.agent("pi")
    assert not after.live
    assert after.last_seen >= agent.last_seen
    with store.acquire_agent("pi", PI, OPTIONS):
        assert store.agent("pi").live
    with pytest.raises(UsageError, match="cannot be the name of a agent"):
        store.acquire_agent("\n", PI, OPTIONS)


def test_an_agent_that_stood_for_another_device_says_what_changed(store):
    with store.acquire_agent("pi", PI, OPTIONS):
        pass
    with pytest.raises(ConflictError, match="threads was 1 and is 2") as caught:
        store.acquire_agent("pi", PI | {"threads": 2, "os": "x"}, OPTIONS)
    assert "--replace" in caught.value.hint
    assert len(store.devices()) == 1
    with store.acquire_agent("pi", PI | {"threads": 2}, OPTIONS, replace=True) as lease:
        assert lease.agent.device.fingerprint["threads"] == 2
        assert store.agent("pi").device == lease.agent.device


def test_an_agent_whose_lease_was_taken_notices(store):
    lease = store.acquire_agent("pi", PI, OPTIONS)
    expire(store, t.agents)
    assert not store.agent("pi").live
    with store.acquire_agent("pi", PI, OPTIONS):
        with pytest.raises(ConflictError, match="taken over the name of agent 'pi'"), lease.write():
            pass
        with pytest.raises(ConflictError, match="taken over"):
            lease.check_held()


def test_requests_are_taken_in_their_order_by_their_agent_alone(store, lease):
    first, second = (store.add_request(lease, "pi", {"n": n}) for n in (1, 2))
    store.add_request(lease, "other", {"n": 3})
    assert (first.state, first.attempt, first.live, first.result) == ("queued", 0, False, None)
    with store.acquire_agent("pi", PI, OPTIONS) as agent:
        with store.take_request(agent) as taken:
            assert taken.request.payload == {"n": 1}
            now = store.request(first.id)
            assert (now.state, now.attempt, now.live) == ("running", 1, True)
            with store.take_request(agent) as other:
                assert other.request.id == second.id
                assert store.take_request(agent) is None
                other.fail("no such operator")
            taken.finish({"a": 1.5})
        done, failed, waiting = store.requests(lease.job)
    assert (done.state, done.result, done.live) == ("done", {"a": 1.5}, False)
    assert done.finished_at >= done.created_at
    assert (failed.state, failed.error) == ("failed", "no such operator")
    assert waiting.state == "queued"


@pytest.mark.parametrize(
    ("error", "state", "told"),
    [
        (None, "queued", None),
        (KeyboardInterrupt(), "queued", None),
        (UsageError("No such space."), "failed", "No such space."),
        (RuntimeError("boom"), "failed", "RuntimeError: boom"),
    ],
)
def test_a_request_that_is_left_goes_back_and_fails_after_an_error(store, lease, error, state, told):
    request = store.add_request(lease, "pi", {})

    def leave():
        with store.take_request(agent):
            if error:
                raise error

    with store.acquire_agent("pi", PI, OPTIONS) as agent:
        if error:
            with pytest.raises(type(error)):
                leave()
        else:
            leave()
    now = store.request(request.id)
    assert (now.state, now.error, now.live) == (state, told, False)
    assert now.attempt == (0 if state == "queued" else 1)


def test_a_late_agent_is_fenced(store, lease):
    request = store.add_request(lease, "pi", {})
    with store.acquire_agent("pi", PI, OPTIONS) as agent:
        late = store.take_request(agent)
        expire(store, t.requests)
        with store.take_request(agent) as taken:
            assert (taken.request.id, taken.request.attempt) == (request.id, 2)
            for write in (
                lambda: late.finish({"late": 1}),
                lambda: late.fail("x"),
                late.give_back,
                late.check,
            ):
                with pytest.raises(ConflictError, match="cancelled, or another agent"):
                    write()
            taken.finish({"right": 1})
    assert store.request(request.id).result == {"right": 1}


def test_a_cancelled_request_takes_no_result_and_an_answered_one_stays(store, lease):
    first, second = (store.add_request(lease, "pi", {"n": n}) for n in (1, 2))
    with store.acquire_agent("pi", PI, OPTIONS) as agent:
        taken = store.take_request(agent)
        store.cancel_request(lease, first)
        with pytest.raises(ConflictError):
            taken.finish({})
        with store.take_request(agent) as other:
            other.finish({})
        store.cancel_request(lease, second)
        assert store.take_request(agent) is None
    assert [request.state for request in store.requests(lease.job)] == ["cancelled", "done"]


def test_a_request_of_a_dead_agent_is_taken_up_and_given_up_after_three(store, lease, store_url):
    request = store.add_request(lease, "pi", {})
    for attempt in (1, 2, 3):
        killed_holder(store_url)
        now = store.request(request.id)
        assert (now.state, now.live, now.attempt) == ("running", False, attempt)
        assert not store.agent("pi").live
    with store.acquire_agent("pi", PI, OPTIONS) as agent:
        assert store.take_request(agent) is None
    now = store.request(request.id)
    assert (now.state, now.error) == ("failed", "3 processes of agent 'pi' ended while they measured it")


def test_both_kinds_of_lease_beat(store, lease, monkeypatch):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.01)
    store.add_request(lease, "pi", {})
    with store.acquire_agent("pi", PI, OPTIONS) as agent, store.take_request(agent) as taken:
        expire(store, t.agents)
        expire(store, t.requests)
        taken._ended.wait(0.3)
        assert store.agent("pi").live
        assert store.request(taken.request.id).live


NOW = {"backend": "torch_cpu", "cpu": "x", "threads": 1, "clock": {"governor": "performance"}}
NOW |= {"allocator": {"policy": "keep", "environment": {}}}


@pytest.mark.parametrize(
    "before",
    [
        {"backend": "torch_cpu", "cpu": "x", "threads": 1, "malloc": {}},
        NOW | {"clock": None},
        NOW | {"clock": {}},
        NOW | {"allocator": {"policy": "keep"}},
    ],
)
def test_a_device_of_another_version_is_found_again_and_what_is_known_of_it_grows(store, before):
    first = store.register_device("cpu", before)
    again = store.register_device("cpu", NOW)
    assert (again.id, again.digest) == (first.id, first.digest)
    assert again.fingerprint == {**before, **NOW}
    assert store.register_device("cpu", before).id == first.id
    assert store.register_device("cpu", NOW).id == first.id
    # What both know now tells devices apart that the first version could not.
    other = NOW | {"allocator": {"policy": "system", "environment": {}}}
    assert store.register_device("other", other).id != first.id
    assert store.register_device("cpu", NOW).id == first.id


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("threads", 2, "threads was 1 and is 2"),
        ("clock", {"governor": "powersave"}, "clock was {'governor': 'performance'} and is"),
        ("allocator", {"policy": "keep", "environment": {"MALLOC_X": "1"}}, "allocator was"),
        ("backend", "openvino_cpu", "backend was"),
    ],
)
def test_what_both_know_and_differs_is_another_device(store, field, value, words):
    other = NOW | {field: value}
    assert words in changes(NOW, other)
    assert store.register_device("cpu", NOW).id != store.register_device("other", other).id


def test_an_agent_of_another_version_is_the_same(store):
    old = {"backend": "torch_cpu", "cpu": "x", "threads": 1}
    with store.acquire_agent("pi", old, OPTIONS) as lease:
        device = lease.agent.device
    with store.acquire_agent("pi", NOW, OPTIONS) as lease:
        assert lease.agent.device.id == device.id
