"""Slices of decoders under llama.cpp: how large, fast and good they are, and how well latency is predicted.

    python benchmarks/llama_cpp.py predictor --folder FOLDER [--slices 60] [--precisions fp32 q4_0]
    python benchmarks/llama_cpp.py slices --folder FOLDER [--blocks 29]

predictor: slices of a decoder with half of SmolLM2's width and at most 12 layers, random weights, on one
thread: a step of decoding and a whole text of 256 tokens, in each precision. All are measured in two
sessions. `roofline` is fitted on labels of 10 and of 20 slices of the first one, designed and random, and
scored on 20 other slices against the mean of both; at least 42 are needed.
slices: SmolLM2-135M (`make smollm`) with sorted neurons, whole and with FFNs of three quarters and half of
the width, in each precision: the file's size, latencies, and bits per byte on the report split by
llama.cpp's own probabilities, less the supernet's on the same blocks, errors clustered by document.

What the folder has is not measured again. Printed with every table is the contention (wall over CPU time).
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from latency_data import SESSIONS, Labels, drawn
from latency_score import ceiling, designed, mean_score, splits
from matlm_allocation import GGUF, LAYERS, NARROW, SORTED_BY, UNIFORM, WIDE
from matlm_latency import COUNTS, SPACE, SPLITS, scored
from matlm_results import Row, kept, table
from torch import nn

import search_spaces
import supernet
from nas import datasets
from nas.datasets import DataSet
from nas.evaluation.on_device import compared, device_scores, module_scores
from nas.measuring.requests import WorkingDevice, build_device
from predictors.devices.llama_cpp import PRECISIONS
from predictors.measurement.rounds import Failure, Measurement, measure
from predictors.regression.features import Workload, space_features
from predictors.runtimes.gguf.files import write
from search_spaces import Architecture, SearchSpace
from search_spaces.workloads import as_run
from supernet.pretrained.gguf_files import read_file
from supernet.supernet import Supernet

WORKLOADS: Mapping[str, Mapping[str, Any]] = {
    "decode": {"decode": {"context": 256}},
    "prefill": {"prefill": 256},
}
ROUNDS = 3
TEXT, SPLIT, BITS = 128, "report", "bits_per_byte"
WIDTHS = (WIDE, UNIFORM, NARROW)
# SmolLM2's slices run shorter texts, which is what their quality is told by.
RUNS: Mapping[str, Mapping[str, Any]] = {
    "decode": {"decode": {"context": TEXT}},
    "prefill": {"prefill": TEXT},
}


def measured(
    net: Supernet, archs: Sequence[Architecture], precision: str, workload: Mapping[str, Any], seed: int
) -> tuple[list[Measurement], Mapping[str, Any]]:
    """Of each architecture, and the device's fingerprint."""
    options = {"backend": "llama_cpp", "threads": 1, "batch": 1, "precision": precision}
    device = build_device("llama.cpp", options | {"workload": workload})
    assert isinstance(device, WorkingDevice)
    results = measure(
        device,
        {arch.key: partial(net.as_run, arch, workload, 1) for arch in archs},
        net.run_input(workload, 1),
        seed=seed,
        rounds=ROUNDS,
        max_rounds=ROUNDS,
        cache_bytes=2**32,
        extras=False,
    )
    good = [result for result in results.values() if isinstance(result, Measurement)]
    assert len(good) == len(archs), [r.reason for r in results.values() if isinstance(r, Failure)]
    return good, device.fingerprint()


def labels_of(space: SearchSpace, folder: Path, precision: str, run: str, count: int) -> Labels:
    """Both sessions, measured now where the folder does not have them."""
    net, data = supernet.build(space, seed=0), []
    archs = space.decode(drawn(space, count, seed=0))
    for seed in SESSIONS:
        path = folder / f"predictor-{precision}-{run}-{count}-{seed}.json"
        if not path.exists():
            results, fingerprint = measured(net, archs, precision, WORKLOADS[run], seed)
            rows = [asdict(result) for result in results]
            path.write_text(json.dumps({"fingerprint": fingerprint, "measurements": rows}))
        data.append(json.loads(path.read_text()))
    both = [[Measurement(**row) for row in one["measurements"]] for one in data]
    clean = both[0][0].reference_ms
    first, second = (np.array([m.latency_ms / m.reference_ms * clean for m in some]) for some in both)
    codes, sessions = space.encode(archs), (both[0], both[1])
    spent, fingerprint = (0.0, 0.0), data[0]["fingerprint"]
    of_run = as_run(space, WORKLOADS[run])
    return Labels(run, of_run, Workload(), codes, first, second, sessions, fingerprint, spent)


def predictor(folder: Path, args: argparse.Namespace) -> str:
    """Part `predictor`: its table."""
    space, lines = search_spaces.get("matlm", **SPACE), []
    for precision in args.precisions:
        for run in args.runs:
            labels = labels_of(space, folder, precision, run, args.slices).without_offset()
            lines.append([precision, run, *_told(labels)])
    kinds = [f"n={count} {how}" for count in COUNTS for how in ("designed", "random")]
    return table(["precision", "run", "ms", "contention", "between sessions", "perfect", *kinds], lines)


def _told(labels: Labels) -> list[str]:
    noise, rows = ceiling(labels), space_features(labels.space, labels.codes, labels.workload)
    parts = list(splits(labels, SPLITS))
    contention = statistics.median(m.contention or 1.0 for some in labels.sessions for m in some)
    cells = [f"{labels.truth.min():.2f} to {labels.truth.max():.2f}", f"{contention:.2f}"]
    cells += [f"{100 * noise.between.mape:.2f}", f"{100 * noise.perfect.mape:.2f}"]
    for count in COUNTS:
        for choose in (designed, lambda labels, split, count: split.random(count)):
            scores = [scored(rows, labels, choose(labels, split, count), split) for split in parts]
            mean, deviation = mean_score(scores)
            cells.append(f"{100 * mean.mape:.2f} ± {100 * deviation:.2f} / {100 * mean.within_10:.0f}")
    return cells


class Smol:
    """SmolLM2 with sorted neurons, and the texts on which its slices are judged."""

    def __init__(self) -> None:
        self.space = search_spaces.get("smollm2_135m", context=TEXT)
        self.data: DataSet = datasets.build(
            "python_docs", tokenizer=GGUF, context=TEXT, documents=48, split_seed=1
        )
        self.net = supernet.build(self.space, seed=0)
        self.net.shared.load_state_dict(read_file(GGUF).load().state_dict())
        self.net.adapt(self.data.clean_batch(0, step, 1) for step in range(SORTED_BY))
        self.net.eval()

    def arch(self, width: int) -> Architecture:
        """The slice with FFNs of this width in all layers."""
        widths = {f"mlp_hidden.{layer}": width for layer in range(LAYERS)}
        return self.space.architecture({**dict(self.space.largest.values), **widths})


def slices(folder: Path, args: argparse.Namespace) -> str:
    """Part `slices`: its table."""
    smol: list[Smol] = []

    def once() -> Smol:
        if not smol:
            smol.append(Smol())
        return smol[0]

    wanted = [{"precision": precision, "blocks": args.blocks} for precision in args.precisions]
    rows = kept(folder / "slices.jsonl", wanted, partial(_row, once))
    lines = []
    for row in rows:
        for width, one in zip(WIDTHS, row["slices"], strict=True):
            decode, prefill = one["decode"], one["prefill"]
            lines.append(
                [
                    row["precision"],
                    str(width),
                    f"{one['bytes'] / 1e6:.1f}",
                    f"{decode:.2f}, {1e3 / decode:.0f}",
                    f"{prefill:.0f}, {1e3 * TEXT / prefill:.0f}",
                    f"{one['bits']:.3f} ± {one['bits_error']:.3f}",
                    f"{one['difference']:+.4f} ± {one['difference_error']:.4f}",
                    f"{row['contention']:.2f}",
                ]
            )
    titles = ["precision", "FFN width", "MB", "decode ms, tokens/s", "prefill ms, tokens/s"]
    return table([*titles, BITS.replace("_", " "), "less the supernet's", "contention"], lines)


def _row(once: Callable[[], Smol], precision: str, blocks: int) -> Row:
    """What is told of the slices in a precision."""
    smol = once()
    archs = [smol.arch(width) for width in WIDTHS]
    latencies = {run: measured(smol.net, archs, precision, RUNS[run], seed=0)[0] for run in RUNS}
    rows = []
    for place, arch in enumerate(archs):
        module = smol.net.extract(arch)
        figures = {run: some[place].latency_ms for run, some in latencies.items()}
        rows.append(
            {**figures, "bytes": _size(module, precision), **_quality(smol.data, module, precision, blocks)}
        )
    contention = [m.contention or 1.0 for some in latencies.values() for m in some]
    return {"slices": rows, "contention": statistics.median(contention)}


def _size(module: nn.Module, precision: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "it.gguf")
        config: Any = module.config
        write(file, config, module.state_dict(), precision=precision)
        return file.stat().st_size


def _quality(data: DataSet, module: nn.Module, precision: str, blocks: int) -> Row:
    places = range(min(blocks, data.sizes[SPLIT]))
    device = build_device("llama.cpp", {"backend": "llama_cpp", "batch": 1, "precision": precision})
    with device.session():
        scores = device_scores(device, module, data, SPLIT, places)
    plain = module_scores(module, data, SPLIT, places, batch=1)
    both = compared(BITS, scores, plain, data, SPLIT, places)
    bits = both.qualities[BITS]
    errors = {"bits_error": bits.stderr, "difference_error": both.stderr}
    return {"bits": bits.value, "difference": both.difference, **errors}


PARTS: Mapping[str, Callable[[Path, argparse.Namespace], str]] = {"predictor": predictor, "slices": slices}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--folder", type=Path, required=True, help="of the results")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--runs", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--slices", type=int, default=60, help="how many are measured for the predictor")
    parser.add_argument("--blocks", type=int, default=29, help="of the report split, for the quality")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    print(PARTS[args.part](args.folder, args))


if __name__ == "__main__":
    main()
