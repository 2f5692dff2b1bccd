"""What a job lacks on a machine, and how a worker leaves such a job to others."""

import io
import json
import signal
import sys

import pytest
import sqlalchemy as sa
from test_worker import COMMAND, Told, send

from nas import pipeline
from nas.cli.queue import run_claimed
from nas.config.paths import named_paths
from nas.queue import worker as worker_module
from nas.queue.job_process import LACKS_SOMETHING
from nas.queue.readiness import missing_files
from nas.queue.worker import Worker
from nas.results.running.waiting import NO_WORKER, waiting_reasons
from nas.store import NewJob, Store, Submission
from nas.store import tables as t
from search_spaces.errors import NotHereError


@pytest.fixture
def store(any_url):
    with Store.open(any_url) as opened:
        yield opened


def submit(store, name, config=None, **submission):
    values = {"config": config or {}, "seed": 0, "provenance": {}}
    return store.submit([NewJob(name, None, values, Submission(**submission))])[0]


def work(store, command=COMMAND, told=None, **options):
    told = Told() if told is None else told
    Worker(store, command, tell=told, **{"idle_exit": 0.0, **options}).run()
    return told


def remote(agent):
    return {"devices": {"phone": {"backend": "remote", "agent": agent}}}


def test_every_path_that_a_job_names_is_looked_for():
    tree = {
        "data": {"name": "text", "files": ["/a.txt", "/b.txt"], "tokenizer": "bytes", "in_chans": 3},
        "supernet": {"init": {"anchors": [{"checkpoint": "/anchor"}, {"timm": "deit_tiny"}]}},
        "supernets": [{"init": {"gguf": "package:weights"}, "train": {"teacher": {"timm": "local-dir:/t"}}}],
        "train": {"teacher": {"timm": "local-dir:/teacher"}},
        "baselines": [{"checkpoint": "/base"}, {"timm": "hf-hub:a/b"}],
    }
    assert dict(named_paths(tree)) == {
        "data.files": "/b.txt",
        "supernet.init.anchors.0.checkpoint": "/anchor",
        "supernets.0.init.gguf": "package:weights",
        "supernets.0.train.teacher.timm": "/t",
        "train.teacher.timm": "/teacher",
        "baselines.0.checkpoint": "/base",
    }
    assert [path for field, path in named_paths(tree) if field == "data.files"] == ["/a.txt", "/b.txt"]
    assert list(named_paths({"data": 3, "supernets": "x", "baselines": [1], "train": []})) == []


def test_weights_that_a_job_began_with_may_be_gone_once_it_has_trained_its_own(store):
    job = submit(store, "ok", {"supernet": {"init": {"checkpoint": "/nowhere/weights"}}})
    assert "supernet.init.checkpoint: there is no '/nowhere/weights'" in missing_files(store, job)
    with store.acquire(job) as lease:
        store.begin_stage(lease, "train", "k")
        assert missing_files(store, job) is not None
        store.finish_stage(lease, "train", {})
    assert missing_files(store, job) is None
    spoilt = submit(store, "odd", {"supernet": {"init": {"gguf": "package:no.such package"}}})
    assert "the package 'no.such package' is not installed" in missing_files(store, spoilt)


def test_a_job_without_its_data_is_left_to_others_and_says_so(store, tmp_path):
    lacks = submit(store, "ok-lacks", {"data": {"root": str(tmp_path / "images")}}, priority=1)
    submit(store, "ok-other")
    told = work(store, once=True)
    assert told.begun == ["ok-other"]
    assert any(line.startswith("Job 'ok-lacks' (1) is left to others: pid ") for line in told)
    waits = store.job(lacks.id)
    assert (waits.state, waits.owner, waits.error) == ("queued", None, None)
    assert waits.last_attempt - waits.attempt == 3
    assert f"lacks data.root: there is no '{tmp_path / 'images'}'" in waits.refusal
    store.note_worker("elsewhere:1:0.0:x")
    assert waiting_reasons(store) == {lacks.id: waits.refusal}
    (tmp_path / "images").mkdir()
    assert work(store).begun == ["ok-lacks"]
    assert (store.job(lacks.id).state, store.job(lacks.id).refusal) == ("succeeded", None)
    assert waiting_reasons(store) == {}


def test_a_refused_job_is_looked_at_again_after_a_while_only(store, tmp_path, monkeypatch):
    class Twice(Told):
        def __call__(self, line):
            super().__call__(line)
            if len(self) == 2:
                send(signal.SIGTERM)()

    submit(store, "ok", {"data": {"root": str(tmp_path / "images")}})
    monkeypatch.setattr(worker_module, "RETRY_SECONDS", 1e6)
    assert len([line for line in work(store, idle_exit=0.5) if "is left to others" in line]) == 1
    monkeypatch.setattr(worker_module, "RETRY_SECONDS", 0.2)
    told = work(store, told=Twice(), idle_exit=None)
    assert ["is left to others" in line for line in told] == [True, True]


LACKS = """
import json, sys
from nas.errors import NASError
from nas.store import Store
from search_spaces.errors import NotHereError
claimed = json.loads(sys.stdin.readline())
with Store.open(claimed["store"]) as store:
    job = store.job(claimed["job"])
    with store.join_claim(job, claimed["owner"]) as lease:
        try:
            if job.name.startswith("lacks"):
                raise NotHereError("There is no weight.")
            lease.finish("succeeded")
        except NotHereError as error:
            lease._end_after(error)
            sys.exit(75)
"""


def test_a_process_that_lacks_weights_gives_the_job_back_without_an_attempt(store):
    lacks = submit(store, "lacks")
    submit(store, "has")
    told = work(store, (sys.executable, "-c", LACKS), once=True)
    assert told.begun == ["lacks", "has"]
    waits = store.job(lacks.id)
    assert (waits.state, waits.last_attempt - waits.attempt) == ("queued", 3)
    assert waits.refusal.endswith(": There is no weight")


def test_what_a_job_waits_for(store):
    first = submit(store, "first")
    assert waiting_reasons(store) == {first.id: NO_WORKER}
    after = submit(store, "after", after_id=first.id)
    gpu = submit(store, "gpu", needs="gpu")
    phone = submit(store, "phone", remote("pixel"))
    store.note_worker("elsewhere:1:0.0:x", offers=["tpu"])
    assert waiting_reasons(store) == {
        after.id: "waits for job 'first' (1)",
        gpu.id: "no worker that runs has 'gpu'",
        phone.id: "waiting for device 'phone': no agent 'pixel' runs",
    }
    store.cancel(first, pause=True)
    assert waiting_reasons(store)[after.id] == "waits for job 'first' (1), which is paused"
    store.note_worker("elsewhere:2:0.0:y", offers=["gpu"])
    options = {"backend": "torch_cpu"}
    with store.acquire_agent("pixel", {"backend": "torch_cpu"}, options):
        assert sorted(waiting_reasons(store)) == [after.id]
    assert phone.id in waiting_reasons(store)


def test_a_job_whose_device_is_not_there_lets_others_pass(store):
    phone = submit(store, "ok-phone", remote("pixel"))
    submit(store, "ok")
    assert work(store).begun == ["ok"]
    assert (store.job(phone.id).state, store.job(phone.id).refusal) == ("queued", None)
    with store.acquire_agent("pixel", {"backend": "torch_cpu"}, {"backend": "torch_cpu"}):
        assert work(store).begun == ["ok-phone"]


def test_a_running_job_says_which_device_it_waits_for(store):
    job = submit(store, "runs", remote("pixel"))
    claim = store.take_job()
    with store.join_claim(job, claim.owner) as lease:
        assert waiting_reasons(store) == {}
        store.add_request(lease, "pixel", {"archs": {"x": {}}})
        assert waiting_reasons(store) == {job.id: "waiting for device 'phone': no agent 'pixel' runs"}
        with store.acquire_agent("pixel", {"backend": "torch_cpu"}, {"backend": "torch_cpu"}):
            assert waiting_reasons(store) == {}


def test_a_worker_is_listed_while_it_is_there(store):
    def look():
        seen.extend(store.workers())
        send(signal.SIGTERM)()

    seen = []
    submit(store, "obey", needs="tpu")
    work(store, told=Told(look), offers=["tpu"], slots=3, idle_exit=None)
    ((worker,), gone) = (seen, store.workers())
    assert (worker.offers, worker.gpus, worker.slots, gone) == (["tpu"], [], 3, [])
    store.note_worker(worker.owner)
    store.note_worker("elsewhere:1:0.0:x")
    with store.write() as connection:
        connection.execute(sa.update(t.workers).values(lease_until=1.0))
    assert store.workers() == []
    store.note_worker("elsewhere:2:0.0:y")
    with store.read() as connection:
        assert list(connection.scalars(sa.select(t.workers.c.owner))) == ["elsewhere:2:0.0:y"]


def test_the_process_of_a_job_tells_its_worker_what_this_machine_lacks(store, monkeypatch, capsys):
    def run(*_, **__):
        raise NotHereError("There is no 'train-images' in '/data'.", "Install it.")

    job = submit(store, "fashion")
    claim = store.take_job()
    line = json.dumps({"store": store.url, "job": job.id, "owner": claim.owner}) + "\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(line))
    monkeypatch.setattr(run_claimed, "_end_with_worker", lambda: None)
    monkeypatch.setattr(pipeline, "run", run)
    assert run_claimed.main() == LACKS_SOMETHING
    waits = store.job(job.id)
    assert (waits.state, waits.owner, waits.last_attempt - waits.attempt) == ("queued", None, 3)
    assert waits.refusal.endswith(": There is no 'train-images' in '/data'")
    assert "Error: There is no 'train-images' in '/data'.\nHint: Install it." in capsys.readouterr().err
