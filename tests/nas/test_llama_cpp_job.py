"""A job whose device is llama.cpp: latencies and qualities in its precisions, and the file to take home."""

import json
from pathlib import Path
from typing import Any

import pytest

import nas
import search_spaces
from nas import jobs
from nas.config import checked_config
from nas.exported.forms import Packing
from nas.measuring import agent, remote
from nas.measuring.devices import add, backends, check
from nas.measuring.folders.timed import measure_file
from nas.measuring.remote import RemoteDevice
from nas.measuring.requests import Plan, build_device, request_for
from nas.measuring.targets import check_takes
from nas.results.extraction import export
from nas.search.device_quality import check_quality_on
from nas.store import Lease, Store
from predictors.measurement.rounds import Measurement
from search_spaces.errors import UsageError
from tests.made_decoders import gguf_file
from tests.nas.datasets.test_gguf_tokenizers import made_tokenizer
from tests.nas.test_pretrained_job import SEARCH, job_file

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")
pytest.importorskip("tokenizers")
DEVICE: dict[str, Any] = {
    "backend": "llama_cpp",
    "batch": 1,
    "precisions": ["q8_0", "q4_0"],
    "workload": {"decode": {"context": 24}},
}


def of_llama_cpp(folder: Path, **numbers: Any) -> dict[str, Any]:
    """Zero-shot, on slices of a model whose rows blocks of 32 numbers divide."""
    said = made_tokenizer("smollm")
    sizes = {"embed_dim": 32, "num_heads": [4] * 2, "mlp_hidden": [256] * 2, "context": 32}
    numbers = sizes | {"vocabulary": len(said["tokens"])} | numbers
    gguf_file("Llama", folder / "model.gguf", tokenizer=said, numbers=numbers)
    search = SEARCH | {"evaluations": 6, "batch": 3, "finalists": 2, "start": "uniform"}
    objectives = ["bits_per_byte", "latency_ms@writing"]
    return job_file(folder, devices={"writing": DEVICE}, objectives=objectives, search=search)


@pytest.mark.slow
def test_a_front_of_precisions(tmp_path: Path) -> None:
    job = nas.run(of_llama_cpp(tmp_path), store=f"sqlite:///{tmp_path / 'store.sqlite'}")
    rows = job.store.device_qualities(job.job)
    assert {row.state for row in rows} == {"ok"}, [row.reason for row in rows]
    devices = {device.id: device.fingerprint for device in job.store.devices()}
    computed = {(row.subnet.key, devices[row.device_id]["precision"]) for row in rows}
    assert {precision for _, precision in computed} == {"q8_0", "q4_0"}
    assert len(computed) == len(rows) == 2 * len({key for key, _ in computed})
    assert {json.dumps(one["workload"]) for one in devices.values()} == {json.dumps(DEVICE["workload"])}
    for row in rows:
        assert row.value is not None
        assert 0 < abs(row.difference or 0) < (0.05 if devices[row.device_id]["precision"] == "q8_0" else 0.5)
        assert (row.difference_stderr or 0) > 0
    samples = job.store.measurements(job.job, "sample")
    assert {one.device_id for one in samples} == devices.keys()
    folder, packing = tmp_path / "slice", Packing(("gguf",), "q4_0")
    export(job.store, job.job, rows[0].subnet.key, folder, packing=packing)
    card, config = (folder / "README.md").read_text(), (folder / "config.json").read_text()
    assert "| bits per byte of the file | " in card
    assert "| tokenizer of the file | as the network's texts have it |" in card
    assert str(tmp_path / "model.gguf") not in card + config
    timed = measure_file(folder, "gguf", {})
    assert timed["front"]["differs"] == ""
    assert timed["device"]["precision"] == "q4_0"


def test_what_llama_cpp_cannot_run_is_known_before_a_job_runs(tmp_path: Path) -> None:
    config = of_llama_cpp(tmp_path)
    jobs.check(checked_config(config, where="here"))
    narrow = config["supernet"] | {"space": {"mlp_hidden": [128, 200]}}
    with pytest.raises(UsageError, match=r"'writing@q8_0' cannot run .* have 200") as refused:
        jobs.check(checked_config(config | {"supernet": narrow}, where="here"))
    assert refused.value.hint == "The nearest that it takes are 192 and 224."
    layers = config | {"predictor": {"name": "lookup_table"}}
    with pytest.raises(UsageError, match="which 'writing@q8_0' cannot: llama_cpp takes whole networks"):
        jobs.check(checked_config(layers, where="here"))
    for quality in ("bits_per_byte@writing@q4_0", "bits_per_byte@writing@q8_0"):
        check_quality_on(checked_config(config | {"objectives": [quality, "params"]}, where="here"))


def test_an_agent_times_slices_in_llama_cpp(store: Store, lease: Lease, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"context": 32, "head_dim": 8, "embed_dim": [32], "depth": [1], "num_heads": [4]}
    space = search_spaces.get("matlm", mlp_hidden=[32, 64], **sizes)
    options = {name: value for name, value in DEVICE.items() if name != "precisions"}
    options["precision"] = "q8_0"

    def served() -> int:
        return agent.serve(store, "pi", options, once=True, tell=lambda _: None)

    assert served() == 0
    row = next(row for row in store.devices() if row.name == "pi")
    pi = RemoteDevice("pi", "pi", row)
    archs = {arch.key: arch for arch in space.uniform(2)}
    plan = Plan(space, archs, seed=0, rounds=2, max_rounds=2, reference_ms=None)
    asked = remote.submit(store, lease, pi, request_for(plan))
    assert served() == 1
    results = remote.wait(store, lease, pi, asked, warn=lambda _: None, check_stop=lambda: None)
    assert results.keys() == archs.keys()
    assert all(isinstance(one, Measurement) and one.latency_ms > 0 for one in results.values())
    assert (row.fingerprint["precision"], row.fingerprint["workload"]) == ("q8_0", DEVICE["workload"])
    check_takes(space, pi)
    with pytest.raises(UsageError, match=r"Device 'pi' cannot run .* have 40") as refused:
        check_takes(search_spaces.get("matlm", mlp_hidden=[32, 40], **sizes), pi)
    assert refused.value.hint == "The nearest that it takes are 32 and 64."


def test_a_device_under_a_name_is_tried_with_its_own_calibrator(tmp_path: Path) -> None:
    assert {"name": "llama_cpp", "available": True, "reason": None} in backends()
    options = {"backend": "llama_cpp", "batch": 2, "workload": {"prefill": 16}}
    with Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}") as store:
        row = add(store, "writer", options)
        assert row.reference_ms is not None
        tried = check(build_device("writer", options), row)
    assert tried["first"]["latency_ms"] > 0
    assert tried["peak_memory"]
