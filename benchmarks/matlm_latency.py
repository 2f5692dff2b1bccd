"""How well the latency of decoding is predicted from ten and twenty measured slices, for `matlm.py`.

Slices of a decoder with half of SmolLM2's width and 12 of its layers, random weights, on one thread of this
CPU: a step of decoding with a real cache of keys and values. All are measured in two sessions. `roofline` is
fitted on labels of the first session, and scored on other slices against the mean of both.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from latency_data import SESSIONS, Labels, drawn
from latency_score import Split, ceiling, designed, mean_score, splits
from matlm_results import table

import search_spaces
import supernet
from nas.measuring.requests import WorkingDevice, build_device
from predictors.measurement.rounds import Failure, Measurement, measure
from predictors.regression.features import FEATURES, MACS, Workload, space_features
from predictors.regression.ladder import Ladder
from predictors.regression.metrics import Floats, Score, score
from search_spaces import SearchSpace
from search_spaces.workloads import as_run

SPACE: Mapping[str, Any] = {
    "vocabulary": 8192,
    "context": 256,
    "embed_dim": (288,),
    "depth": (6, 8, 10, 12),
    "num_heads": (3, 6, 9),
    "heads_per_kv": 3,
    "head_dim": 32,
    "mlp_hidden": (384, 480, 576, 672, 768),
    "per_layer": ("num_heads", "mlp_hidden"),
}
WORKLOAD: Mapping[str, Any] = {"decode": {"context": 256}}
SLICES, ROUNDS, SPLITS = 60, 3, 20
COUNTS = (10, 20)
ATTENTION = [name for name in FEATURES if name.startswith(("attention", "softmax"))]

# By its name the features that a fit is given.
WAYS: Mapping[str, Sequence[str]] = {
    "all (what is there)": FEATURES,
    "without the weights read": [name for name in FEATURES if name != "params"],
    "without weights, keys and values read": [n for n in FEATURES if n not in ("params", *ATTENTION)],
    "MACs and launches": [*MACS, "launches", "constant"],
    "MACs": [*MACS, "constant"],
}


def session(space: SearchSpace, seed: int) -> dict[str, Any]:
    """The measurements of all slices; plain data."""
    device = build_device("cpu", {"backend": "torch_cpu", "threads": 1, "batch": 1, "workload": WORKLOAD})
    assert isinstance(device, WorkingDevice)
    net, archs = supernet.build(space, seed=0), space.decode(drawn(space, SLICES, seed=0))
    results = measure(
        device,
        {arch.key: partial(net.as_run, arch, WORKLOAD, 1) for arch in archs},
        net.run_input(WORKLOAD, 1),
        seed=seed,
        rounds=ROUNDS,
        max_rounds=ROUNDS,
        cache_bytes=2**31,
        extras=False,
    )
    failed = [result.reason for result in results.values() if isinstance(result, Failure)]
    assert not failed, failed
    rows = [{"architecture": arch.to_dict(), "measurement": asdict(results[arch.key])} for arch in archs]
    return {"fingerprint": device.fingerprint(), "slices": rows}


def labels_of(space: SearchSpace, folder: Path) -> Labels:
    """Both sessions, measured now where the folder does not have them."""
    data = []
    for seed in SESSIONS:
        path = folder / f"d-{seed}.json"
        if not path.exists():
            path.write_text(json.dumps(session(space, seed)))
        data.append(json.loads(path.read_text()))
    measured = [[Measurement(**row["measurement"]) for row in one["slices"]] for one in data]
    clean = measured[0][0].reference_ms
    first, second = (np.array([m.latency_ms / m.reference_ms * clean for m in some]) for some in measured)
    codes = space.encode([space.architecture(row["architecture"]) for row in data[0]["slices"]])
    run, both = as_run(space, WORKLOAD), (measured[0], measured[1])
    return Labels("decode", run, Workload(), codes, first, second, both, data[0]["fingerprint"], (0.0, 0.0))


def scored(rows: Floats, labels: Labels, chosen: Sequence[int], split: Split) -> Score:
    """Of a fit on the chosen slices' first labels, on the split's others."""
    model = Ladder().fit(rows[list(chosen)], labels.first[list(chosen)]).model
    return score(model.predict(rows[split.test])[0], labels.truth[split.test])


def predicted(folder: Path, seeds: Sequence[int]) -> str:
    """Part d: its table. seeds: not used, the splits are 20."""
    space = search_spaces.get("matlm", **SPACE)
    labels = labels_of(space, folder).without_offset()
    noise, spread = ceiling(labels), labels.truth.max() / labels.truth.min()
    lines = []
    every = space_features(labels.space, labels.codes, labels.workload)
    for way, features in WAYS.items():
        rows, cells = every * [name in features for name in FEATURES], []
        for count in COUNTS:
            for choose in (designed, lambda labels, split, count: split.random(count)):
                scores = [
                    scored(rows, labels, choose(labels, split, count), split)
                    for split in splits(labels, SPLITS)
                ]
                mean, deviation = mean_score(scores)
                cells.append(f"{100 * mean.mape:.2f} ± {100 * deviation:.2f} / {100 * mean.within_10:.0f}")
        lines.append([way, *cells])
    told = (
        f"{len(labels.codes)} slices from {labels.truth.min():.2f} to {labels.truth.max():.2f} ms a token "
        f"({spread:.1f}x); between the sessions {100 * noise.between.mape:.2f} %, "
        f"a perfect predictor {100 * noise.perfect.mape:.2f} %"
    )
    kinds = [f"n={count} {how}" for count in COUNTS for how in ("designed", "random")]
    return f"{told}\n\n{table(['features of roofline', *kinds], lines)}"
