"""Finalists as the backend of a device computes them: computed once, told beside the supernet's quality."""

import csv
import io
import json
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
import torch
from same_process import evaluating_here
from tiny_job import CONFIG, copied

from dashboards.app import job_front, job_parts
from dashboards.job.panel import subnet_facts
from nas import datasets, jobs, pipeline
from nas.analysis.gate import gate
from nas.analysis.invariants import problems
from nas.cli import main
from nas.config import DeviceConfig, JobConfig, checked_config
from nas.evaluation.qualities import one_quality
from nas.limits import Limit
from nas.progress import Silent
from nas.results import extraction, frames
from nas.results.cautions import cautions
from nas.results.front import front
from nas.results.job_devices import DEVICE_QUALITY
from nas.results.members import beats
from nas.search import device_quality
from nas.search.device_quality import asked, refusal
from nas.store import Job, Store
from nas.store import tables as t
from search_spaces.errors import UsageError
from tests import made_device
from tests.made_device import in_four_bits

NPU: dict[str, Any] = {"backend": made_device.BACKEND, "batch": 8, "precision": "int4"}
CPU: dict[str, Any] = {"backend": made_device.BACKEND, "batch": 8, "speed": 0.5}
TINY: dict[str, Any] = {
    "data": "digits",
    "supernet": CONFIG["supernet"],
    "train": {"steps": 200, "batch_size": 32, "warmup": 5, "threads": 1},
    "devices": {"npu": NPU, "cpu": CPU},
    "objectives": ["accuracy", "latency_ms@npu"],
    "predictor": {"samples": 12, "rounds": 2, "max_rounds": 2},
    "search": {"evaluations": 24, "batch": 6, "population": 6, "finalists": 5, "measure_above": None},
}
FINALISTS = 5
IMAGES = 300


def made(store: Store, config: dict[str, Any], name: str) -> Job:
    return jobs.create(store, checked_config(config, where="The config"), name=name)


def ran(store: Store, job: Job) -> Job:
    with evaluating_here():
        pipeline.run(store, job, progress=Silent())
    return store.job(job.id)


@pytest.fixture(scope="module")
def url(_session_home: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a store with a job whose device `npu` computes in four bits; tests only read it."""
    url = f"sqlite:///{tmp_path_factory.mktemp('device-quality') / 'store.sqlite'}"
    with Store.open(url) as store:
        assert ran(store, made(store, TINY, "first")).state == "succeeded"
    return url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url, read_only=True) as opened:
        yield opened


@pytest.fixture
def copy(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("NAS_COMPONENTS", made_device.BACKEND)
    with Store.open(copied(url, tmp_path / "copy")) as opened:
        yield opened


def forget(store: Store) -> None:
    """The job is as if it had been killed before the stage."""
    with store.write() as connection:
        connection.execute(sa.delete(t.device_qualities))
        connection.execute(sa.delete(t.stages).where(t.stages.c.name == DEVICE_QUALITY))
        connection.execute(sa.update(t.jobs).values(state="stopped"))


def test_the_device_computes_the_extracted_network_with_the_weights_that_are_reported(store: Store) -> None:
    job, data = store.job("first"), datasets.build("digits")
    rows = store.device_qualities(job)
    names = {device.id: device.name for device in store.devices()}
    assert {names[row.device_id] for row in rows} == {"npu"}  # the other one computes in float32
    reported = {one.subnet.key: one for one in frames.reported(store, job)}
    assert {row.subnet.key for row in rows} == set(reported)
    assert store.stages(job)[-1].result == {"devices": ["npu"], "qualities": FINALISTS, "refused": {}}
    ((x, labels),) = data.batches("report", IMAGES)
    for row in rows:
        network = extraction.extract(store, job, row.subnet.key)
        with torch.inference_mode():
            whole = (network(x).argmax(-1) == labels).numpy()
            for parameter in network.parameters():
                parameter.data = in_four_bits(parameter.data)
            scores = (network(x).argmax(-1) == labels).numpy()
        told = one_quality("accuracy", torch.from_numpy(scores), data, "report")
        assert (row.value, row.stderr, row.count) == (told.value, told.stderr, IMAGES)
        assert row.weights == "inherited"
        assert set(row.objectives) == {"accuracy", "balanced_accuracy"}
        supernets = reported[row.subnet.key].value or 0.0
        assert row.difference == pytest.approx(told.value - supernets, abs=1e-12)
        unpaired = np.hypot(told.stderr, reported[row.subnet.key].stderr or 0.0)
        assert 0 < (row.difference_stderr or 0.0) < unpaired or not np.any(scores != whole)
    assert any(abs(row.difference or 0.0) > 2 * (row.difference_stderr or 0.0) for row in rows)


def test_it_stands_beside_the_supernets_in_every_view(
    store: Store, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = store.job("first")

    def said(*words: str) -> str:
        assert main([*words, "--store", url]) == 0
        return capsys.readouterr().out

    rows = {row.subnet.key: row for row in store.device_qualities(job)}
    clear = [r for r in rows.values() if abs(r.difference or 0) > 2 * (r.difference_stderr or 0)]
    table = said("front", "first")
    assert "ACCURACY ON DEVICE" in table.splitlines()[0]
    assert table.count(" points !") == len(clear) > 0
    assert f"Accuracy on device: as npu computes it, on {IMAGES} examples" in table
    members = json.loads(said("front", "first", "--json"))["front"]
    for member in members:
        row = rows[member["subnet"]]
        assert member["computed"] == {
            "value": row.value,
            "stderr": row.stderr,
            "examples": IMAGES,
            "difference": row.difference,
            "difference_stderr": row.difference_stderr,
            "differs": row in clear,
        }
        assert member["computed_on"] == [{"device": "npu", **member["computed"]}]
        assert member["quality"]["value"] != row.value or not row.difference
    (sentence,) = [one for one in cautions(store, job) if "'npu'" in one]
    assert f"for {len(clear)} of {FINALISTS} finalists" in sentence
    assert sentence in said("show", "first")
    assert sentence in json.loads(said("front", "first", "--json"))["cautions"]
    other = said("front", "first", "--device", "cpu")
    assert "ON DEVICE" not in other
    assert "computed" not in json.loads(said("front", "first", "--json", "--device", "cpu"))["front"][0]


def test_frames_figures_and_pages_tell_it(store: Store, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    job = store.job("first")
    rows = {row.subnet.key: row for row in store.device_qualities(job)}
    members = front(store, job).members
    assert main(["front", "first", "--csv", "--store", url]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(line["device_quality"]) for line in lines] == [rows[m.subnet].value for m in members]
    assert "device_quality@npu" in lines[0]
    assert not lines[0]["device_quality@cpu"]
    facts = subnet_facts(store, job, members[0].subnet)
    assert facts is not None
    assert "accuracy as the device computes it" in dict(facts.figures)
    drawn = [
        trace for trace in job_front(store, job.id, selected=None).data if "computes" in (trace.name or "")
    ]
    assert sorted(drawn[0].y) == sorted(row.value for row in rows.values())
    assert "as the device computes it" in json.dumps(
        job_parts(store, job.id)[1].to_plotly_json(), default=vars
    )


def test_limits_and_gates_on_what_a_device_computes(store: Store) -> None:
    job = store.job("first")
    values = sorted(row.value or 0.0 for row in store.device_qualities(job))
    kept = front(store, job, where=[Limit.parse(f"accuracy@npu>={values[-1]}")]).members
    assert {member.device_quality for member in kept} == {values[-1]}
    assert gate(store, job, [Limit.parse(f"accuracy@npu>={values[-1]}")]).best in kept
    missed = gate(store, job, [Limit.parse("accuracy@npu>=100%")])
    assert missed.best is None
    assert "points too little" in missed.sentence
    with pytest.raises(UsageError, match="'cpu' has computed no accuracy of this front"):
        front(store, job, where=[Limit.parse("accuracy@cpu>=0.5")])
    with pytest.raises(UsageError, match="nothing here was measured on 'npuu'"):
        front(store, job, where=[Limit.parse("accuracy@npuu>=0.5")])


def test_a_stage_that_is_killed_goes_on_with_the_next_finalist(
    copy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = copy.job("first")
    whole = [(r.subnet.key, r.value, r.difference, r.difference_stderr) for r in copy.device_qualities(job)]
    forget(copy)
    counted: list[str] = []
    put, computed = Store.put_device_quality, device_quality.device_scores

    def putting(store: Store, lease: Any, device_id: int, new: Any) -> None:
        put(store, lease, device_id, new)
        if len(counted) == 2:
            raise KeyboardInterrupt

    def computing(device: Any, module: Any, *rest: Any, **options: Any) -> Any:
        counted.append(device.name)
        return computed(device, module, *rest, **options)

    monkeypatch.setattr(Store, "put_device_quality", putting)
    monkeypatch.setattr(device_quality, "device_scores", computing)
    with pytest.raises(KeyboardInterrupt):
        ran(copy, job)
    assert len(copy.device_qualities(job)) == 2
    assert front(copy, job).members  # it is there before devices have computed anything
    monkeypatch.setattr(Store, "put_device_quality", put)
    assert ran(copy, job).state == "succeeded"
    assert counted == ["npu"] * FINALISTS
    again = copy.device_qualities(job)
    assert [(r.subnet.key, r.value, r.difference, r.difference_stderr) for r in again] == whole
    with copy.write() as connection:
        connection.execute(sa.update(t.jobs).values(state="stopped"))
    ran(copy, job)
    assert len(counted) == FINALISTS  # a finished stage stays done
    assert problems(copy.url) == []


def test_another_job_finds_what_was_computed(copy: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_quality, "device_scores", None)  # nothing can be computed
    again = ran(copy, made(copy, TINY, "again"))
    rows = [copy.device_qualities(job) for job in (copy.job("first"), again)]
    assert all(row.reused for row in rows[1])
    found = [[(r.subnet.key, r.value, r.stderr, r.difference) for r in of_job] for of_job in rows]
    assert found[0] == found[1]


def test_a_number_of_images_is_for_all_devices_and_the_same_images(copy: Store) -> None:
    config = TINY | {"finalists": {"device_images": 40}}
    job = ran(copy, made(copy, config, "some"))
    rows = copy.device_qualities(job)
    assert [row.count for row in rows] == [40] * 2 * FINALISTS
    names = {device.id: device.name for device in copy.devices()}
    assert {names[row.device_id] for row in rows} == {"npu", "cpu"}
    exact = [row for row in rows if names[row.device_id] == "cpu"]
    assert {row.difference for row in exact} == {0.0}  # float32 computes what the supernet does
    assert {member.device_examples for member in front(copy, job).members} == {40}


def test_what_cannot_be_computed_is_told_and_tried_again(
    copy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(copy)
    job, computed = copy.job("first"), device_quality.device_scores
    bad = front(copy, job).members[0].subnet
    bad_params = copy.subnet(job, bad).params

    def computing(device: Any, module: Any, *rest: Any, **options: Any) -> Any:
        if sum(p.numel() for p in module.parameters()) == bad_params:
            raise RuntimeError("no kernel")
        return computed(device, module, *rest, **options)

    monkeypatch.setattr(device_quality, "device_scores", computing)
    assert ran(copy, job).state == "succeeded"
    failed = [row for row in copy.device_qualities(job) if row.state == "failed"]
    assert bad in [row.subnet.key for row in failed]
    assert {row.reason for row in failed} == {"RuntimeError: no kernel"}
    words = f"The accuracy of {len(failed)} of {FINALISTS} finalists cannot be computed on 'npu'"
    assert any(one.startswith(words) for one in cautions(copy, job))
    member = next(member for member in front(copy, job).members if member.subnet == bad)
    assert member.device_quality is None


def test_a_backend_without_outputs_and_devices_elsewhere(
    copy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(copy)
    monkeypatch.delattr(made_device.MadeDevice, "computing")
    job = ran(copy, copy.job("first"))
    reasons = {row.reason for row in copy.device_qualities(job)}
    assert reasons == {"The backend of 'npu' tells no outputs of networks"}
    monkeypatch.setattr(device_quality, "refusal", lambda device: device_quality.NO_WEIGHTS)
    forget(copy)
    job = ran(copy, copy.job("first"))
    assert copy.device_qualities(job) == []
    sentence = "Of 'npu' (int4) only the supernet's quality is known: it is an agent's, to which no weights"
    assert any(one.startswith(sentence) for one in cautions(copy, job))


def test_which_devices_are_asked() -> None:
    def of(devices: dict[str, Any], **finalists: Any) -> dict[str, Any]:
        tree = {"devices": devices} | ({"finalists": finalists} if finalists else {})
        stored = JobConfig.model_validate(tree).model_dump(mode="json", exclude={"supernets"})
        return asked(JobConfig.model_validate(stored, strict=False))

    two = {"cpu": {}, "phone": {"backend": "onnxruntime_cpu", "precision": "int8"}}
    assert of(two) == {"phone": "all"}
    assert of({"cpu": {}}) == {}
    assert of(two, device_images=7) == {"cpu": 7, "phone": 7}
    assert of(two, device_images="all") == {"cpu": "all", "phone": "all"}
    assert of(two, device_images=0) == {}
    older = {"devices": two, "finalists": {"train": None}}
    assert asked(JobConfig.model_validate(older)) == {}  # stored before there was such a choice
    agents = DeviceConfig(backend="remote", precision="int8")
    steps = DeviceConfig.model_validate({"workload": {"decode": {"context": 8}}})
    assert refusal(agents) == device_quality.NO_WEIGHTS
    assert refusal(steps) == device_quality.NO_WHOLE_TEXTS
    assert refusal(DeviceConfig(precision="bf16")) is None
    assert refusal(steps.model_copy(update={"backend": "llama_cpp"})) is None


@pytest.mark.parametrize(
    ("finalists", "words"),
    [
        ("{device_images: 301}", "finalists.device_images is 301, and the report split of 'digits' has 300"),
        ("{device_images: -1}", "finalists.device_images: must be all, or how many images"),
        ("{device_images: most}", "finalists.device_images: must be all, or how many images"),
        ("{device_images: 1.5}", "finalists.device_images: must be all, or how many images"),
    ],
)
def test_impossible_numbers_of_images(
    finalists: str, words: str, tmp_path: Path, store_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(f"data: digits\nfinalists: {finalists}\n")
    assert main(["run", str(file), "--store", store_url]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert not Path(store_url.removeprefix("sqlite:///")).exists()


def test_finalists_that_were_trained_further_are_computed_with_those_weights(copy: Store) -> None:
    config = TINY | {"finalists": {"train": {"steps": 5}}}
    job = ran(copy, made(copy, config, "trained"))
    reported = {one.subnet.key: one for one in frames.reported(copy, job)}
    rows = copy.device_qualities(job)
    assert {row.weights for row in rows} == {"specialised"}
    for row in rows:
        supernets = reported[row.subnet.key].value or 0.0
        assert (row.value or 0.0) - supernets == pytest.approx(row.difference, abs=1e-12)


def test_a_search_for_what_a_device_computes(copy: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TINY | {"objectives": ["accuracy@npu", "latency_ms@npu"]}
    job = ran(copy, made(copy, config, "on-npu"))
    assert (job.config["objectives"], job.config["quality_on"]) == (["accuracy", "latency_ms@npu"], "npu")
    evaluations = copy.evaluations(job, "search")
    assert len(evaluations) == 24
    assert not any(evaluation.reused for evaluation in evaluations)  # the first job's are of the supernet
    data, hits = datasets.build("digits"), copy.hits(job, "search")
    ((x, labels),) = data.batches("search", IMAGES)
    for evaluation in evaluations[:3]:
        network = extraction.extract(copy, job, evaluation.subnet.key)
        with torch.inference_mode():
            for parameter in network.parameters():
                parameter.data = in_four_bits(parameter.data)
            scores = (network(x).argmax(-1) == labels).numpy()
        seen = hits[evaluation.subnet.key]
        assert seen.tolist() == scores[: len(seen)].tolist()
    assert any(len(seen) < IMAGES for seen in hits.values())  # it races
    told = front(copy, job).to_dict()
    assert told["objectives"][0] == {"name": "accuracy", "goal": "max", "device": "npu"}
    assert all(member.by_device for member in front(copy, job).members)
    assert front(copy, job).knee().device_quality is not None
    assert {row.device_id for row in copy.device_qualities(job)} == {job_device(copy, job, "npu")}
    with copy.read() as connection:  # nor does a job that searches with the supernet find these
        of_search = (t.hits.c.job_id == job.id) & (t.hits.c.split == "search")
        bases = connection.execute(sa.select(t.hits.c.supernet_id).where(of_search)).scalars().all()
    assert set(bases) == {None}
    with pytest.raises(
        UsageError, match=r"in job 'on-npu' 'npu' has computed the accuracy, and in this one the"
    ):
        made(copy, TINY | {"search": TINY["search"] | {"source": "on-npu"}}, "later")
    assert problems(copy.url) == []


def job_device(store: Store, job: Job, name: str) -> int:
    return next(row.id for row in store.devices() if row.name == name)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("objectives: [accuracy@gpu, latency_ms]", "'accuracy@gpu' is told of no device of this job"),
        ("objectives: [accuracy@cpu, balanced_accuracy@cpu]", "a search is for one quality on one device"),
        ("objectives: [accuracy@cpu]\nbudget: 10min", "give train.steps and search.evaluations"),
        ("devices: {cpu: {precisions: [fp32, int3]}}", "precision must be one of fp32, bf16, not 'int3'"),
        ("devices: {cpu: {precisions: []}}", "cpu.precisions must be a list of different ones"),
        ("devices: {cpu: {precisions: [bf16, bf16]}}", "cpu.precisions must be a list of different ones"),
        ("devices: {cpu: {precisions: [bf16, fp32], precision: fp32}}", "without a precision beside it"),
        ("devices: {pi: {backend: remote, precisions: [fp32, int8]}}", "belongs to a backend of this host"),
    ],
)
def test_impossible_devices_and_objectives(
    lines: str, words: str, tmp_path: Path, store_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(f"data: digits\n{lines}\n")
    assert main(["validate", str(file)]) == 2
    assert words in capsys.readouterr().err


def test_a_search_for_a_quality_that_no_device_here_computes(store: Store) -> None:
    device = {"backend": "remote", "agent": "pi"}
    config = checked_config(
        TINY | {"devices": {"pi": device}, "objectives": ["accuracy@pi", "latency_ms"]}, where="here"
    )
    with pytest.raises(UsageError, match="no accuracy is computed on 'pi': it is an agent's"):
        device_quality.check_quality_on(config)


def test_a_point_of_the_front_is_a_subnet_and_a_precision(
    copy: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    npu = {"backend": made_device.BACKEND, "batch": 8, "precisions": ["fp32", "int4"]}
    config = TINY | {"devices": {"npu": npu}, "objectives": ["accuracy", "latency_ms@npu"]}
    job = ran(copy, made(copy, config, "both"))
    assert list(job.config["devices"]) == ["npu@fp32", "npu@int4"]
    assert job.config["objectives"] == ["accuracy", "latency_ms@npu@fp32", "latency_ms@npu@int4"]
    assert len(copy.device_qualities(job)) == 2 * FINALISTS
    pareto = front(copy, job)
    assert 0 < len(pareto.members) < 2 * FINALISTS
    for member in pareto.members:
        assert member.device == f"npu@{member.precision}"
        assert member.by_device
    pairs = permutations(pareto.members, 2)
    assert not any(beats(one, other, ("latency_ms",)) for one, other in pairs)
    assert main(["front", "both", "--store", copy.url]) == 0
    table, remarks = capsys.readouterr()
    assert "A row is a finalist in one precision; left out is what another row beats" in remarks
    assert "PRECISION" in table.splitlines()[0]
    told = json.loads(json.dumps(pareto.to_dict()))["front"]
    assert {one["latency"]["precision"] for one in told} == {m.precision for m in pareto.members}
    drawn = job_front(copy, job.id, selected=None).data
    assert {str(trace.name) for trace in drawn if "npu@" in str(trace.name)}
    assert len(front(copy, job, device="npu@int4").members) == FINALISTS
    assert problems(copy.url) == []
