"""Two jobs at once that need the same supernet: one trains, the other waits, and takes over at need.

Half of the tests on each kind of store; the transactions behind them are tested on both.
"""

import json
import signal
import subprocess
from collections.abc import Callable

import pytest
from nas_process import SERVER, TOTAL, LockedError, Place, ended, kill_group, trained_to, wait_for
from outcomes import outcome

TRAINED = "SELECT steps, state, trainer FROM supernets"


def waits(place: Place) -> Callable[[], object]:
    """Whether the second job has said that it waits."""
    told = "SELECT 1 FROM events WHERE job_id = 2 AND kind = 'log' AND CAST(data AS TEXT) LIKE '%it waits%'"
    return lambda: place.query(told)


def stopped(place: Place, process: "subprocess.Popen[str]") -> None:
    """Holds the training up until the second job has come, however slow it is; outside of a transaction."""
    while True:
        process.send_signal(signal.SIGSTOP)
        try:
            place.change("UPDATE supernets SET lease_until = lease_until + 600")
        except LockedError:
            process.send_signal(signal.SIGCONT)
        else:
            return


@pytest.mark.slow
def test_two_jobs_at_once_train_once(place: Place, finished: Place) -> None:
    first = place.start("train", "job.yaml", "--name", "a")
    wait_for(first, trained_to(place, 20))
    stopped(place, first)
    second = place.start("run", "job.yaml", "--name", "b", "--set", "constraints=[params<=9000]")
    wait_for(second, waits(place))
    first.send_signal(signal.SIGCONT)
    assert ended(first).code == 0
    ran = ended(second)
    assert (ran.code, ran.errors) == (0, [])
    assert place.query(TRAINED) == [(60, "trained", "a")]
    assert "Supernet 'a', trained by job 'a', is reused" in ran.err
    assert place.query("SELECT DISTINCT job_id FROM events WHERE kind = 'train'") == [(1,)]
    assert outcome(place).weights == outcome(finished).weights
    refused = place.nas("supernets", "rm", "a")
    assert (refused.code, len(refused.errors)) == (4, 1)
    assert place.nas("rm", "a").code == 0
    assert json.loads(place.nas("front", "b", "--json").out)["front"]
    assert place.nas("db", "check").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("place", [SERVER], indirect=True)
def test_who_waits_goes_on_from_the_checkpoint_of_one_that_was_killed(place: Place, finished: Place) -> None:
    first = place.start("run", "job.yaml", "--name", "a")
    wait_for(first, trained_to(place, 20))
    stopped(place, first)
    second = place.start("run", "job.yaml", "--name", "b")
    wait_for(second, waits(place))
    assert kill_group(first).code == -signal.SIGKILL
    ran = ended(second)
    assert (ran.code, ran.errors) == (0, [])
    assert place.query(TRAINED) == [(60, "trained", "b")]
    assert outcome(place).weights == outcome(finished).weights
    steps = "SELECT min(step) FROM events WHERE kind = 'train' AND job_id = 2"
    assert place.query(steps)[0][0] > 20
    shown = json.loads(place.nas("supernets", "show", "a", "--json").out)
    assert [point["step"] for point in shown["curve"]][-1] == 60
    assert shown["jobs"] == ["a", "b"]
    resumed = place.nas("resume", "a")
    assert (resumed.code, resumed.errors) == (0, [])
    assert "Supernet 'a', trained by job 'b', is reused" in resumed.err
    columns = "e.job_id, s.key, e.value FROM evaluations e JOIN subnets s ON s.id = e.subnet_id"
    rows = place.query(f"SELECT {columns} WHERE split = 'search' ORDER BY position")
    by_job = [[row[1:] for row in rows if row[0] == number] for number in (1, 2)]
    assert by_job[0] == by_job[1]
    assert place.query(
        "SELECT count(*) FROM evaluations WHERE job_id = 1 AND split = 'search' AND reused"
    ) == [(20,)]


def evaluated(place: Place, job: int, batches: int) -> Callable[[], object]:
    """Whether the job has stored so many batches of its search."""
    rows = f"job_id = {job} AND split = 'search' AND batch >= {batches - 1}"
    return lambda: place.query(f"SELECT 1 FROM evaluations WHERE {rows}")


def searched_by(place: Place, job: int) -> list[tuple[object, ...]]:
    """What the job's search has evaluated, in its order, and whether it was found."""
    columns = "s.key, e.batch, e.position, e.value, e.stderr, e.reused"
    tables = "evaluations e JOIN subnets s ON s.id = e.subnet_id"
    order = f"WHERE e.job_id = {job} AND split = 'search' ORDER BY position"
    return place.query(f"SELECT {columns} FROM {tables} {order}")


@pytest.mark.slow
def test_what_was_found_before_a_kill_and_after_it_is_the_same(copy: Place) -> None:
    place = copy
    second = place.start("run", "job.yaml", "--name", "b")
    wait_for(second, evaluated(place, 2, 3))
    assert kill_group(second).code == -signal.SIGKILL
    before = searched_by(place, 2)
    assert 0 < len(before) < TOTAL
    resumed = place.nas("resume", "b")
    assert (resumed.code, resumed.errors) == (0, [])
    after = searched_by(place, 2)
    assert after[: len(before)] == before
    assert [row[:-1] for row in after] == [row[:-1] for row in searched_by(place, 1)]
    assert all(row[-1] for row in after)


@pytest.mark.slow
@pytest.mark.parametrize("copy", [SERVER], indirect=True)
def test_a_trainer_is_deleted_while_another_job_searches_its_supernet(copy: Place) -> None:
    place = copy
    second = place.start("run", "job.yaml", "--name", "b", "--set", "search.seed=1")
    wait_for(second, evaluated(place, 2, 1))
    for words in (("supernets", "rm", "1"), ("rm", "b")):
        refused = place.nas(*words)
        assert (refused.code, len(refused.errors)) == (4, 1)
    assert place.nas("rm", "1").code == 0
    ran = ended(second)
    assert (ran.code, ran.errors) == (0, [])
    assert json.loads(place.nas("front", "b", "--json").out)["front"]
    assert place.nas("db", "check").code == 0
    assert place.nas("rm", "b").code == 0
    assert json.loads(place.nas("supernets", "--json").out) == []
    assert not list(place.artifacts.parent.glob("*/*"))
