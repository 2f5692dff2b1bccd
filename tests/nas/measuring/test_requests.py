"""A plan of what is measured: here as it is, for an agent of another host through plain data and back."""

import json
import threading
from dataclasses import replace
from typing import Any

import pytest

import search_spaces
from nas.config import checked_config
from nas.job_run import Run
from nas.measuring import subnets
from nas.measuring.requests import Plan, measured, plan_of, request_for
from nas.progress import Silent
from nas.store import Lease, Store
from predictors.measurement.labels import Measurement
from search_spaces import SearchSpace
from tests import made_device


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    sizes = {"image_size": (8, 8), "in_chans": 1, "num_classes": 10, "embed_dim": (8, 16), "depth": (1, 2)}
    return search_spaces.get("matformer", patch_size=4, head_dim=8, num_heads=(1, 2), **sizes)


def test_a_plan_survives_its_way_to_an_agent(space: SearchSpace) -> None:
    archs = {arch.key: arch for arch in space.uniform(3)}
    plan = Plan(space, archs, seed=3, rounds=2, max_rounds=4, reference_ms=1.25)
    request = json.loads(json.dumps(request_for(plan)))
    read = plan_of(request)
    assert json.loads(json.dumps(request_for(read))) == request
    assert replace(read, space=space) == plan
    device = made_device.build(name="here", batch=2)
    assert measured(device, read) == measured(device, plan)


def test_a_device_of_this_host_is_measured_with_records(
    store: Store, lease: Lease, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> Any:
        raise AssertionError("a local device needs no plain data")

    monkeypatch.setattr(subnets, "request_for", refused)
    options = {"backend": made_device.BACKEND, "threads": 1, "batch": 2, "precision": "fp32"}
    config = checked_config(
        {"devices": {"here": options}, "predictor": {"rounds": 2, "max_rounds": 2}}, where="x"
    )
    run = Run(store, lease, config, Silent(), threading.Event())
    device = subnets.build_device(run, "here")
    row = store.register_device("here", device.fingerprint())
    latencies = subnets.measure(run, space, device, row, space.uniform(2), purpose="sample")
    results = [m.result for m in store.measurements(lease.job, "sample")]
    assert all(isinstance(result, Measurement) for result in results)
    assert [result.latency_ms for result in results] == list(latencies.values())
