"""The whole job, on one tiny run: what is in the store afterwards, and that it is true."""

import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import tiny_job as tiny
import torch

import nas
from nas import datasets, pipeline
from nas.config import JobConfig, merged
from nas.measuring import latency_fit
from nas.progress import Silent
from nas.search import stage as search_stage
from nas.store import Evaluation, Store
from nas.training import supernets as train_stage
from search_spaces.errors import UsageError

CHANGED_BY_A_LEASE = ("owner", "lease_until", "attempt", "started_at", "finished_at")


def content(url: str) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables, without what taking a lease changes."""
    engine = sa.create_engine(url)
    tables = sa.MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        rows = {
            name: [dict(row) for row in connection.execute(sa.select(table)).mappings()]
            for name, table in tables.tables.items()
        }
    engine.dispose()
    for job in rows["jobs"]:
        for name in CHANGED_BY_A_LEASE:
            job.pop(name)
    return rows


def test_every_stage_is_done(tiny_job: nas.JobHandle):
    assert tiny_job.job.state == "succeeded"
    stages = tiny_job.store.stages(tiny_job.job)
    assert [stage.name for stage in stages] == ["space", "latency", "train", "search", "finalists"]
    assert {stage.state for stage in stages} == {"done"}


def test_the_report_is_what_the_extracted_module_does(tiny_job: nas.JobHandle):
    batches = list(datasets.build("digits").batches("report", 256))
    rows = tiny_job.store.evaluations(tiny_job.job, "report")
    assert rows
    for row in rows:
        module = tiny_job.extract(row.subnet.key)
        with torch.inference_mode():
            hits = torch.cat([module(x).argmax(dim=1) == labels for x, labels in batches])
        assert row.value == pytest.approx(float(hits.double().mean()), abs=1e-12)
        assert row.count == len(hits) == 300
        assert row.stderr == pytest.approx(math.sqrt(row.value * (1 - row.value) / 300))


def test_latency_is_predicted_and_measured(tiny_job: nas.JobHandle):
    members = tiny_job.front().members
    measured = tiny_job.store.measurements(tiny_job.job, "finalist")
    assert {member.subnet for member in members} == {row.subnet.key for row in measured}
    for member in members:
        assert member.predicted_ms is not None
        assert member.predicted_ms > 0
        assert member.measured_ms is not None
        assert member.measured_ms > 0
        assert member.spread_ms is not None
        assert member.stderr is not None
        assert member.interval_ms is not None
        assert member.interval_ms[0] < member.predicted_ms < member.interval_ms[1]
        assert member.peak_memory_bytes is not None
        assert member.peak_memory_bytes > 4 * member.params
    sample = tiny_job.store.measurements(tiny_job.job, "sample")
    assert len({row.subnet.key for row in sample}) == len(sample)
    assert len(sample) in (10, 14)  # as many as the noise of this machine asks for
    results = [row.result for row in [*sample, *measured]]
    assert all(4 <= result.rounds <= 6 and len(result.raw) == result.rounds for result in results)


def test_the_predictor_is_scored(tiny_job: nas.JobHandle):
    row = tiny_job.store.predictor(tiny_job.job)
    assert row is not None
    assert row.kind == "roofline"
    assert {"mape", "tau", "count", "repeatability"} <= row.score.keys()
    assert row.score["count"] == len(row.score["held_out"]) in (10, 14)
    assert row.score["mape"] > 0
    assert row.score["perfect_mape"] > 0
    assert row.score["why"].startswith("work: ")
    assert row.score["repeatability"].keys() == {"mape", "tau", "sigma"}


def test_the_training_is_told(tiny_job: nas.JobHandle):
    events = tiny_job.store.events(tiny_job.job, "train")
    assert [event.step for event in events] == [25, 50, 60]
    assert all(event.data["step"] == event.step for event in events)
    assert all(0 < event.data["loss"] < 10 for event in events)
    assert events[-1].data["lr"] < events[0].data["lr"]
    assert [found.kind for found in tiny_job.store.artifacts(tiny_job.job)] == ["supernet"]


def test_the_job_tells_where_it_comes_from(tiny_job: nas.JobHandle):
    assert tiny_job.name == "tiny"
    assert {"python", "platform", "host", "packages", "commit"} == tiny_job.job.provenance.keys()
    assert tiny_job.job.provenance["packages"]["torch"] == version("torch")
    assert tiny_job.job.config == merged(JobConfig.model_validate(tiny.CONFIG))
    stage = tiny_job.store.stage(tiny_job.job, "space")
    assert stage is not None
    assert stage.result is not None
    assert stage.result["data"]["digest"] == datasets.build("digits").digest


def test_the_front_as_json_has_the_promised_shape(tiny_job: nas.JobHandle):
    data = tiny_job.front().to_dict()
    always = ["job", "objectives", "hypervolume", "evaluations", "front"]
    assert [key for key in data if key != "cautions"] == always
    assert data["job"] == "tiny"
    assert data["objectives"] == [
        {"name": "accuracy", "goal": "max"},
        {"name": "latency_ms", "goal": "min", "device": "cpu"},
    ]
    assert data["evaluations"] == 24
    for member in data["front"]:
        shape = ["subnet", "architecture", "params", "macs", "quality", "latency"]
        assert [key for key in member if key != "beaten_by"] == [*shape, "peak_memory_bytes", "energy_mj"]
        assert list(member["quality"]) == ["metric", "value", "stderr", "balanced_accuracy"]
        assert list(member["latency"]) == [
            "device",
            "predicted_ms",
            "measured_ms",
            "spread_ms",
            "interval_ms",
        ]
        assert member["latency"]["device"] == "cpu"
    times = [member["latency"]["measured_ms"] for member in data["front"]]
    assert times == sorted(times)


def bomb(*_: object, **__: object) -> None:
    raise AssertionError("this was done already")


def test_running_a_finished_job_does_nothing(tiny_copy: str, monkeypatch: pytest.MonkeyPatch):
    before = content(tiny_copy)
    folder = Path(f"{sa.make_url(tiny_copy).database}.artifacts")
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert files
    monkeypatch.setattr(latency_fit, "measure", bomb)
    monkeypatch.setattr(train_stage, "Training", bomb)
    monkeypatch.setattr(search_stage, "_ask_searcher", bomb)
    monkeypatch.setattr("nas.evaluation.EvaluationPool.scored", bomb)
    with Store.open(tiny_copy) as store:
        pipeline.run(store, store.job("tiny"), progress=Silent())
        assert store.job("tiny").state == "succeeded"
    assert content(tiny_copy) == before
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == files


def searched(folder: Path, workers: int) -> list[Evaluation]:
    config = tiny.CONFIG | {
        "objectives": ["accuracy", "params"],
        "train": {"steps": 10, "batch_size": 16, "threads": 1},
        "predictor": {"samples": 10, "rounds": 2, "max_rounds": 2},
        "search": {"evaluations": 18, "batch": 6, "population": 6, "finalists": 2, "images": 60},
        "execution": {"workers": workers},
        "seed": 3,
    }
    job = nas.run(config, store=f"sqlite:///{folder / f'{workers}.sqlite'}")
    found = job.store.evaluations(job.job, "search")
    job.store.close()
    return found


def test_the_number_of_workers_changes_nothing(tmp_path: Path):
    alone, together = (searched(tmp_path, workers) for workers in (1, 2))
    assert [row.subnet.key for row in alone] == [row.subnet.key for row in together]
    assert [(row.value, row.stderr, row.count) for row in alone] == [
        (row.value, row.stderr, row.count) for row in together
    ]
    assert {row.count for row in alone} == {60}


def test_a_wrong_config_leaves_no_store(tmp_path: Path):
    file = tmp_path / "store.sqlite"
    wrong: list[dict[str, Any]] = [
        {"dta": "digits"},
        {"data": "digits", "supernet": {"space": {"depth": [2, 1]}}},
        {"data": "digits", "constraints": ["params<=3"]},
        {"data": "digits", "predictor": {"samples": 5}},
        {"data": "digits", "supernet": {"init": {"checkpoint": str(tmp_path / "none")}}},
    ]
    for config in wrong:
        with pytest.raises(UsageError):
            nas.run(config, store=f"sqlite:///{file}")
    assert list(tmp_path.iterdir()) == []


def test_a_subnet_in_python(tiny_job: nas.JobHandle):
    knee = tiny_job.front().knee()
    for module in (tiny_job.extract(knee=True), tiny_job.extract(knee.subnet)):
        assert sum(parameter.numel() for parameter in module.parameters()) == knee.params
        assert not module.training
    for arguments in ({}, {"subnet": knee.subnet, "knee": True}):
        with pytest.raises(ValueError, match="either"):
            tiny_job.extract(**arguments)  # type: ignore[arg-type]
