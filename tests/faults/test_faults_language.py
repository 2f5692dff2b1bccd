"""kill -9 of a job on text, in its training and in its raced search: it ends as it would have, to the bit."""

import os
import signal
from pathlib import Path

import pytest
from nas_process import Place, ended, kill_group, make_place, searched, trained_to, wait_for
from outcomes import assert_kept, assert_once, outcome, rows

ROOT = Path(__file__).parents[2]
FAMILY = "tests.nas.tiny_language"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "NAS_COMPONENTS": FAMILY}
JOB = f"""\
data: {{name: python_docs, documents: 60, context: 32}}
supernet: {{family: {FAMILY}}}
train: {{steps: 120, batch_size: 16, checkpoint_every: 20, threads: 1}}
devices: {{cpu: {{batch: 8}}}}
objectives: [bits_per_byte, params]
predictor: {{samples: 10, rounds: 2, max_rounds: 3}}
search: {{evaluations: 10, batch: 2, finalists: 3, searcher: random, racing: 0.1}}
execution: {{workers: 1}}
"""


@pytest.fixture(scope="module")
def undisturbed(_session_home: None, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The job that nothing disturbed."""
    place = make_place(tmp_path_factory.mktemp("undisturbed"), JOB)
    ran = place.nas("run", "job.yaml", env=ENVIRONMENT)
    assert ran.code == 0, ran.err
    return place


def losses(place: Place) -> list[tuple[object, ...]]:
    """The stored scores of every subnet, byte for byte."""
    columns = "s.key, h.split, h.count, h.bits"
    return place.query(f"SELECT {columns} FROM hits h JOIN subnets s ON s.id = h.subnet_id ORDER BY 1, 2")


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_killed_in_the_training_and_in_the_search(undisturbed: Place, tmp_path: Path) -> None:
    place = make_place(tmp_path / "killed", JOB)
    reached = ((("run", "job.yaml"), trained_to(place, 20)), (("resume", "1"), searched(place, 2)))
    for words, so_far in reached:
        before = rows(place)
        process = place.start(*words, env=ENVIRONMENT)
        wait_for(process, so_far)
        assert kill_group(process).code == -signal.SIGKILL
        assert place.state() == ("running", None)
        assert_kept(before, place)
    before = rows(place)
    ran = ended(place.start("resume", "1", env=ENVIRONMENT))
    assert (ran.code, ran.errors) == (0, [])
    assert_kept(before, place)
    assert_once(place)
    whole, resumed = outcome(undisturbed), outcome(place)
    assert (resumed.search, resumed.report) == (whole.search, whole.report)
    assert resumed.hypervolume == whole.hypervolume
    assert resumed.training == whole.training
    assert sorted(resumed.weights) == sorted(whole.weights)
    assert losses(place) == losses(undisturbed)
    counts = {count for _, split, count, _ in losses(place) if split == "search"}
    assert len(counts) > 1, "a race stops some early"
