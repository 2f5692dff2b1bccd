"""Jobs in a store as a run leaves them, written through its own interface, for the tests of the dashboard."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

import search_spaces
from nas.results import job_devices
from nas.store import Device, Lease, NewEvaluation, NewEvent, NewSubnet, Store
from predictors.measurement.labels import Failure, Measurement
from predictors.regression.features import FEATURES

OPTIONS: dict[str, Any] = {"embed_dim": [16, 32, 64], "depth": [1, 2, 3, 4]}
FINALISTS = 14
HOSTILE = "<img src=x onerror=alert(1)> %{x} & 'co'"  # a job's name


@dataclass(frozen=True)
class Known:
    """A subnet of the made-up search with its true latency and quality."""

    subnet: NewSubnet
    latency_ms: float
    accuracy: float


def known_subnets(count: int, *, seed: int = 0) -> list[Known]:
    """Subnets of the embedded space: larger ones are slower and better, with noise."""
    space = search_spaces.get("matformer", **OPTIONS)
    rng = np.random.default_rng(seed)
    archs = dict.fromkeys([*space.uniform(6), *space.decode(space.sample_choices(rng, count))])
    found = []
    for arch in list(archs)[:count]:
        cost = space.cost(arch)
        latency = 0.4 + cost.macs / 4e6 * float(rng.uniform(0.8, 1.25))
        accuracy = 0.93 - 0.5 * math.exp(-cost.macs / 2.5e6) - 0.03 * float(rng.random())
        found.append(Known(NewSubnet(arch.key, arch.to_dict(), cost.params, cost.macs), latency, accuracy))
    return found


def finished_job(store: Store, name: str, *, count: int = 80) -> list[Known]:
    """A job that has succeeded; returns its finalists, the fastest first."""
    known = known_subnets(count)
    best = sorted(known, key=lambda k: k.latency_ms)[:: max(1, count // FINALISTS)]
    job = store.create_job(name, config={"supernet": {"family": "matformer"}}, seed=0, provenance={})
    with store.acquire(job) as lease:
        _space(store, lease)
        _training(store, lease)
        _search(store, lease, known)
        _report(store, lease, best)
        lease.finish("succeeded")
    return best


def generative_job(store: Store, name: str) -> list[Known]:
    """A finished job whose searcher was a generative one, which had the first finalist probed."""
    best = finished_job(store, name, count=40)
    curve: list[dict[str, Any]] = [
        {"round": i, "evaluations": 10 * i, "best": 0.9 - 0.3 / i if i else None, "feasible_rate": 1 - 0.4**i}
        for i in range(5)
    ]
    rises = {"stem": None, "blocks.0": 0.5, "head": None}
    reactions = {stage: {"rms": 1.0, "rank": 3.0, "bypass": rise} for stage, rise in rises.items()}
    probed = {"subnet": best[0].subnet.key, "loss": 0.75, "reactions": reactions}
    with store.acquire(store.job(name)) as lease:
        events = [NewEvent("generator", row, stage="search", step=row["round"]) for row in curve]
        store.add_events(lease, [*events, NewEvent("probe", probed, stage="search", step=0)])
        lease.finish("succeeded")
    return best


def measured_job(store: Store, name: str) -> list[Known]:
    """A finished job that was measured on a second device, `lab`, too, of which an agent was seen.

    On its own device it has a sample with rounds, a predictor that is scored in full, and a failed
    measurement; on `lab` a predictor of an older kind, that tells a score and nothing else.
    """
    best = finished_job(store, name, count=60)
    own, lab = _two_devices(store)
    sample = known_subnets(24, seed=3)
    with store.acquire(store.job(name)) as lease:
        store.begin_stage(lease, job_devices.measured_elsewhere(lab.id), "key")
        timed = [(k.subnet, _timed(k, number)) for number, k in enumerate(sample)]
        broken = (known_subnets(30, seed=3)[-1].subnet, Failure(FAILURE))
        store.add_measurements(lease, [*timed, broken], device_id=own.id, purpose="sample")
        in_lab = [(k.subnet, Measurement(3 * k.latency_ms, 0.1)) for k in best[:6]]
        store.add_measurements(lease, in_lab, device_id=lab.id, purpose="finalist")
        store.put_predictor(lease, device_id=own.id, kind="roofline", state=STATE, score=_full_score(sample))
        store.put_predictor(
            lease, device_id=lab.id, kind="additive", state={}, score={"mape": 0.04, "count": 24}
        )
        told = {k.subnet.key: [2.9 * k.latency_ms, 2.7 * k.latency_ms, 3.1 * k.latency_ms] for k in best[:6]}
        store.finish_stage(lease, job_devices.measured_elsewhere(lab.id), {"predicted_ms": told})
        lease.finish("succeeded")
    return best


def failed_job(store: Store, name: str, error: str) -> None:
    """A job that has failed in its second stage."""
    job = store.create_job(name, config={}, seed=0, provenance={})
    with store.acquire(job) as lease:
        _space(store, lease)
        store.begin_stage(lease, "train", "key")
        store.fail_stage(lease, "train", error)
        lease.finish("failed", error)


@contextmanager
def running_job(store: Store, name: str) -> Iterator[None]:
    """A job that is in the middle of its search, and held by this process until the end."""
    config = {"supernet": {"family": "matformer"}, "search": {"evaluations": 100}}
    job = store.create_job(name, config=config, seed=0, provenance={})
    with store.acquire(job) as lease:
        _space(store, lease)
        _training(store, lease)
        _begun_search(store, lease, known_subnets(60))
        yield


FAILURE = "RuntimeError: <b>no kernel</b> for aten::gelu"
COSTS = {"launches": 0.01, "linear_macs": 2e-7, "constant": 0.1}
STATE = {
    "predictor": "roofline",
    "features": list(FEATURES),
    "batch": 1,
    "element_bytes": 4,
    "model": {"rung": "work", "coefficients": [COSTS.get(name, 0.0) for name in FEATURES]},
    "intervals": {"half_width": 0.06, "typical": 1.0},
    "count": 24,
}


def _two_devices(store: Store) -> tuple[Device, Device]:
    own = store.register_device("cpu-1-thread", {"cpu": "made up", "threads": 1})
    fingerprint = {"backend": "torch_cpu", "cpu": "another", "threads": 4, "batch": 8, "malloc": {"A": "1"}}
    options = {"backend": "torch_cpu", "threads": 4, "batch": 8, "precision": "fp32"}
    store.set_reference(own.id, 2.5)
    with store.acquire_agent("lab", fingerprint, options) as agent:
        return own, agent.agent.device


def _timed(known: Known, number: int) -> Measurement:
    """With four rounds: the odd ones are 1 % slower than the even ones, on every second subnet 2 %."""
    rows: list[list[float | None]] = [
        [turn, number, w, w, 0.005, 0.005, 0.005, 0.005, 2.0]
        for turn in range(4)
        for w in [known.latency_ms / 1e3 * (1 + 0.01 * (turn % 2) * (1 + number % 2))]
    ]
    shared = 1.2 if number < 3 else 1.0
    return Measurement(
        known.latency_ms, 0.02, 0.01, 2.5, 4, rows, contention=shared, peak_memory_bytes=3 * 2**20
    )


def _full_score(sample: list[Known]) -> dict[str, Any]:
    points = [
        {
            "subnet": k.subnet.key,
            "measured_ms": k.latency_ms,
            "predicted_ms": k.latency_ms * (1 + 0.03 * (-1) ** i + 0.01 * k.subnet.architecture["depth"]),
            "low_ms": 0.94 * k.latency_ms,
            "high_ms": 1.06 * k.latency_ms,
        }
        for i, k in enumerate(sample)
    ]
    return {
        "count": 24,
        "repeatability": {"mape": 0.0149, "tau": 0.97, "sigma": 0.0188},
        "perfect_mape": 0.015,
        "why": "work: leave-one-out errors are MACs 8.1 %, work 1.9 %",
        "mape": 0.019,
        "within_10": 1.0,
        "within_5": 0.92,
        "tau": 0.95,
        "held_out": points,
        "card": [
            {"term": "launches", "value": 9.5, "unit": "us a layer", "share": 0.25},
            {"term": "linear MACs", "value": 0.21, "unit": "ns a MAC", "share": 0.75},
        ],
        "by_kind": {
            "smallest": {"linear": 0.3, "attention": 0.1, "norm": 0.05},
            "largest": {"linear": 4.0, "attention": 1.5, "norm": 0.4, "activation": 0.1},
        },
    }


def _space(store: Store, lease: Lease) -> None:
    store.begin_stage(lease, "space", "key")
    space = search_spaces.get("matformer", **OPTIONS)
    result = {"space": {"family": space.family, "options": dict(space.options)}, "size": space.size}
    store.finish_stage(lease, "space", result)


def _training(store: Store, lease: Lease) -> None:
    store.begin_stage(lease, "train", "key")
    rng = np.random.default_rng(1)
    rows = [
        {
            "loss": 0.4 + 2.5 * math.exp(-step / 300) + 0.2 * float(rng.random()),
            "lr": 1e-3 * 0.5 * (1 + math.cos(math.pi * step / 1000)),
        }
        for step in range(0, 1000, 10)
    ]
    events = [NewEvent("train", row, stage="train", step=10 * i) for i, row in enumerate(rows)]
    store.add_events(lease, events)
    store.finish_stage(lease, "train", {})


def _search(store: Store, lease: Lease, known: list[Known]) -> None:
    _begun_search(store, lease, known)
    store.finish_stage(lease, "search", {})


def _begun_search(store: Store, lease: Lease, known: list[Known]) -> None:
    store.begin_stage(lease, "search", "key")
    evaluations = [
        NewEvaluation(
            k.subnet,
            k.accuracy + 0.01,
            stderr=0.005,
            count=4000,
            batch=i // 20,
            position=i,
            objectives={"accuracy": k.accuracy + 0.01, "latency_ms": 0.97 * k.latency_ms},
        )
        for i, k in enumerate(known)
    ]
    store.add_evaluations(lease, evaluations)
    curve = [
        NewEvent(
            "hypervolume", {"evaluations": n, "hypervolume": 0.9 - 0.4 * 0.97**n}, stage="search", step=n
        )
        for n in range(20, len(known) + 1, 20)
    ]
    store.add_events(lease, curve)


def _report(store: Store, lease: Lease, best: list[Known]) -> None:
    store.begin_stage(lease, "front", "key")
    device = store.register_device("cpu-1-thread", {"cpu": "made up", "threads": 1})
    store.add_evaluations(
        lease, [NewEvaluation(k.subnet, k.accuracy, split="report", stderr=0.008, count=1500) for k in best]
    )
    store.add_measurements(
        lease,
        [
            (k.subnet, Measurement(k.latency_ms, 0.04 * k.latency_ms, reference_ms=1.0, rounds=9))
            for k in best
        ],
        device_id=device.id,
        purpose="finalist",
    )
    store.finish_stage(lease, "front", {})
