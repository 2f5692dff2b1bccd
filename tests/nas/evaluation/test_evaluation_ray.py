"""Evaluation by Ray actors: the same results as in processes, also when a worker and a node die."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from evaluation_setup import made, wait_for_all

from nas.config import ExecutionConfig
from nas.errors import JobFailedError
from nas.evaluation import EvaluationPool, evaluator

OBJECT_STORE_BYTES = 80 * 2**20


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of two nodes with one CPU each, both on this machine."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - imports ray

    folder = Path(tempfile.mkdtemp(prefix="nas-"))  # a path of pytest's is too long for a socket
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    node = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES}
    handler = signal.getsignal(signal.SIGTERM)
    nodes = Cluster(initialize_head=True, head_node_args=node)
    try:
        nodes.add_node(**node)
        yield nodes
    finally:
        nodes.shutdown()
        signal.signal(signal.SIGTERM, handler)  # a node's own would end this process by SystemExit
        shutil.rmtree(folder, ignore_errors=True)


def actors(count: int) -> list[psutil.Process]:
    """The processes of the actors, once there are so many: Ray ends them in its own time."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        running = []
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                running += [child] * ("EvaluationWorker" in " ".join(child.cmdline()))
        if len(running) == count:
            return running
        time.sleep(0.1)
    raise AssertionError(f"{len(running)} actors")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_and_a_node_that_die_cost_nothing_but_time(tmp_path: Path, cluster: Any):
    from nas.evaluation.ray_actors import ray_pool  # noqa: PLC0415 - imports ray

    net, setup = made(tmp_path)
    archs = net.space.decode(net.space.all_codes()[::9])
    warnings: list[str] = []
    with EvaluationPool(setup, workers=1, warn=warnings.append) as pool:
        expected = [hits.tolist() for hits in pool.scored(archs, "search")]
        probed = pool.probe(archs[:3])
    with ray_pool(setup, workers=2, address=cluster.address, warn=warnings.append) as pool:
        assert [hits.tolist() for hits in pool.scored(archs, "search")] == expected
        assert pool.probe(archs[:3]) == probed
        assert warnings == []
        wait_for_all(pool)
        (node,) = cluster.worker_nodes
        both = actors(2)
        cluster.remove_node(node, allow_graceful=False)
        (left,) = actors(1)  # the other one has outlived its node, which no machine's death allows
        for orphan in set(both) - {left}:
            with suppress(psutil.NoSuchProcess):
                orphan.kill()
        assert [hits.tolist() for hits in pool.scored(archs, "search")] == expected
        assert len(warnings) == 1
        os.kill(left.pid, signal.SIGKILL)
        assert [hits.tolist() for hits in pool.scored(archs, "search")] == expected
        assert len(warnings) == 2
    actors(0)
    with (
        ray_pool(
            replace(setup, data_digest="another"), workers=1, address=cluster.address, warn=warnings.append
        ) as pool,
        pytest.raises(JobFailedError, match="is not the one that the job has"),
    ):
        pool.scored(archs, "search")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_ray_of_its_own_is_started_and_ended(tmp_path: Path):
    net, setup = made(tmp_path)
    archs = net.space.decode(net.space.all_codes()[::9])
    rows, warnings = [], list[str]()
    for engine in ("local", "ray"):
        with evaluator(setup, ExecutionConfig(engine=engine), warn=warnings.append) as pool:
            rows.append([hits.tolist() for hits in pool.scored(archs, "search", slice(10, 290))])
    assert rows[0] == rows[1]
    assert warnings == []
    actors(0)


@pytest.mark.parametrize(("workers", "gpus", "share"), [(1, 1, 1.0), (2, 1, 0.5), (3, 2, 0.5), (2, 4, 1.0)])
def test_all_actors_have_a_place_on_a_gpu(tmp_path: Path, workers: int, gpus: int, share: float):
    from nas.evaluation.ray_actors import gpus_per_actor  # noqa: PLC0415 - imports ray

    _, setup = made(tmp_path, torch_device="cuda")
    assert gpus_per_actor(setup, workers, gpus) == share
    assert gpus * int(1 / share) >= workers
    with pytest.raises(JobFailedError, match="Ray finds none"):
        gpus_per_actor(setup, workers, 0)


def test_a_cluster_that_is_too_small_is_told(tmp_path: Path):
    from nas.evaluation.ray_actors import check_room  # noqa: PLC0415 - imports ray

    _, setup = made(tmp_path)
    check_room(setup, 2, 2.0)
    with pytest.raises(JobFailedError, match="Ray has 1 CPUs; 2 workers with 1 threads need 2"):
        check_room(setup, 2, 1.0)
