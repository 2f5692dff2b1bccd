"""A device's workload: what language models are run on, what is counted for it, and who has none."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_stage_latency import running

import search_spaces
import supernet
from nas import jobs
from nas.config import JobConfig, checked_config
from nas.exported.folder import export
from nas.measuring import requests
from nas.measuring.latency import latencies, stored_latency
from nas.measuring.requests import build_device
from nas.measuring.targets import resolved, target
from nas.store import Store, changes, is_same
from predictors.devices import torch_cpu
from search_spaces import SearchSpace
from search_spaces.errors import UsageError
from search_spaces.families.matlm import decoding
from search_spaces.workloads import as_run
from tests import made_device

DECODE, PREFILL = {"decode": {"context": 40}}, {"prefill": 16}


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return search_spaces.get("matlm")


def config(**devices: Any) -> JobConfig:
    made = {
        name: {"backend": made_device.BACKEND, "batch": 2, "workload": workload}
        if workload
        else {"backend": made_device.BACKEND, "batch": 2}
        for name, workload in devices.items()
    }
    predictor = {"samples": 12, "rounds": 2, "max_rounds": 2}
    return checked_config({"devices": made, "predictor": predictor}, where="The config")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, ...]]]:
    """The networks that were prepared and the shapes of their inputs."""
    seen: list[tuple[str, tuple[int, ...]]] = []
    prepare = made_device.MadeDevice.prepare

    @contextmanager
    def noted(self: Any, module: Any, example: Any) -> Iterator[Any]:
        seen.append((type(module).__name__, tuple(example.shape)))
        with prepare(self, module, example) as run:
            yield run

    monkeypatch.setattr(made_device.MadeDevice, "prepare", noted)
    return seen


@pytest.mark.parametrize(
    ("workload", "ran"),
    [(None, ("Decoder", (2, 64))), (PREFILL, ("Decoder", (2, 16))), (DECODE, ("DecodeStep", (2, 1)))],
)
def test_the_device_runs_the_workload(
    store: Store, space: SearchSpace, runs: list[Any], workload: Any, ran: Any
) -> None:
    with running(store, config(pi=workload)) as run:
        (latency,) = latencies(run, space)
    assert {one for one in runs if one[0].startswith("Decode")} == {ran}
    codes = space.sample_choices(np.random.default_rng(0), 30)
    seconds = 1e-5 + made_device.SECONDS_PER_PARAMETER * space.costs(codes)["params"]
    assert latency.predict(codes) == pytest.approx(1e3 * seconds, rel=0.1)
    layers = latency.predictor.space.layers(space.largest)
    assert layers == as_run(space, workload).layers(space.largest)
    again = stored_latency(store, store.job("job"), run.config, space, store.devices()[0])
    assert again is not None
    assert np.array_equal(again.predict(codes), latency.predict(codes))


def test_workloads_are_different_devices(store: Store, space: SearchSpace, runs: list[Any]) -> None:
    asked = config(whole=None, short=PREFILL, step=DECODE)
    with running(store, asked) as run:
        found = latencies(run, space)
    assert len({latency.device.id for latency in found}) == len(store.devices()) == 3
    fingerprints = [latency.device.fingerprint for latency in found]
    assert [print_.get("workload") for print_ in fingerprints] == [None, PREFILL, DECODE]
    assert not is_same(fingerprints[0], fingerprints[1])
    assert not is_same(fingerprints[1], fingerprints[2])
    assert "workload was None" in changes(fingerprints[0], fingerprints[1])
    assert is_same(fingerprints[1], dict(fingerprints[1]))


def test_what_is_counted_is_one_token_at_its_context(space: SearchSpace) -> None:
    assert as_run(space, DECODE).cost(space.largest) == decoding(space, context=40).cost(space.largest)
    union = search_spaces.union({"a": space, "b": search_spaces.get("matlm", embed_dim=(16,))})
    both = as_run(union, DECODE)
    assert both.choices == union.choices
    assert both.cost(union.largest) == decoding(space, context=40).cost(space.largest)


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        ({"prefill": 65}, "has 65 tokens, and the networks of space 'matlm' take 64"),
        ({"decode": {"context": 65}}, "has 65 tokens"),
        ({"prefill": 0}, "tokens of a workload = 0 is not a positive integer"),
        ({"prefill": 5, "decode": {"context": 5}}, "is no workload"),
        ({"decode": 5}, "is no workload"),
        ("prefill", "is no workload"),
    ],
)
def test_a_workload_that_is_none(space: SearchSpace, workload: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        as_run(space, workload)


def test_families_of_images_have_none() -> None:
    with pytest.raises(UsageError, match="for language models, and the networks of family 'matformer'"):
        as_run(search_spaces.get("matformer"), PREFILL)
    asked = checked_config({"data": "digits", "devices": {"cpu": {"workload": PREFILL}}}, where="The config")
    with pytest.raises(UsageError, match="A device's workload is for language models"):
        jobs.check(asked)


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        ({}, r"devices\.cpu\.workload: must be \{prefill: TOKENS\} or"),
        ({"prefill": 3, "decode": {"context": 3}}, r"devices\.cpu\.workload: must be"),
        ({"prefill": -1}, r"devices\.cpu\.workload\.prefill"),
        ({"decode": {}}, r"devices\.cpu\.workload\.decode\.context"),
        ({"prefil": 3}, r"devices\.cpu\.workload"),
    ],
)
def test_a_job_file_says_what_is_wrong_with_one(workload: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        checked_config({"devices": {"cpu": {"workload": workload}}}, where="The config")


@pytest.mark.parametrize(
    ("workload", "ran"), [(PREFILL, ("Decoder", (2, 16))), (DECODE, ("DecodeStep", (2, 1)))]
)
def test_an_extracted_folder_runs_it_too(
    space: SearchSpace, runs: list[Any], workload: Any, ran: Any, tmp_path: Path
) -> None:
    net = supernet.build(space).eval()
    info = {"subnet": "x", "architecture": space.smallest.to_dict()}
    module, example = net.extract(space.smallest), net.example_input(1)
    export("safetensors", module, tmp_path / "it", example=example, info=info)
    options = {"backend": made_device.BACKEND, "batch": 2}
    measured = jobs.measure(tmp_path / "it", options | {"workload": workload})
    assert measured["device"]["workload"] == workload
    assert ran in runs
    with pytest.raises(UsageError, match="has 65 tokens, and the network takes 64"):
        jobs.measure(tmp_path / "it", options | {"workload": {"prefill": 65}})
    images = supernet.build(search_spaces.get("matformer")).extract(search_spaces.get("matformer").smallest)
    with pytest.raises(UsageError, match="this one takes images"):
        requests.running(images, build_device("pi", options | {"workload": workload}))


def test_an_agent_measures_with_its_own(store: Store) -> None:
    options = {"backend": made_device.BACKEND, "batch": 2, "workload": DECODE}
    device = build_device("pi", options)
    with store.acquire_agent("pi", device.fingerprint(), options):
        asked = checked_config({"devices": {"pi": {"backend": "remote"}}}, where="The config")
        found = resolved(store, asked)
        assert found.devices["pi"].options["workload"] == DECODE
        assert target(store, "pi", found.devices["pi"]).fingerprint()["workload"] == DECODE
    with pytest.raises(UsageError, match="is no workload"):
        build_device("pi", {"backend": made_device.BACKEND, "workload": {"prefil": 3}})


def test_a_device_without_one_is_as_it_was() -> None:
    plain = checked_config({}, where="The config").devices["cpu"]
    assert "workload" not in plain.options
    device = build_device("cpu", {"backend": "torch_cpu", **plain.options})
    assert device.fingerprint() == torch_cpu.build(**plain.options, name="cpu").fingerprint()
