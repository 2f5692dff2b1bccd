"""kill -9 at many moments: `nas resume` goes on, loses nothing, repeats nothing, and ends the same.

On a server at fewer moments; what happens to files, which both kinds of store keep in a folder, on SQLite.
"""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from nas_process import (
    SERVER,
    SLOWLY,
    SQLITE,
    Place,
    ended,
    kill_group,
    make_place,
    searched,
    stage_begun,
    trained_to,
    wait_for,
    workers,
)
from outcomes import assert_kept, assert_once, outcome, rows

Reached = Callable[[], object]


def killed(place: Place, reached: Reached, *words: str) -> None:
    """Starts `nas`, kills it and its children when `reached` holds; checks what was there before."""
    before = rows(place)
    process = place.start(*words)
    wait_for(process, reached)
    assert kill_group(process).code == -signal.SIGKILL
    assert place.state() == ("running", None)
    assert_kept(before, place)


@pytest.fixture(scope="session")
def killed_in_training(_session_home: None, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A job that was killed when it had two checkpoints or three; only to be copied."""
    place = make_place(tmp_path_factory.mktemp("killed"))
    killed(place, trained_to(place, 40), "run", "job.yaml")
    return place


@pytest.mark.slow
def test_killed_in_training_and_search_and_a_worker_alone(
    finished: Place, killed_in_training: Place, tmp_path: Path
) -> None:
    place = killed_in_training.copied_to(tmp_path / "copy")
    killed(place, searched(place, 2), "resume", "job")
    before = rows(place)
    process = place.start("resume", "1")
    wait_for(process, searched(place, 4))
    for worker in workers(process):
        worker.kill()
    ran = ended(process)
    assert (ran.code, ran.errors, "Traceback" in ran.err) == (0, [], False)
    assert place.state() == ("succeeded", None)
    assert_kept(before, place)
    assert_once(place)
    assert outcome(place) == outcome(finished)


@pytest.mark.spoils
def test_damaged_checkpoints_are_told_and_left_out(killed_in_training: Place, tmp_path: Path) -> None:
    place = killed_in_training.copied_to(tmp_path / "copy")
    *others, newest = sorted(place.artifacts.glob("checkpoint-*"))
    newest.write_bytes(newest.read_bytes()[:-1])
    for older in others:
        flip_a_bit(older)
    (place.artifacts / ".partial-1234.safetensors").write_bytes(b"half of a file")
    (place.artifacts / "checkpoint-00000050.safetensors").write_bytes(b"a file whose row never came")
    ((last,),) = place.query("SELECT max(id) FROM artifacts")
    process = place.start("resume", "job")
    wait_for(process, lambda: place.query(f"SELECT 1 FROM artifacts WHERE id > {last}"))
    warnings = [line for line in kill_group(process).err.splitlines() if line.startswith("Warning: ")]
    assert len(warnings) == len(others) + 1
    assert newest.name in warnings[0]
    assert "was cut" in warnings[0]
    assert all("SHA-256" in line for line in warnings[1:])
    assert not list(place.artifacts.glob(".partial-1234*"))
    assert not (place.artifacts / "checkpoint-00000050.safetensors").exists()


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 8
    file.write_bytes(content)


@pytest.mark.parametrize("copy", [SQLITE, SLOWLY], indirect=True)
def test_a_crash_before_every_stage_was_noted_as_done_repeats_nothing(copy: Place) -> None:
    before = {name: found for name, found in rows(copy).items() if name != "stages"}
    files = "SELECT * FROM artifacts WHERE kind != 'root'"
    weights = copy.query(files)
    copy.change(
        "UPDATE jobs SET state = 'running', finished_at = NULL",
        "UPDATE stages SET state = 'running', finished_at = NULL, result = NULL WHERE name != 'space'",
        "DELETE FROM events WHERE kind = 'hypervolume' AND step = 20",
    )
    before["events"] = rows(copy)["events"]
    ran = copy.nas("resume", "job")
    assert (ran.code, ran.errors) == (0, [])
    assert copy.query(files) == weights
    assert_kept(before, copy)
    assert rows(copy)["evaluations"] == before["evaluations"]
    assert rows(copy)["measurements"] == before["measurements"]
    assert copy.query("SELECT step FROM events WHERE kind = 'hypervolume' ORDER BY step")[-1] == (20,)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("place", [SQLITE, SERVER], indirect=True)
def test_killed_at_many_moments(finished: Place, place: Place) -> None:
    moments: list[Reached] = [
        stage_begun(place, "latency"),
        stage_begun(place, "train"),
        lambda: place.query("SELECT 1 FROM events WHERE kind = 'train' AND step >= 50"),
        stage_begun(place, "search"),
        searched(place, 5),
        stage_begun(place, "finalists"),
    ]
    if place.database is not None:
        moments = [moments[2], moments[4]]
    words = ("run", "job.yaml")
    for reached in moments:
        killed(place, reached, *words)
        words = ("resume", "job")
    before = rows(place)
    ran = place.nas(*words)
    assert (ran.code, ran.errors) == (0, [])
    assert place.query("SELECT attempt FROM jobs") == [(len(moments) + 1,)]
    assert_kept(before, place)
    assert_once(place)
    assert outcome(place) == outcome(finished)


@pytest.mark.slow
def test_the_service_killed_alone_leaves_no_worker(place: Place) -> None:
    process = place.start("run", "job.yaml")
    wait_for(process, searched(place, 1))
    assert workers(process)
    process.kill()
    assert ended(process).code == -signal.SIGKILL


@pytest.mark.slow
def test_a_missing_checkpoint(finished: Place, killed_in_training: Place, tmp_path: Path) -> None:
    place = killed_in_training.copied_to(tmp_path / "copy")
    newest = max(place.artifacts.glob("checkpoint-*"))
    newest.unlink()
    ran = place.nas("resume", "job")
    assert (ran.code, ran.errors, ran.err.count("Warning: ")) == (0, [], 1)
    assert f"{newest.name}' is missing" in ran.err
    assert outcome(place) == outcome(finished)
    assert place.nas("db", "check").code == 0
