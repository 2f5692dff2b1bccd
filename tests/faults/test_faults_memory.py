"""A memory hog: a subnet whose evaluation needs more than its process may have fails alone."""

import os
from pathlib import Path

import pytest
from nas_process import Place, ended, make_place

LIMIT = 600 * 2**20  # bytes that an evaluating process may have besides what it has when it makes its data
REASON = "the processes that evaluated it ran out of memory, the last of several"
DATA = f"""\
import multiprocessing, resource
import psutil
from nas.datasets import digits

def build(**options):
    if multiprocessing.parent_process() is not None:
        most = psutil.Process().memory_info().vms + {LIMIT}
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return digits.build(**options)
"""
# Between the two matrices of such an FFN lie 131,072 numbers for each patch of each of 300 images: 786 MB.
HOG = 16_384
JOB = f"""\
data: hog.data
supernet: {{space: {{embed_dim: [8], depth: [1, 2], num_heads: [1, 2], mlp_ratio: [1, {HOG}]}}}}
train: {{steps: 2, batch_size: 8, threads: 1}}
devices: {{cpu: {{batch: 1}}}}
objectives: [accuracy, params]
predictor: {{samples: 10, rounds: 2, max_rounds: 3}}
search: {{evaluations: 6, batch: 2, population: 2, finalists: 2}}
execution: {{workers: 1}}
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_subnet_that_needs_more_memory_than_there_is_fails_alone(tmp_path: Path) -> None:
    place = make_place(tmp_path / "place", JOB)
    (place.folder / "hog").mkdir()
    (place.folder / "hog" / "__init__.py").touch()
    (place.folder / "hog" / "data.py").write_text(DATA)
    paths = [str(place.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    ran = ended(place.start("run", "job.yaml", env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}))
    assert (ran.code, ran.errors, "Traceback" in ran.err) == (0, [], False)
    assert "A worker process ran out of memory while it evaluated subnets" in ran.err
    assert_only_hogs_failed(place)


def assert_only_hogs_failed(place: Place) -> None:
    joined = "FROM evaluations e JOIN subnets s ON s.id = e.subnet_id WHERE split = 'search'"
    rows = place.query(f"SELECT s.params, e.state, e.reason {joined}")
    assert len(rows) == 6
    hogs = [row for row in rows if row[0] > 1_000_000]
    assert 0 < len(hogs) < len(rows)
    assert {(state, reason) for _, state, reason in hogs} == {("failed", REASON)}
    assert {state for params, state, _ in rows if params <= 1_000_000} == {"ok"}
