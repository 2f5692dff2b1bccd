"""The verbs that run jobs, with the pipeline replaced: what they check, what they print, how they end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from filled_store import finished_job
from running import Nas

from nas.config import JobConfig
from nas.errors import JobFailedError
from nas.progress import Progress
from nas.store import Job, NewSubnet, Store
from nas.watchdog import Leave
from search_spaces.errors import UsageError

StandIn = Callable[..., Any]
BROKEN = [
    "",
    "5",
    "data: [",
    "\tdata: digits",
    "data: digits\nsede: 3",
    "data: digit",
    "train: {steps: x, lr: y}",
]


def create(store: Store, config: JobConfig, *, name: str | None, base: str | None = None) -> Job:
    """Stands in for `nas.jobs.create`: the job has its results before it runs."""
    chosen = name or store.free_name(config.name or str(base))
    finished_job(store, chosen)
    return store.job(chosen)


def as_it_is(url: str, config: JobConfig) -> tuple[JobConfig, dict[str, Any]]:
    """Stands in for `nas.jobs.with_supernet`, of a job that names none."""
    return config, {}


def work(store: Store, job: Job, *, progress: Progress, end: Leave | None = None) -> None:
    """Stands in for `nas.pipeline.run`."""
    progress.stage("train")
    progress.update(1, 2, loss=0.25)
    progress.stage("search")


@pytest.fixture
def pretended(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    """Jobs that are done at once, in an own working directory; returns `stand_in`."""
    stand_in("jobs", check=lambda *_: None, create=create, with_supernet=as_it_is)
    stand_in("pipeline", run=work)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text("data: digits")
    return stand_in


@pytest.mark.parametrize("text", BROKEN)
@pytest.mark.parametrize("verb", ["run", "validate"])
def test_a_broken_file_leaves_nothing_behind(run_nas: Nas, tmp_path: Path, text: str, verb: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    store = ("--store", f"sqlite:///{tmp_path / 'new' / 'a.db'}") if verb == "run" else ()
    ran = run_nas(verb, file, *store)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Error: ")
    assert "job.yaml" in ran.err
    assert "Traceback" not in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_an_optimiser_without_anything_to_train_is_refused(run_nas: Nas, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("data: digits\ntrain: {optimizer: muon, lr_scale: {blocks: 0}}")
    ran = run_nas("validate", file)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Error: train.optimizer: muon trains the weights of hidden linear layers")
    assert ran.err.endswith("Hint: Set train.optimizer: adamw.\n")


def test_an_impossible_job_leaves_nothing_behind(
    run_nas: Nas, pretended: StandIn, store_url: str, tmp_path: Path
) -> None:
    def check(config: JobConfig, used: dict[str, Any]) -> None:
        raise UsageError("No subnet keeps the limit.", "Relax it.")

    pretended("jobs", check=check, with_supernet=as_it_is)
    ran = run_nas("run", "job.yaml", "--store", store_url)
    assert (ran.code, ran.err) == (2, "Error: No subnet keeps the limit.\nHint: Relax it.\n")
    ran = run_nas("run", "job.yaml", "--store", store_url, "--figure", "nowhere/a.html")
    assert (ran.code, "nowhere" in ran.err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


@pytest.mark.usefixtures("pretended")
def test_validate_prints_the_merged_config(run_nas: Nas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_SEED", "3")
    words = ("validate", "job.yaml", "--set", "search.batch=2", "--set", "train.lr=1e-4")
    ran = run_nas(*words)
    data = yaml.safe_load(ran.out)
    told = "Data digits: 10 classes; images: 1,197 train, 300 search, 300 report.\n"
    assert (ran.code, ran.err) == (0, told)
    assert (data["seed"], data["data"]["name"], data["search"]["batch"], data["train"]["lr"]) == (
        3,
        "digits",
        2,
        1e-4,
    )
    assert json.loads(run_nas(*words, "--json").out) == data


@pytest.mark.usefixtures("pretended")
def test_run_prints_the_front_and_what_to_type_next(run_nas: Nas, store_url: str, tmp_path: Path) -> None:
    ran = run_nas("run", "job.yaml", "--store", store_url)
    table, _, after = ran.out.partition("\n\n")
    assert ran.code == 0
    assert len(table.splitlines()) == 17
    assert [line.split()[:2] for line in after.splitlines()[1:]] == [
        ["nas", "front"],
        ["nas", "extract"],
        ["nas", "finetune"],
        ["nas", "dashboard"],
    ]
    assert "Job 'job' (1)" in ran.err
    assert "train: done in" in ran.err
    assert "<html" in (tmp_path / "job-front.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("pretended")
def test_run_as_json_keeps_stdout_clean(run_nas: Nas, store_url: str, tmp_path: Path) -> None:
    ran = run_nas("run", "job.yaml", "--store", store_url, "--json", "--figure", tmp_path / "a.html")
    assert json.loads(ran.out)["job"] == "job"
    assert "nas extract job --knee" in ran.err
    assert (tmp_path / "a.html").exists()
    ran = run_nas("run", "job.yaml", "--store", store_url, "--json", "--quiet")
    assert json.loads(ran.out)["job"] == "job-2"
    assert ran.err == ""


@pytest.mark.usefixtures("pretended")
def test_names(run_nas: Nas, store_url: str, tmp_path: Path) -> None:
    Path("job.yaml").write_text("name: from file")
    for words, name in (((), "from file"), (("--name", "../own"), "../own"), (("--set", "name=set"), "set")):
        assert f"Job '{name}'" in run_nas("run", "job.yaml", "--store", store_url, *words).err
    assert {path.name for path in tmp_path.glob("*.html")} == {
        "from-file-front.html",
        "own-front.html",
        "set-front.html",
    }
    assert "Job 'from file-2'" in run_nas("run", "job.yaml", "--store", store_url).err
    ran = run_nas("run", "job.yaml", "--store", store_url, "--name", "set")
    assert (ran.code, "There is a job 'set' already" in ran.err) == (4, True)
    Path("- odd\n.yaml").write_text("{}")
    assert "Job 'odd'" in run_nas("run", "--store", store_url, "--", "- odd\n.yaml").err


@pytest.mark.usefixtures("unfinished")
def test_resume_is_the_same_call(run_nas: Nas, pretended: StandIn, tmp_path: Path) -> None:
    seen: list[str] = []

    def work(store: Store, job: Job, *, progress: Progress, end: Leave | None = None) -> None:
        seen.append(job.name)
        with store.acquire(job) as lease:
            lease.finish("succeeded")

    pretended("pipeline", run=work)
    assert run_nas("resume", "1", "--json").code == 0
    assert seen == ["first"]
    assert (tmp_path / "first-front.html").exists()


@pytest.mark.parametrize("verb", [("run", "job.yaml", "--name", "my job"), ("resume", "first")])
@pytest.mark.usefixtures("unfinished")
def test_an_interrupt_names_the_resume_command(
    run_nas: Nas, pretended: StandIn, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    def interrupted(store: Store, job: Job, *, progress: Progress, **_: Any) -> None:
        raise KeyboardInterrupt

    pretended("pipeline", run=interrupted)
    ran = run_nas(*verb, "--quiet")
    assert (ran.code, ran.out) == (130, "")
    assert "its state is saved. Go on with: nas resume" in ran.err
    assert ran.err.split()[-1] == ("3" if "run" in verb else "first")
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.usefixtures("unfinished")
def test_a_job_that_was_stopped_or_failed(run_nas: Nas, pretended: StandIn) -> None:
    def stopped(store: Store, job: Job, *, progress: Progress, **_: Any) -> None:
        with store.acquire(job) as lease:
            lease.finish("stopped")

    def failed(store: Store, job: Job, *, progress: Progress, **_: Any) -> None:
        progress.stage("train")
        raise JobFailedError("The loss is NaN.", "Lower train.lr.")

    pretended("pipeline", run=stopped)
    assert run_nas("resume", "first").code == 130
    pretended("pipeline", run=failed)
    ran = run_nas("resume", "first")
    assert (ran.code, ran.out) == (1, "")
    assert "train: done" not in ran.err
    assert ran.err.endswith("Error: The loss is NaN.\nHint: Lower train.lr.\n")


def test_stop(run_nas: Nas, store_url: str) -> None:
    with Store.open(store_url) as store:
        job = store.create_job("a", config={}, seed=0, provenance={})
        ran = run_nas("stop", "a", "--store", store_url)
        assert (ran.code, "(state: queued)" in ran.err) == (4, True)
        with store.acquire(job) as lease:
            ran = run_nas("stop", "a", "--store", store_url)
            assert (ran.code, ran.err) == (
                0,
                "Job 'a' stops after its current batch, or within 10 seconds.\n",
            )
            assert lease.stop_requested()
            lease.finish("stopped")


@pytest.mark.usefixtures("filled")
def test_extract(run_nas: Nas, stand_in: StandIn, tmp_path: Path, filled: str) -> None:
    def export(store: Store, job: Job, key: str, folder: Path, **wishes: Any) -> list[Path]:
        folder.mkdir(exist_ok=True)
        (folder / "which").write_text(f"{job.name} {key} {wishes['packing'].formats} {wishes['weights']}")
        return [folder / "which"]

    stand_in("results.extraction", export=export)
    with Store.open(filled, read_only=True) as store:
        keys = [subnet.key for subnet in store.subnets(store.job("first"))]
    ran = run_nas("extract", "first", "--subnet", keys[5], "-o", tmp_path / "a")
    assert (ran.code, ran.out) == (0, f"{tmp_path / 'a' / 'which'}\n")
    assert (tmp_path / "a" / "which").read_text() == f"first {keys[5]} ['safetensors'] None"
    (tmp_path / "empty").mkdir()
    for number, choice in enumerate((["--knee"], ["--where", "latency_ms<1", "--where", "params<1e5"])):
        folder = tmp_path / f"b{number}" if number else tmp_path / "empty"
        options = ("--format", "onnx", "--weights", "scratch", "-o", folder, "--json")
        data = json.loads(run_nas("extract", "first", *choice, *options).out)
        assert (folder / "which").read_text() == f"first {data['subnet']} ['onnx'] scratch"
        assert data["files"] == [str(folder / "which")]
    assert run_nas("extract", "first", "--knee", "-o", tmp_path / "a").code == 4


@pytest.mark.usefixtures("filled")
def test_predict_and_measure(run_nas: Nas, stand_in: StandIn, tmp_path: Path, filled: str) -> None:
    calls: list[Any] = []

    def predict(store: Store, job: Job, architecture: dict[str, Any]) -> dict[str, Any]:
        calls.append((job.name, architecture))
        return {"latency_ms": 1.23456789, "architecture": architecture}

    def measure(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
        calls.append((folder, options))
        return {"latency_ms": 2.5}

    stand_in("jobs", predict=predict, measure=measure)
    with Store.open(filled, read_only=True) as store:
        subnet: NewSubnet | Any = store.subnets(store.job("first"))[0]
    assert json.loads(run_nas("predict", "first", '{"depth": 2}', "--json").out)["architecture"] == {
        "depth": 2
    }
    assert run_nas("predict", "1", subnet.key).out.splitlines()[0].split() == ["latency_ms:", "1.235"]
    assert run_nas("measure", tmp_path, "--batch", "8").out == "latency_ms: 2.5\n"
    assert run_nas("measure", tmp_path, "--option", "workload={prefill: 16}").code == 0
    fixed = {"backend": "torch_cpu", "threads": 1, "precision": "fp32"}
    assert calls == [
        ("first", {"depth": 2}),
        ("first", subnet.architecture),
        (tmp_path, fixed | {"batch": 8}),
        (tmp_path, fixed | {"batch": 64, "workload": {"prefill": 16}}),
    ]


def test_rm(run_nas: Nas, filled: str) -> None:
    ran = run_nas("rm", "first")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.startswith("Job 'first' is deleted; rows: ")
    assert [job["name"] for job in json.loads(run_nas("ls", "--json").out)] == ["second"]
    assert run_nas("rm", "first").code == 3
    with Store.open(filled) as store, store.acquire(store.job("second")) as lease:
        refused = run_nas("rm", "second")
        assert (refused.code, "runs in another process" in refused.err) == (4, True)
        lease.finish("failed")
