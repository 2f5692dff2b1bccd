"""Latency of whole models of families that were not searched: predicted from twenty measured on the device.

Some seventy models of timm with random weights, in eight families, each measured in a session of its own. A
predictor is fitted on twenty of them, drawn anew for every seed: of all families, scored on the rest; or of
all families but one, scored on that one. `work` is a fit by the sums that spaces have, `kernels` what
`fit_layers` does with traced layers, `MACs` a line.

    nice -n 19 python benchmarks/any_model.py --data timings                  # measures what the folder lacks
    python benchmarks/any_model.py --data timings --only score --seeds 20     # again, on the same timings
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from any_model_data import DEVICES, FAMILIES, Measured, load, measure_missing
from numpy.typing import NDArray

from predictors.any_model import fit_layers
from predictors.regression.features import Workload
from predictors.regression.intervals import interval
from predictors.regression.linear import fit_linear
from predictors.regression.metrics import Floats, rank_correlation, relative_errors
from predictors.runtimes.host import last_cache_bytes
from search_spaces.layers import Layer, cost_of

TRAINED = 20
FEWEST_SCORED = 3  # of a family whose order is to mean something

Indices = NDArray[np.intp]
Predict = Callable[[Indices, Indices], tuple[Floats, Floats]]  # from the fitted ones to the scored ones


def ways(models: Sequence[Measured], batch: int) -> dict[str, Predict]:
    """What is compared, by its name: means and standard deviations of the scored models."""
    traced = [one.layers for one in models]
    stated = [[replace(layer, operator="") for layer in layers] for layers in traced]
    latency_ms = np.array([one.latency_ms for one in models])
    macs = np.array([[cost_of(layers).macs, 1.0] for layers in traced])

    def by_macs(fitted: Indices, scored: Indices) -> tuple[Floats, Floats]:
        line = fit_linear(macs[fitted], latency_ms[fitted], np.eye(2))[0]
        mean = line.predict(macs[scored])[0]
        return mean, np.zeros(len(mean))

    def by(networks: list[list[Layer]], cache_bytes: int | None) -> Predict:
        def predict(fitted: Indices, scored: Indices) -> tuple[Floats, Floats]:
            predictor = fit_layers(
                [networks[i] for i in fitted],
                latency_ms[fitted],
                workload=Workload(batch),
                cache_bytes=cache_bytes,
            )
            return predictor.predict([networks[i] for i in scored])

        return predict

    return {
        "MACs": by_macs,
        "work": by(stated, None),
        "kernels": by(traced, None),
        "kernels and caches": by(traced, last_cache_bytes()),
    }


def splits(models: Sequence[Measured], family: str | None, seeds: int) -> list[tuple[Indices, Indices]]:
    """Twenty to fit and the others to score, by seed; of one family all are scored and none fitted."""
    is_left_out = np.array([one.family == family for one in models])
    drawn = []
    for seed in range(seeds):
        pool = np.random.default_rng(seed).permutation(np.flatnonzero(~is_left_out))
        scored = pool[TRAINED:] if family is None else np.flatnonzero(is_left_out)
        drawn.append((pool[:TRAINED], scored))
    return drawn


def cell(predict: Predict, models: Sequence[Measured], family: str | None, seeds: int) -> list[float]:
    """Mean error, its deviation among seeds, tau, and the share within the 90 % interval."""
    latency_ms = np.array([one.latency_ms for one in models])
    errors, taus, inside = [], [], []
    for fitted, scored in splits(models, family, seeds):
        mean, std = predict(fitted, scored)
        low, high = interval(mean, std)
        errors.append(relative_errors(mean, latency_ms[scored]).mean())
        taus.append(rank_correlation(mean, latency_ms[scored]))
        inside.append(((low <= latency_ms[scored]) & (latency_ms[scored] <= high)).mean())
    return [float(np.mean(errors)), float(np.std(errors)), float(np.mean(taus)), float(np.mean(inside))]


def score(folder: Path, device: str, seeds: int) -> None:
    models = list(load(folder, device, list(FAMILIES)))
    if len(models) <= TRAINED + FEWEST_SCORED:
        print(f"\n{device}: {len(models)} models are measured, too few to score.")
        return
    sigma = 100 * np.median([one.stderr_ms / one.latency_ms for one in models])
    print(f"\n## {device}: {len(models)} models, median standard error of a label {sigma:.1f} %\n")
    print("Mean error in % ± deviation among seeds / tau / share in the 90 % interval in %.\n")
    compared = ways(models, int(DEVICES[device]["batch"]))
    print(f"| scored | {' | '.join(compared)} |\n|---|{'---|' * len(compared)}")
    families = [f for f in FAMILIES if sum(one.family == f for one in models) >= FEWEST_SCORED]
    table: dict[str, list[list[float]]] = {name: [] for name in compared}
    for family in (None, *families):
        cells = []
        for name, predict in compared.items():
            values = cell(predict, models, family, seeds)
            cells.append(_shown(values, with_intervals=name != "MACs"))
            if family is not None:
                table[name].append(values)
        print(f"| {family or 'the rest, of all families'} | {' | '.join(cells)} |", flush=True)
    means = [_shown(list(np.mean(table[name], axis=0)), with_intervals=name != "MACs") for name in compared]
    print(f"| **mean over families left out** | {' | '.join(means)} |")


def _shown(values: Sequence[float], *, with_intervals: bool) -> str:
    error, deviation, tau, inside = values
    text = f"{100 * error:.1f} ± {100 * deviation:.1f} / {tau:.2f}"
    return f"{text} / {100 * inside:.0f}" if with_intervals else text


def main(argv: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--data", type=Path, required=True, help="a folder for the timings")
    parser.add_argument("--only", choices=("measure", "score"))
    parser.add_argument("--devices", nargs="+", choices=DEVICES, default=("torch", "onnxruntime"))
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=tuple(FAMILIES))
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    for device in args.devices:
        if args.only in (None, "measure"):
            measure_missing(args.data, device, list(args.families))
    for device in args.devices:
        if args.only in (None, "score"):
            score(args.data, device, args.seeds)


if __name__ == "__main__":
    main()
