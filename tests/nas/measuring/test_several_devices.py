"""A job on two devices of which neither is faster throughout, and one with one objective, end to end."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from same_process import evaluating_here
from tiny_job import CONFIG, copied

from dashboards.app import job_front, job_parts
from dashboards.figures.look import milliseconds
from dashboards.job.panel import subnet_facts
from nas import jobs, pipeline
from nas.cli import main
from nas.cli.jobs import summary
from nas.config import JobConfig, checked_config
from nas.errors import ConflictError
from nas.job_run import Run
from nas.limits import Limit
from nas.measuring import devices, further_device
from nas.measuring import latency as latency_stage
from nas.measuring.latency import Latency, stored_latencies
from nas.progress import Silent
from nas.results import extraction, frames, job_devices, latency_frames
from nas.results.front import front
from nas.spaces.job_space import space_of
from nas.store import Job, Store
from nas.store import tables as t
from nas.store.migrations import released_keys
from search_spaces.errors import UsageError
from tests import made_device

# One is slow for each parameter, the other for each module.
PI: dict[str, Any] = {"backend": made_device.BACKEND, "batch": 8}
GPU = PI | {"speed": 100.0, "launch": 1e-5}
TINY: dict[str, Any] = {
    "data": "digits",
    "supernet": CONFIG["supernet"],
    "train": {"steps": 20, "batch_size": 16, "warmup": 5, "threads": 1},
    "devices": {"pi": PI},
    "predictor": {"samples": 12, "rounds": 2, "max_rounds": 2},
    "search": {"evaluations": 24, "batch": 6, "population": 6, "finalists": 5, "images": 60},
}
TWO = TINY | {
    "devices": {"pi": PI, "gpu": GPU},
    "constraints": ["latency_ms<=0.172", "latency_ms@pi<=0.08"],
}
ALONE = TINY | {"objectives": ["accuracy"], "constraints": ["latency_ms<=0.06"]}
LIMITS = {"pi": 0.08, "gpu": 0.172}


def made(store: Store, config: dict[str, Any], name: str) -> Job:
    return jobs.create(store, checked_config(config, where="The config"), name=name)


def ran(store: Store, job: Job, progress: Silent | None = None) -> Job:
    with evaluating_here():
        pipeline.run(store, job, progress=progress or Silent())
    return store.job(job.id)


@pytest.fixture(scope="module")
def url(_session_home: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a store with both jobs; tests only read it."""
    url = f"sqlite:///{tmp_path_factory.mktemp('several') / 'store.sqlite'}"
    with Store.open(url) as store:
        # Another job has met one of the devices by another name.
        store.register_device("elsewhere", made_device.build(name="elsewhere", **_options(GPU)).fingerprint())
        for name, config in {"two": TWO, "alone": ALONE}.items():
            assert ran(store, made(store, config, name)).state == "succeeded"
    return url


def _options(device: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in device.items() if name != "backend"}


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url, read_only=True) as opened:
        yield opened


def predicted(store: Store, job: Job) -> tuple[Latency, ...]:
    rows = {row.id: row for row in store.devices()}
    found = {name: rows[i] for name, i in job_devices.searched_for(store, job).items()}
    config = JobConfig.model_validate(job.config, strict=False)
    return stored_latencies(store, job, config, space_of(store, job), found)


def test_each_device_has_a_stage_a_sample_and_a_predictor(store: Store) -> None:
    job = store.job("two")
    stages = [stage.name for stage in store.stages(job)]
    assert stages == ["space", "latency", "latency:gpu", "train", "search", "finalists"]
    ids = job_devices.searched_for(store, job)
    assert list(ids) == ["pi", "gpu"]
    assert job_devices.own_device(store, job) == ids["pi"]
    assert [p["device"] for p in summary(store, job)["predictors"]] == ["pi", "gpu"]
    space = space_of(store, job)
    deep, wide = ({"embed_dim": 8, "depth": 2}, {"embed_dim": 16, "depth": 1})
    smallest = {"num_heads": 1, "mlp_ratio": [0.5] * 2}
    codes = space.encode(
        [space.architecture(smallest | deep), space.architecture(smallest | {"mlp_ratio": [4]} | wide)]
    )
    on_pi, on_gpu = (latency.predict(codes) for latency in predicted(store, job))
    assert on_pi[0] < on_pi[1]
    assert on_gpu[0] > on_gpu[1]


def test_the_limits_of_each_device_are_kept(store: Store) -> None:
    job = store.job("two")
    asked = ["latency_ms@pi<=0.172", "latency_ms@gpu<=0.172", "latency_ms@pi<=0.08"]
    assert job.config["constraints"] == asked
    assert job.config["objectives"] == ["accuracy", "latency_ms@pi", "latency_ms@gpu"]
    space, latencies = space_of(store, job), predicted(store, job)
    everything = space.all_codes()
    rows = store.evaluations(job, "search")
    evaluated = space.encode([space.architecture(row.subnet.architecture) for row in rows])
    assert len(rows) == 24
    for latency in latencies:
        assert latency.called is not None
        limit = LIMITS[latency.called]
        assert latency.limited_ms(evaluated).max() <= limit < latency.limited_ms(everything).max()
        told = [row.objectives[f"latency_ms@{latency.called}"] for row in rows]
        assert told == pytest.approx(list(latency.predict(evaluated)), rel=0.2)  # some were measured
    assert not {"latency_ms", "predicted_ms"} & set(rows[0].objectives)


def test_the_front_tells_the_latency_on_each_device(store: Store) -> None:
    job = store.job("two")
    found, there = front(store, job), front(store, job, device="gpu")
    assert (found.device, there.device) == ("pi", "gpu")
    assert {m.subnet for m in found.members} == {m.subnet for m in there.members}
    for asked in (found, there):
        data = json.loads(json.dumps(asked.to_dict()))
        assert data["objectives"] == [
            {"name": "accuracy", "goal": "max"},
            {"name": "latency_ms", "goal": "min", "device": "pi"},
            {"name": "latency_ms", "goal": "min", "device": "gpu"},
        ]
        times = [member["latency"]["measured_ms"] for member in data["front"]]
        assert times == sorted(times)
        for member in data["front"]:
            assert [one["device"] for one in member["latencies"]] == ["pi", "gpu"]
            assert member["latency"] in member["latencies"]
            for one in member["latencies"]:
                assert one["measured_ms"] == pytest.approx(one["predicted_ms"], rel=0.1)
    frame = found.to_pandas()
    assert list(frame["measured_ms@pi"]) == list(frame["measured_ms"])
    assert sorted(frame["measured_ms@gpu"]) == [m.measured_ms for m in there.members]
    assert "measured_ms@gpu" in found.to_csv()


def test_conditions_on_one_of_the_devices(store: Store) -> None:
    job = store.job("two")
    everyone = front(store, job).members
    limit = sorted(one.on_devices[1].measured_ms or 0.0 for one in everyone)[0]
    fast = front(store, job, where=[Limit.parse(f"latency_ms@gpu<={limit}")]).members
    assert 0 < len(fast) < len(everyone)
    assert all((member.on_devices[1].measured_ms or 1) <= limit for member in fast)
    plain = front(store, job, device="gpu", where=[Limit.parse(f"latency_ms<={limit}")]).members
    assert {m.subnet for m in plain} == {m.subnet for m in fast}
    with pytest.raises(UsageError, match="nothing here was measured on 'gpuu'") as caught:
        front(store, job, where=[Limit.parse("latency_ms@gpuu<=1")])
    assert caught.value.hint == "Did you mean 'gpu'?"


def test_frames_and_figures_are_of_the_device_that_is_asked_for(store: Store) -> None:
    job = store.job("two")
    ids = job_devices.searched_for(store, job)
    assert list(latency_frames.measured_on(store, job)["searched_for"]) == [True, True]
    assert set(latency_frames.measured_on(store, job)["device"]) == {"pi", "gpu"}
    for name, device_id in ids.items():
        searched = frames.evaluations(store, job, device_id)
        assert list(searched["latency_ms"]) == list(searched[f"latency_ms@{name}"])
        drawn = {
            x for trace in job_front(store, job.id, selected=None, device_id=device_id).data for x in trace.x
        }
        assert set(searched["latency_ms"]) <= drawn
        assert job_parts(store, job.id, device_id=device_id)[1] is not None
        for row in searched.iloc[[0, -1]].to_dict("records"):
            told = subnet_facts(store, job, row["subnet"], device_id)
            assert told is not None
            assert dict(told.figures)["latency, predicted"] == milliseconds(row["predicted_ms"])
    assert list(frames.evaluations(store, job)["latency_ms"]) == list(searched["latency_ms@pi"])


def test_the_card_of_an_extracted_subnet_tells_the_latency_on_each_device(
    store: Store, tmp_path: Path
) -> None:
    job = store.job("two")
    member = front(store, job, device="gpu").members[0]
    extraction.export(store, job, member.subnet, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "config.json").read_text())["elastiform"]
    for one in member.on_devices:
        assert told[f"latency_ms@{one.device}"] == one.measured_ms
        assert told[f"batch@{one.device}"] == 8
    assert "latency_ms" not in told


def test_a_prediction_for_each_device(store: Store) -> None:
    told = jobs.predict(store, store.job("two"), space_of(store, store.job("two")).smallest.to_dict())
    assert [one["device"] for one in told["latencies"]] == ["pi", "gpu"]
    assert told["latency"] == told["latencies"][0]
    assert "latencies" not in jobs.predict(
        store, store.job("alone"), space_of(store, store.job("alone")).smallest.to_dict()
    )


def test_one_objective_reports_the_best_few_and_the_best_of_them_first(store: Store) -> None:
    job = store.job("alone")
    rows = sorted(store.evaluations(job, "search"), key=lambda row: -(row.value or 0))
    found = front(store, job)
    assert found.objectives == ("accuracy",)
    assert len(found.members) == 5
    believed = {member.search_quality for member in found.members}
    assert min(believed) >= np.median([row.value for row in rows])
    qualities = [member.quality for member in found.members]
    assert qualities == sorted(qualities, reverse=True)
    assert found.knee() == found.members[0]
    assert found.hypervolume == pytest.approx(rows[0].value)
    assert all((member.measured_ms or 1) <= 0.06 for member in found.members)
    assert found.to_dict()["objectives"] == [{"name": "accuracy", "goal": "max"}]
    assert job_front(store, job.id, selected=None).data
    assert job_parts(store, job.id)[3].data


def test_the_command_line_says_whose_latency_it_shows(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> str:
        assert main([*words, "--store", url]) == 0
        return capsys.readouterr().out

    assert "Latency on pi; --device chooses another one of pi, gpu." in said("front", "two")
    assert "Latency on gpu;" in said("front", "two", "--device", "gpu")
    shown = said("show", "two")
    assert "predictor on pi" in shown
    assert "predictor on gpu" in shown
    alone = said("front", "alone")
    assert "Latency on" not in alone
    best = alone.splitlines()[1].split()[0]
    assert f"The best on the report split comes first: {best}" in alone
    assert "predictor on" not in said("show", "alone")


class Impatient(Silent):
    """Stops the job in a stage, when so much of it is done."""

    def __init__(self, stage: str, done: int) -> None:
        self._asked, self._done, self._stage = stage, done, ""

    def stage(self, name: str) -> None:
        self._stage = name

    def update(self, done: int, total: int, **info: object) -> None:
        if self._stage == self._asked and done >= self._done:
            raise KeyboardInterrupt


def test_a_job_that_was_stopped_goes_on_on_both_devices(url: str, tmp_path: Path) -> None:
    with Store.open(copied(url, tmp_path / "copy")) as store:
        whole = store.job("two")
        job = made(store, TWO | {"reuse": False}, "stopped")
        for progress in (Impatient("latency:gpu", 3), Impatient("search", 12)):
            with pytest.raises(KeyboardInterrupt):
                ran(store, job, progress)
        assert len(store.evaluations(job, "search")) == 12
        fitted = {stage.name: stage.finished_at for stage in store.stages(job) if "latency" in stage.name}
        again = ran(store, job)
        assert fitted.items() <= {stage.name: stage.finished_at for stage in store.stages(again)}.items()
        for split in ("search", "report"):
            one, other = (store.evaluations(found, split) for found in (whole, again))
            assert [(row.subnet.key, row.value, row.objectives) for row in one] == [
                (row.subnet.key, row.value, row.objectives) for row in other
            ]


def test_a_third_device_can_be_asked_afterwards(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "CALIBRATION_SECONDS", 0.0)
    with Store.open(copied(url, tmp_path / "copy")) as store:
        for name, options in {"lab": PI | {"speed": 0.5}, "elsewhere": GPU}.items():
            devices.add(store, name, options)
        job = store.job("two")
        before = front(store, job)
        with pytest.raises(ConflictError, match="was measured on 'elsewhere' from the first"):
            further_device.measure_on(store, "elsewhere", job, progress=Silent())
        further_device.measure_on(store, "lab", job, progress=Silent())
        assert front(store, job) == before
        there = front(store, job, device="lab")
        assert len(there.members) == len(before.members)
        assert [one.device for one in there.members[0].on_devices] == ["pi", "gpu"]
        assert there.members[0].measured_ms == pytest.approx(2 * (before.members[0].measured_ms or 0))
        assert ran(store, job).state == "succeeded"


def test_two_names_for_one_device(tmp_path: Path) -> None:
    config = checked_config(TINY | {"devices": {"a": PI, "b": PI}}, where="The config")
    with pytest.raises(UsageError, match="The devices 'a' and 'b' are the same one"):
        jobs.check(config)
    with Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}") as store:
        job = jobs.create(store, config, name=None)
        with pytest.raises(UsageError, match="The devices 'a' and 'b' are the same one"):
            ran(store, job)
        assert [*store.measurements(job), *store.failures(job)] == []


def test_what_cannot_be_measured_on_one_device_is_tried_on_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a limit that no subnet keeps on the second is told with its name, before anything is trained."""
    fit = latency_stage.measure_and_fit

    def measured(run: Any, space: Any, device: Any, row: Any) -> Any:
        run.failed.add((row.id if device.name == "pi" else -1, space.smallest.key))
        return fit(run, space, device, row)

    monkeypatch.setattr(latency_stage, "measure_and_fit", measured)
    with Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}") as store:
        job = made(store, TWO | {"constraints": ["latency_ms@gpu<=0.05"]}, "tight")
        with pytest.raises(UsageError, match=r"keeps the limit 'latency_ms@gpu<=0\.05'"):
            ran(store, job)
        ids = job_devices.searched_for(store, job)
        keys = {i: {m.subnet.key for m in store.measurements(job) if m.device_id == i} for i in ids.values()}
        smallest = space_of(store, job).smallest.key
        assert smallest not in keys[ids["pi"]]
        assert smallest in keys[ids["gpu"]]


def test_stages_of_jobs_with_one_device_have_the_keys_that_they_always_had(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that jobs which were begun before there were several devices go on where they stopped."""
    monkeypatch.setenv("NAS_COMPONENTS", made_device.BACKEND)
    asked: dict[str, dict[str, Any]] = {}
    once = Run.once

    def recorded(run: Run, name: str, inputs: dict[str, Any], make: Any) -> dict[str, Any]:
        asked[name] = inputs
        return once(run, name, inputs, make)

    monkeypatch.setattr(Run, "once", recorded)
    with Store.open(copied(url, tmp_path / "copy")) as store:
        with store.write() as connection:
            connection.execute(sa.update(t.jobs).values(state="stopped"))
        before = store.stages(store.job("alone"))
        ran(store, store.job("alone"))
        assert store.stages(store.job("alone")) == before
    del asked["space"]["config"]["use"]  # no job of that time has it, nor a choice of the optimiser
    later = ("optimizer", "muon", "schedule", "lr_floor", "layer_decay", "accumulate", "drop_path")
    later += ("mixup", "cutmix", "loaders", "workers", "drop_path_by", "dropout", "recalibrate", "tf32")
    for field in (*later, "channels_last", "checkpoint_activations", "compile"):
        del asked["train"]["train"][field]
    del asked["train"]["train"]["sampling"]["lot_norms"]
    keys: dict[str, str] = {}
    for name, inputs in asked.items():
        values = [name, released_keys.stage_inputs(name, inputs), keys]
        keys[name] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    assert keys["space"] == "a031a077b44bf34d4ec089d05abfa65145bb96c92961c72afb4ff37b0d8f5d91"
    assert keys["latency"] == "b44e33ebd9e15cc06167224f83ed8c3e986aad879a419ac60236596d1c3b5cf9"
    assert keys["train"] == "7bda13c47a453dcc73f2eca78d0d2cdfbfc77f54981298e61c0d5820757959f2"


def test_the_objectives_and_limits_of_one_device_stay_as_they_are_written() -> None:
    written = {"objectives": ["accuracy", "latency_ms"], "constraints": ["latency_ms <= 5", "params<3e6"]}
    config = JobConfig.model_validate(written)
    assert [list(config.objectives), list(config.constraints)] == list(written.values())
    assert JobConfig().objectives == ("accuracy", "latency_ms")
