"""The subnets that `latency.py` scores predictors on, and their measurements: raw timings as JSON files."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import search_spaces
import supernet
from nas.measuring.requests import build_device
from predictors.measurement.rounds import Failure, Measurement, measure
from predictors.regression.features import Workload
from predictors.regression.metrics import Floats
from search_spaces import SearchSpace
from search_spaces.space import Codes

_VIT = {"image_size": (224, 224), "num_classes": 1000, "in_chans": 3}
SPACES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    # Up to 12 layers of 197 tokens; FFN and heads per layer.
    "vit": (
        "matformer",
        _VIT
        | {
            "patch_size": 16,
            "stem": "patch",
            "class_token": True,
            "pool": "token",
            "fc_norm": False,
            "head_dim": 64,
            "embed_dim": (192,),
            "depth": tuple(range(6, 13)),
            "num_heads": (1, 2, 3),
            "mlp_ratio": (0.5, 1, 2, 4),
            "per_layer": ("num_heads", "mlp_ratio"),
        },
    ),
    # Four stages of 56 to 7 patches a side; the narrow half of the options, for networks of 10 to 70 ms.
    "hierarchical": (
        "turbovit",
        _VIT
        | {
            "embed_dim": ((32, 48, 64), (64, 96, 128), (128, 192, 256), (256, 320, 384)),
            "depth": ((1, 2), (1, 2, 3), (2, 3, 4, 5, 6), (1, 2)),
            "mlp_ratio": ((1, 2, 4),) * 4,
        },
    ),
}
DEVICES: Mapping[str, Mapping[str, Any]] = {
    "torch": {"backend": "torch_cpu", "batch": 1},
    "onnxruntime": {"backend": "onnxruntime_cpu", "batch": 1},
    "int8": {"backend": "onnxruntime_cpu", "batch": 1, "precision": "int8"},
}
# What is measured: space, device.
TASKS = (
    ("vit", "torch"),
    ("vit", "onnxruntime"),
    ("vit", "int8"),
    ("hierarchical", "torch"),
    ("hierarchical", "onnxruntime"),
)
SESSIONS = (1, 2)


def space_of(name: str) -> SearchSpace:
    family, options = SPACES[name]
    return search_spaces.get(family, **options)


def drawn(space: SearchSpace, count: int, *, seed: int) -> Codes:
    """`count` different architectures `(count, choices)`: the smallest, the largest, and random ones.

    Half of these choose every option for itself, which makes networks of middling size; the others keep a
    random share of the choices of a network that is small, middling or large throughout.
    """
    rng = np.random.default_rng(seed)
    even = space.encode(space.uniform(16))
    begun = even[rng.integers(len(even), size=count)]
    mixed = space.redrawn(rng, begun, rng.random(begun.shape) < rng.random((count, 1)))
    both = np.stack([space.sample_choices(rng, count), mixed], axis=1).reshape(-1, begun.shape[1])
    ends = space.encode([space.smallest, space.largest])
    found = dict.fromkeys(map(tuple, space.canonical(np.concatenate([ends, both])).tolist()))
    return np.array(list(found)[:count], dtype=np.int64)


@dataclass(frozen=True)
class Labels:
    """One space on one device: codes `(n, choices)`, and latencies `(n,)` in ms of both sessions.

    They are ratios to the calibrator in both, times the clean calibrator time of the first.
    sessions: what each measured.  fingerprint: of the device.  spent: CPU seconds of the processes.
    """

    task: str
    space: SearchSpace
    workload: Workload
    codes: Codes
    first: Floats
    second: Floats
    sessions: tuple[list[Measurement], list[Measurement]]
    fingerprint: Mapping[str, Any]
    spent: tuple[float, float]

    @property
    def truth(self) -> Floats:
        """What predictions are scored against: the mean of both, `(n,)`."""
        return (self.first + self.second) / 2

    def without_offset(self) -> "Labels":
        """With the second session's labels scaled so that they are as slow as the first one's on average."""
        offset = float(np.exp(np.log(self.second / self.first).mean()))
        return replace(self, task=f"{self.task}, no offset", second=self.second / offset)


def measure_session(
    space_name: str, device_name: str, session: int, count: int, rounds: int
) -> dict[str, Any]:
    """Measures all subnets in this process; plain data."""
    space = space_of(space_name)
    net = supernet.build(space, seed=0)
    device = build_device(device_name, DEVICES[device_name])
    archs = {arch.key: arch for arch in space.decode(drawn(space, count, seed=0))}
    start, spent = time.perf_counter(), time.process_time()
    found = measure(
        device,
        {key: partial(net.extract, arch) for key, arch in archs.items()},
        net.example_input(device.batch),
        seed=session,
        max_rounds=rounds,
        cache_bytes=2**33,
        extras=False,
    )
    failed = [result.reason for result in found.values() if isinstance(result, Failure)]
    assert not failed, failed
    return {
        "space": space_name,
        "device": device_name,
        "fingerprint": device.fingerprint(),
        "wall_s": time.perf_counter() - start,
        "cpu_s": time.process_time() - spent,
        "found": [{"architecture": archs[key].to_dict(), "measurement": asdict(found[key])} for key in archs],
    }


def path_of(folder: Path, task: tuple[str, str], session: int) -> Path:
    return folder / f"{'-'.join(task)}-{session}.json"


def load(folder: Path, task: tuple[str, str]) -> Labels | None:
    """The labels of both sessions, or None where one has not been measured."""
    paths = [path_of(folder, task, session) for session in SESSIONS]
    if not all(path.exists() for path in paths):
        return None
    first, second = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    assert first["fingerprint"] == second["fingerprint"], "the sessions ran on different devices"
    space = space_of(task[0])
    archs = [space.architecture(each["architecture"]) for each in first["found"]]
    assert archs == [space.architecture(each["architecture"]) for each in second["found"]]
    sessions = tuple(
        [Measurement(**each["measurement"]) for each in data["found"]] for data in (first, second)
    )
    reference = sessions[0][0].reference_ms
    labels = [
        np.array([m.latency_ms / m.reference_ms * reference for m in measured]) for measured in sessions
    ]
    return Labels(
        " ".join(task),
        space,
        Workload(batch=int(DEVICES[task[1]]["batch"])),
        space.encode(archs),
        labels[0],
        labels[1],
        (sessions[0], sessions[1]),
        first["fingerprint"],
        (first["cpu_s"], second["cpu_s"]),
    )
