"""kill -9 of a job with several supernets, in a training and in the search: it ends as it would have.

The one that is killed is on a server, the one that is not on SQLite: not even the kind of store can be told.
"""

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from nas_process import Place, ended, kill_group, make_place, searched, wait_for
from outcomes import assert_kept, assert_once, outcome, rows

if TYPE_CHECKING:
    from benchmarks.postgresql_server import Server

JOB = """\
data: digits
supernets:
  - {family: matformer, space: {embed_dim: [8, 16], depth: [1, 2], num_heads: [1, 2], mlp_ratio: [1, 2]}}
  - {family: autoformer, space: {embed_dim: [8, 16], depth: [1, 2], num_heads: [1, 2], mlp_ratio: [1, 2]}}
train: {steps: 60, batch_size: 32, checkpoint_every: 20, threads: 1}
devices: {cpu: {batch: 8}}
objectives: [accuracy, params]
predictor: {samples: 14, rounds: 2, max_rounds: 3}
search: {evaluations: 20, batch: 2, finalists: 6}
execution: {workers: 1}
"""


@pytest.fixture(scope="module")
def undisturbed(_session_home: None, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The job that nothing disturbed."""
    place = make_place(tmp_path_factory.mktemp("undisturbed"), JOB)
    ran = place.nas("run", "job.yaml")
    assert ran.code == 0, ran.err
    return place


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_killed_in_the_second_training_and_in_the_search(
    undisturbed: Place, tmp_path: Path, postgresql: "Server"
) -> None:
    place = make_place(tmp_path / "killed", JOB, server=postgresql)

    def in_second_training() -> object:
        return place.query("SELECT 1 FROM events WHERE stage = 'train:autoformer' AND step >= 20")

    for words, reached in ((("run", "job.yaml"), in_second_training), (("resume", "1"), searched(place, 3))):
        before = rows(place)
        process = place.start(*words)
        wait_for(process, reached)
        assert kill_group(process).code == -signal.SIGKILL
        assert place.state() == ("running", None)
        assert_kept(before, place)
    before = rows(place)
    ran = ended(place.start("resume", "1"))
    assert (ran.code, ran.errors) == (0, [])
    assert_kept(before, place)
    assert_once(place)
    whole, resumed = outcome(undisturbed), outcome(place)
    assert (resumed.search, resumed.report) == (whole.search, whole.report)
    assert resumed.hypervolume == whole.hypervolume
    assert sorted(resumed.weights) == sorted(whole.weights)
    assert sorted(resumed.training) == sorted(whole.training)
    assert len({key for _, _, key, *_ in whole.search}) == 20
