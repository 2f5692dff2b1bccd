"""Evaluating processes: what they return is what one would have computed, also when one of them dies."""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from evaluation_setup import made, wait_for_all
from same_process import evaluating_here

from nas import datasets
from nas.errors import JobFailedError
from nas.evaluation import EvaluationPool, Failed
from nas.evaluation.workers import BEGIN
from predictors.measurement.deadlines import Deadlines
from search_spaces import Architecture
from supernet.supernet import Supernet


def ignored(message: str) -> None:
    """Nobody died in these tests."""


def alone(net: Supernet, arch: Architecture, split: str, images: slice) -> list[bool]:
    ((x, labels),) = datasets.build("digits").batches(split, 1000, images)
    with torch.inference_mode():
        return (net.eval().extract(arch)(x).argmax(dim=1) == labels).tolist()


def test_the_pool_is_as_one_process_also_when_one_is_killed(tmp_path: Path):
    net, setup = made(tmp_path)
    archs = net.space.decode(net.space.all_codes())[::-9]
    warnings: list[str] = []
    with EvaluationPool(setup, workers=2, warn=warnings.append) as pool:
        for split, images in (("search", slice(30, 290)), ("report", slice(None))):
            rows = [hits.tolist() for hits in pool.scored(archs, split, images)]
            assert rows == [alone(net, arch, split, images) for arch in archs]
            assert len({sum(hits) for hits in rows}) > 1
        (one,), (same, *_) = pool.scored(archs[:1], "search"), pool.scored(archs, "search")
        assert len(one) == 300
        assert (one == same).all()
        assert warnings == []

        wait_for_all(pool)
        (victim,) = pool._workers[0]._pool._processes.values()
        os.kill(victim.pid, signal.SIGSTOP)  # so that it has a task when it dies
        threading.Timer(0.2, victim.kill).start()
        assert [hits.tolist() for hits in pool.scored(archs, "report")] == rows
        assert warnings == ["A worker process died while it evaluated subnets: another evaluates these."]


@pytest.mark.parametrize("siblings", [False, True])
def test_neither_the_number_of_processes_nor_what_they_remember_changes_anything(
    tmp_path: Path, siblings: bool
):
    net, setup = made(tmp_path, siblings=siblings)
    archs = net.space.decode(net.space.all_codes())[::7]
    by_run = []
    with evaluating_here():
        for workers, cache_mib in ((1, 0), (3, 8), (4, 1)):
            with EvaluationPool(replace(setup, cache_mib=cache_mib), workers=workers, warn=ignored) as pool:
                parts = (None, slice(0, 19), slice(19, 300), None)
                answers = [pool.scored(archs, "search", part) for part in parts]
                by_run.append([[hits.tolist() for hits in answer] for answer in answers])
    whole, first, second, again = by_run[0]
    assert by_run == [by_run[0]] * 3
    assert whole == again == [start + rest for start, rest in zip(first, second, strict=True)]


def test_what_is_remembered_is_used(tmp_path: Path):
    net, setup = made(tmp_path)
    with evaluating_here(), EvaluationPool(setup, workers=1, warn=ignored) as pool:
        pool.scored([net.space.largest], "search")
        cache = pool._workers[0]._worker._nets[""].cache
        assert (cache.hits, 0 < cache.used <= 8 * 2**20) == (0, True)
        pool.scored([net.space.largest], "search")
        assert cache.hits > 0


def test_questions_without_an_answer(tmp_path: Path):
    net, setup = made(tmp_path)
    archs = [net.space.largest, net.space.smallest]
    with evaluating_here(), EvaluationPool(setup, workers=3, warn=ignored) as pool:
        assert pool.scored([], "search") == []
        assert pool.probe([]) == []
        assert [len(hits) for hits in pool.scored(archs, "search", slice(300, 400))] == [0, 0]
        assert [probing.loss for probing in pool.probe(archs)] == [pool.probe([a])[0].loss for a in archs]


def test_other_data_than_the_job_has_are_refused(tmp_path: Path):
    net, setup = made(tmp_path, data_digest="another")
    with (
        evaluating_here(),
        EvaluationPool(setup, workers=1, warn=ignored) as pool,
        pytest.raises(JobFailedError, match="is not the one that the job has"),
    ):
        pool.scored([net.space.largest], "search")


def test_steps_are_made_anew_before_they_hold_too_many_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    net, setup = made(tmp_path)
    archs = [net.space.largest, net.space.smallest]
    with evaluating_here(), EvaluationPool(setup, workers=1, warn=ignored) as pool:
        kept = [hits.tolist() for hits in pool.scored(archs, "search")]
        worker = pool._workers[0]._worker._nets[""]
        steps = worker._steps
        assert 0 < steps.params <= worker._most_params
        pool.scored(archs, "search")
        assert worker._steps is steps
        monkeypatch.setattr(worker, "_most_params", steps.params - 1)
        assert [hits.tolist() for hits in pool.scored(archs, "search")] == kept
        assert worker._steps is not steps


class Impatient(Deadlines):
    """Of evaluating; to begin takes as long as it takes."""

    def seconds(self, kind: str, work: float = 1.0) -> float:
        return 300.0 if kind == BEGIN else 1.5


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_processes_that_hang_over_a_subnet_are_ended_and_the_others_are_evaluated(tmp_path: Path):
    net, setup = made(tmp_path, data_name="tests.nas.slow_data")
    smallest, other = net.space.smallest, net.space.largest
    warnings: list[str] = []
    before = set(psutil.Process().children(recursive=True))
    with EvaluationPool(setup, workers=1, warn=warnings.append, deadlines=Impatient()) as pool:
        failed, right = pool.scored([smallest, other], "search")
        assert isinstance(failed, Failed)
        assert "hung" in failed.reason
        assert right.tolist() == alone(net, other, "search", slice(None))  # type: ignore[union-attr]
        (again,) = pool.scored([other], "search")
        assert (again == right).all()
    assert sum("has not answered" in line for line in warnings) >= 3
    assert not [p for p in psutil.Process().children(recursive=True) if p not in before and _is_ours(p)]


def _is_ours(process: psutil.Process) -> bool:
    return "--multiprocessing-fork" in process.cmdline()
