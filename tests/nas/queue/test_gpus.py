"""A worker with GPUs: which there are, and what each job sees of them."""

import sys

import pytest
from test_readiness import submit, work

from nas.queue import gpus
from nas.queue.gpus import chosen_gpus
from nas.store import Store
from search_spaces.errors import UsageError

# Each waits until all four have begun, so that no place is given twice.
SCRIPT = """
import json, os, sys, time
from nas.store import Store
claimed = json.loads(sys.stdin.readline())
with Store.open(claimed["store"]) as store:
    job = store.job(claimed["job"])
    with store.join_claim(job, claimed["owner"]) as lease:
        print("sees", os.environ["CUDA_VISIBLE_DEVICES"], file=sys.stderr, flush=True)
        while sum(other.state != "queued" for other in store.jobs()) < 4:
            time.sleep(0.05)
        lease.finish("succeeded")
"""


@pytest.fixture
def store(any_url):
    with Store.open(any_url) as opened:
        yield opened


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(gpus, "gpu_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
def test_gpus_are_counted_as_the_worker_sees_them():
    assert chosen_gpus("1, 0", environment={}) == {1: "1", 0: "0"}
    assert chosen_gpus("1", environment={"CUDA_VISIBLE_DEVICES": "3,GPU-5ab"}) == {1: "GPU-5ab"}


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0,0", "names a GPU twice"),
        ("0,2", "there is no GPU 2: CUDA reaches 2 here, the last is 1"),
        ("", "not a list of numbers"),
        ("0,", "not a list of numbers"),
        ("-1", "not a list of numbers"),
        ("²", "not a list of numbers"),
        ("9" * 10_000, "not a list of numbers"),
        ("all", "not a list of numbers"),
    ],
)
def test_what_are_no_gpus(text, said):
    with pytest.raises(UsageError, match=said):
        chosen_gpus(text)


def test_where_cuda_reaches_none_it_is_said(monkeypatch):
    monkeypatch.setattr(gpus, "gpu_count", lambda: 0)
    with pytest.raises(UsageError, match="CUDA reaches no GPU"):
        chosen_gpus("0")


def test_gpus_are_counted_in_another_process(monkeypatch):
    monkeypatch.setattr(gpus, "COUNT", "print('a warning'); print(3)")
    assert gpus.gpu_count() == 3
    monkeypatch.setattr(gpus, "COUNT", "raise SystemExit(1)")
    assert gpus.gpu_count() == 0


def test_each_job_has_a_gpu_of_its_own_and_slots_are_those_of_each(store):
    for name in ("a", "b", "c", "d"):
        submit(store, name, needs="gpu" if name < "c" else None)
    told = work(store, (sys.executable, "-c", SCRIPT), gpus={0: "0", 1: "GPU-5ab"}, slots=2)
    seen = sorted(line.split()[-1] for line in told if ": sees " in line)
    assert seen == ["0", "0", "GPU-5ab", "GPU-5ab"]
    assert [job.state for job in store.jobs()] == ["succeeded"] * 4
