"""A job whose device is llama.cpp: latencies and qualities in its precisions, and the file to take home."""

import json
from pathlib import Path
from typing import Any

import pytest

import nas
from nas import jobs
from nas.config import checked_config
from nas.exported.forms import Packing
from nas.measuring.devices import add, backends, check
from nas.measuring.folders.timed import measure_file
from nas.measuring.requests import build_device
from nas.results.extraction import export
from nas.search.device_quality import check_quality_on
from nas.store import Store
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


def test_a_device_under_a_name_is_tried_with_its_own_calibrator(tmp_path: Path) -> None:
    assert {"name": "llama_cpp", "available": True, "reason": None} in backends()
    options = {"backend": "llama_cpp", "batch": 2, "workload": {"prefill": 16}}
    with Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}") as store:
        row = add(store, "writer", options)
        assert row.reference_ms is not None
        tried = check(build_device("writer", options), row)
    assert tried["first"]["latency_ms"] > 0
    assert tried["peak_memory"]
