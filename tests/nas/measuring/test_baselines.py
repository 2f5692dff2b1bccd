"""Reference networks beside a front: evaluated on its report split, measured on its devices, marked."""

import csv
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_job import CONFIG, untrained_job

import nas
from dashboards.figures import front_figure, fronts_figure
from nas import datasets, jobs
from nas.cli.fronts import emit_front
from nas.config import checked_config
from nas.datasets import DataSet
from nas.errors import JobFailedError
from nas.measuring import baselines as measuring
from nas.measuring.remote import RemoteDevice
from nas.measuring.requests import build_device
from nas.results import extraction, frames
from nas.results.baselines import frame
from nas.results.front import front
from nas.spaces.baselines import costs, load_baselines
from nas.store import Store
from predictors import layers_of
from predictors.any_model import fit_layers
from predictors.regression.features import Workload
from search_spaces.errors import NASError, UsageError

VIT: dict[str, Any] = {
    "img_size": 8,
    "patch_size": 4,
    "in_chans": 1,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
}


def timm_folder(folder: Path, classes: int = 10, **sizes: Any) -> str:
    """A folder as timm writes it, with random weights; its name in a job file."""
    folder.mkdir()
    arguments = VIT | sizes
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=classes, **arguments)
    save_file(model.state_dict(), folder / "model.safetensors")
    shape = [arguments["in_chans"], arguments["img_size"], arguments["img_size"]]
    card = {"input_size": shape, "num_classes": classes, "mean": [0.5], "std": [0.5]}
    card |= {"first_conv": "patch_embed.proj", "classifier": "head"}
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": classes, "model_args": arguments}
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": card}))
    return f"local-dir:{folder}"


def extracted(folder: Path) -> Path:
    """What `nas extract` writes of a subnet for the same images."""
    job = untrained_job(f"sqlite:///{folder / 'other.db'}")
    with job.store:
        (key,) = job.looked_at(job.space.largest)
        extraction.export(job.store, job.job, key, folder / "subnet")
    return folder / "subnet"


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return datasets.build("digits")


def loaded(digits: DataSet, *baselines: dict[str, Any]) -> Any:
    return load_baselines(
        checked_config({"data": "digits", "baselines": list(baselines)}, where="here"), digits
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> nas.JobHandle:
    """A job with a network for its ten digits, an extracted subnet, and one for seven classes."""
    folder = tmp_path_factory.mktemp("baselines")
    networks = [{"timm": timm_folder(folder / "ten")}, {"checkpoint": str(extracted(folder))}]
    networks += [{"timm": timm_folder(folder / "seven", classes=7)}]
    url = f"sqlite:///{folder / 'nas.db'}"
    with Store.open(url) as store:
        keep_predictor(store)
    return nas.run(CONFIG | {"baselines": networks}, store=url)


def keep_predictor(store: Store) -> None:
    """What `nas devices fit` keeps of the job's device, of models that take 2 ms a layer there."""
    options = {"backend": "torch_cpu", **CONFIG["devices"]["cpu"]}
    fingerprint = build_device("cpu", options).fingerprint()
    models = [timm.create_model("vit_tiny_patch16_224", **VIT | {"depth": depth}) for depth in (1, 2, 3, 4)]
    layers = [layers_of(model, torch.zeros(1, 1, 8, 8)) for model in models]
    fitted = fit_layers(layers, [2.0, 4.0, 6.0, 8.0], workload=Workload(8))
    text = json.dumps({"version": 1, "predictor": fitted.to_json()})
    store.put_device_file(store.register_device("cpu", fingerprint), text)


NAMES = ["ten", "subnet", "seven"]


def test_reference_networks_are_evaluated_and_measured(
    finished: nas.JobHandle, digits: DataSet, tmp_path: Path
) -> None:
    ten, subnet, seven = finished.front().baselines
    assert [ten.name, subnet.name, seven.name] == NAMES
    assert (seven.quality, seven.unfit) == (None, "it knows 7 classes, and the data has 10")
    for one in (ten, subnet, seven):
        assert one.measured_ms is not None
        assert one.device == "cpu"
    module = timm.create_model(finished.job.config["baselines"][0]["timm"], pretrained=True).eval()
    with torch.no_grad():
        right = torch.cat([module(x).argmax(1) == labels for x, labels in digits.batches("report", 64)])
    assert ten.quality == pytest.approx(right.double().mean().item())
    assert ten.stderr is not None
    assert ten.params == sum(parameter.numel() for parameter in module.parameters())
    assert ten.predicted_ms == pytest.approx(2.0, rel=0.3)  # of the device's predictor, whatever was measured
    assert ten.predicted_low_ms is not None
    assert ten.predicted_high_ms is not None
    assert ten.predicted_low_ms < ten.predicted_ms < ten.predicted_high_ms
    latency = ten.to_dict()["latency"]
    assert (latency["measured_ms"], latency["predicted_ms"]) == (ten.measured_ms, ten.predicted_ms)
    space = untrained_job(f"sqlite:///{tmp_path / 'again.db'}").space
    cost = space.cost(space.largest)
    assert (subnet.params, subnet.macs) == (cost.params, cost.macs)


def test_a_front_tells_them_apart_from_its_members(
    finished: nas.JobHandle, capsys: pytest.CaptureFixture[str]
) -> None:
    pareto = finished.front()
    document = json.loads(json.dumps(pareto.to_dict()))
    assert [one["baseline"] for one in document["baselines"]] == NAMES
    assert document["baselines"][2]["quality"]["reason"] == pareto.baselines[2].unfit
    assert len(document["front"]) == len(pareto.members)
    rows = list(csv.DictReader(io.StringIO(pareto.to_csv())))
    assert [row["subnet"] for row in rows if row["baseline"] == "true"] == NAMES
    assert [row["subnet"] for row in rows if row["baseline"] == "false"] == [m.subnet for m in pareto.members]
    assert len(pareto.to_pandas()) == len(pareto.members)
    emit_front(pareto, as_json=False)
    table = capsys.readouterr().out
    assert "* ten" in table
    assert f"{pareto.baselines[0].predicted_ms:.3f}" in table
    assert "* seven is not evaluated: it knows 7 classes" in table


def test_figures_have_stars_for_those_that_were_evaluated(finished: nas.JobHandle) -> None:
    pareto = finished.front()
    members = pd.DataFrame([member.row for member in pareto.members])
    by_params = frame(pareto.baselines, "params")
    for figure in (
        front_figure(frames.finalists(finished.store, finished.job), baselines=frame(pareto.baselines)),
        fronts_figure(members, metric="accuracy", cost="params", baselines=by_params),
    ):
        (stars,) = [trace for trace in figure.data if (trace.name or "").startswith("reference")]
        assert (stars.marker.symbol, list(stars.text)) == ("star", ["ten", "subnet"])


def test_a_job_without_any_tells_nothing_of_them(store: Store) -> None:
    job = store.create_job("a", config={"data": {"name": "digits"}}, seed=0, provenance={})
    pareto = front(store, job)
    assert pareto.baselines == ()
    assert "baselines" not in pareto.to_dict()
    assert "baseline" not in pareto.to_csv()


def test_costs_are_those_of_the_space(digits: DataSet, tmp_path: Path) -> None:
    job = untrained_job(f"sqlite:///{tmp_path / 'nas.db'}")
    with job.store:
        (key,) = job.looked_at(job.space.smallest)
        module = extraction.extract(job.store, job.job, key)
    cost = job.space.cost(job.space.smallest)
    assert costs(module, tuple(digits.input_shape)) == {"params": cost.params, "macs": cost.macs}


def test_weights_that_learnt_nothing_are_measured_only(digits: DataSet) -> None:
    (one,) = loaded(digits, {"timm": "resnet10t", "pretrained": False})
    assert one.unfit == "its weights are not pretrained"
    again = loaded(digits, {"timm": "resnet10t", "pretrained": False})[0]
    for name, tensor in one.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[name])


def test_two_of_one_name_have_names_of_their_own(digits: DataSet, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    folders = [timm_folder(tmp_path / parent / "net") for parent in ("a", "b")]
    assert [one.name for one in loaded(digits, *({"timm": name} for name in folders))] == ["net", "net-2"]


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        ({"timm": "no_such_model"}, "baselines.0: timm has no model 'no_such_model'"),
        ({"checkpoint": "/nowhere/at/all"}, "baselines.0: There is no folder"),
        ({"timm": "hiera_tiny_224", "pretrained": False}, "baselines.0: timm"),
    ],
)
def test_what_does_not_fit_is_one_sentence_before_the_training(baseline: dict[str, Any], words: str) -> None:
    config = checked_config(CONFIG | {"baselines": [baseline]}, where="here")
    with pytest.raises(NASError) as raised:
        jobs.check(config)
    assert raised.value.message.startswith(words)
    assert "\n" not in raised.value.message
    assert raised.value.exit_code == 2


def test_a_subnet_of_other_images_is_refused(tmp_path: Path) -> None:
    config = {"data": "digit_pairs", "baselines": [{"checkpoint": str(extracted(tmp_path))}]}
    with pytest.raises(UsageError, match=r"baselines.0: The subnet .* takes images of \(1, 8, 8\)"):
        jobs.check(checked_config(config, where="here"))


@pytest.mark.parametrize(
    ("baselines", "words"),
    [
        ([{"vit": {}}], "must be {timm: NAME} or {checkpoint: FOLDER}"),
        ([{"timm": "x"}, {"timm": "x"}], "the same network is there twice"),
        (["x"], "must be {timm: NAME} or {checkpoint: FOLDER}"),
    ],
)
def test_what_names_no_network_is_refused(baselines: list[Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        checked_config({"data": "digits", "baselines": baselines}, where="here")


AGENT = "import sys; from nas.cli import main; sys.exit(main(sys.argv[1:]))"


@contextmanager
def agent_process(url: str) -> Iterator[None]:
    """An agent `pi`, in a process of its own."""
    words = ["device-agent", "pi", "--backend", "torch_cpu", "--batch", "8", "--store", url]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", AGENT, *words], env=environment)
    try:
        with Store.open(url) as store:
            while (agent := store.agent("pi")) is None or not agent.live:
                assert process.poll() is None, "the agent has ended"
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.slow
def test_reference_networks_are_measured_on_a_device_of_another_host(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'nas.db'}"
    Store.open(url).close()
    networks = [{"timm": timm_folder(tmp_path / "ten")}, {"checkpoint": str(extracted(tmp_path))}]
    networks += [{"timm": "resnet10t", "pretrained": False}]
    config = CONFIG | {"devices": {"pi": {"backend": "remote"}}, "baselines": networks}
    with agent_process(url):
        job = nas.run(config, store=url)
    for one in job.front().baselines:
        assert one.device == "pi", one
        assert one.unmeasured is None
        assert one.measured_ms is not None
        assert 0 < one.measured_ms < 1e5
    (asked,) = [request for request in job.store.requests(job.job) if "space" not in request.payload]
    assert asked.state == "done"
    assert len(asked.payload["archs"]) == 3
    assert str(tmp_path) not in json.dumps(asked.payload)  # a path of this host says nothing to another


def test_an_agent_that_cannot_measure_them_leaves_the_job_its_front(
    finished: nas.JobHandle, digits: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away:
        def measure(self, *_: Any, **__: Any) -> None:
            raise JobFailedError("Device 'pi' could not measure: KeyError: 'space'.")

    told: list[str] = []
    row = finished.store.devices()[0]
    run = SimpleNamespace(
        config=checked_config(CONFIG, where="here"),
        store=finished.store,
        lease=None,
        warn=told.append,
        check_stop=lambda: None,
    )
    monkeypatch.setattr(measuring, "build_device", lambda *_: RemoteDevice("pi", "pi", row))
    monkeypatch.setattr(measuring, "remote", Away())
    networks = loaded(digits, *finished.job.config["baselines"])
    undescribed = replace(networks[0], described=None)
    rows = measuring.measured_on(run, "pi", [undescribed, *networks[1:]], digits)
    assert rows[0]["reason"] == measuring.UNTOLD
    assert rows[1]["reason"] == "Device 'pi' could not measure: KeyError: 'space'."
    assert [one["predicted_ms"] for one in rows] == [b.predicted_ms for b in finished.front().baselines]
    assert len(told) == len(networks)
