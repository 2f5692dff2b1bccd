"""The tables that `latency.py` prints of its scores."""

import argparse
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from latency_data import SPACES, Labels
from latency_score import (
    EXCESS,
    Score,
    Split,
    builder,
    ceiling,
    chosen_under_budgets,
    coverage,
    designed,
    fitted,
    grown,
    mean_score,
    scored,
    splits,
    transferred,
)

SIZES = (10, 20, 50)
INTERVAL_SIZES = (10, 14, 20, 30, 50)
TRANSFER_SIZES = (3, 5, 10, 20)
TRANSFERS = (("torch", "onnxruntime"), ("torch", "int8"))
SLOW = ("gp", "gbm", "mlp", "auto")


def cells(s: Score) -> str:
    shares = f"{100 * s.mape:.1f} / {100 * s.within_10:.0f} / {100 * s.within_5:.0f}"
    return f"{shares} / {s.tau:.3f}"


def print_data(everything: Sequence[Labels]) -> None:
    print("# The labels\n")
    print(
        "`sigma`: relative standard deviation of one label, from odd and even rounds and from the sessions."
    )
    print(
        "MAPE % / within 10 % / within 5 % / tau of the sessions, and of true latencies against their mean.\n"
    )
    heads = ["ms", "timings", "CPU s", "contention", "sigma % in 1, 2", "offset %", "sigma %"]
    print(f"| space, device | {' | '.join(heads)} | session 1 against 2 | a perfect predictor |")
    print(f"|---|{'---|' * (len(heads) + 2)}")
    for labels in everything:
        c = ceiling(labels)
        timings = [m.rounds for session in labels.sessions for m in session]
        contention = [np.median([m.contention for m in session]) for session in labels.sessions]
        columns = [
            f"{labels.truth.min():.1f} to {labels.truth.max():.1f}",
            f"{min(timings)} to {max(timings)}",
            f"{labels.spent[0]:.0f} + {labels.spent[1]:.0f}",
            f"{contention[0]:.2f}, {contention[1]:.2f}",
            f"{100 * c.sigmas[0]:.1f}, {100 * c.sigmas[1]:.1f}",
            f"{100 * c.offset:+.1f}",
            f"{100 * c.sigma:.1f}",
        ]
        row = " | ".join(columns)
        print(f"| {labels.task} | {row} | {cells(c.between)} | {cells(c.perfect)} |", flush=True)


def mean_cells(of: Callable[[Split], Score], labels: Labels, count: int) -> str:
    mean, spread = mean_score([of(split) for split in splits(labels, count)])
    return f"{cells(mean)} (±{100 * spread:.1f})"


def print_predictors(labels: Labels, args: argparse.Namespace) -> None:
    """Every predictor at every sample size, then designed samples and the latency stage's own."""
    print(f"\n## {labels.task}\n\n| predictor | {' | '.join(f'n={n}' for n in SIZES)} |")
    print(f"|---|{'---|' * len(SIZES)}")
    for name in args.predictors:
        build, count = builder(name, labels), args.slow_splits if name in SLOW else args.splits
        row = [
            mean_cells(
                lambda split, n=n, build=build: scored(
                    fitted(build, labels, split.random(n)), labels, split.test
                ),
                labels,
                count,
            )
            for n in SIZES
        ]
        print(f"| {name} | {' | '.join(row)} |", flush=True)
    build = builder("roofline", labels)
    row = [
        mean_cells(
            lambda split, n=n: scored(fitted(build, labels, designed(labels, split, n)), labels, split.test),
            labels,
            args.splits,
        )
        for n in SIZES[:2]
    ]
    print(f"| roofline, designed | {' | '.join(row)} | |")
    made = [(split, *grown(labels, split)) for split in splits(labels, args.splits)]
    used = [len(chosen) for _, _, chosen in made]
    mean, spread = mean_score([scored(predictor, labels, split.test) for split, predictor, _ in made])
    print(
        f"\nThe latency stage's own sample: {np.mean(used):.1f} subnets ({min(used)} to {max(used)}): "
        f"{cells(mean)} (±{100 * spread:.1f}).",
        flush=True,
    )


def print_intervals(everything: Sequence[Labels], args: argparse.Namespace) -> None:
    print("\n# 90 % intervals of `roofline`\n\nShare of true latencies inside / of labels of the second")
    print("session inside / median half-width, all in %; random samples, then designed ones.\n")
    print(f"| space, device | sample | {' | '.join(f'n={n}' for n in INTERVAL_SIZES)} |")
    print(f"|---|---|{'---|' * len(INTERVAL_SIZES)}")
    for labels in everything:
        build = builder("roofline", labels)
        ways: Mapping[str, Callable[[Split, int], np.ndarray]] = {
            "random": lambda split, n: split.random(n),
            "designed": lambda split, n, labels=labels: designed(labels, split, n),
        }
        for way, chosen in ways.items():
            row = []
            for n in INTERVAL_SIZES:
                found = [
                    coverage(fitted(build, labels, chosen(split, n)), labels, split.test)
                    for split in splits(labels, args.splits)
                ]
                means = 100 * np.mean([[c.of_truth, c.of_labels, c.half_width] for c in found], axis=0)
                row.append(f"{means[0]:.0f} / {means[1]:.0f} / {means[2]:.1f}")
            print(f"| {labels.task} | {way} | {' | '.join(row)} |", flush=True)


def print_budgets(everything: Sequence[Labels], args: argparse.Namespace) -> None:
    print("\n# Subnets chosen under a budget\n\nThe largest by MACs whose prediction, with a margin in")
    print(
        f"standard deviations, keeps each of five budgets: share that exceeds it by over {100 * EXCESS:.0f} %"
    )
    print("/ the worst excess, in %; candidates are all subnets outside the sample.\n")
    print("| space, device | flops, n=20 | roofline, n=20 | with margin 1 | own sample | with margin 1 |")
    print("|---|---|---|---|---|---|")
    for labels in everything:
        found: list[list[np.ndarray]] = [[] for _ in range(5)]
        for split in splits(labels, args.splits):
            own, chosen = grown(labels, split)
            some = split.random(20)
            line, roof = (fitted(builder(name, labels), labels, some) for name in ("flops", "roofline"))
            for i, (predictor, sample, margin) in enumerate(
                ((line, some, 0), (roof, some, 0), (roof, some, 1), (own, chosen, 0), (own, chosen, 1))
            ):
                rest = np.setdiff1d(np.arange(len(labels.codes)), sample)
                found[i].append(chosen_under_budgets(predictor, labels, rest, margin=margin))
        joined = [np.concatenate(each) for each in found]
        row = [f"{100 * (e > EXCESS).mean():.1f} / {100 * e.max():+.1f}" for e in joined]
        print(f"| {labels.task} | {' | '.join(row)} |", flush=True)


def print_transfer(by_task: Mapping[str, Labels], args: argparse.Namespace) -> None:
    print("\n# Transfer between devices\n\n`roofline` with the source device's predictor, and afresh;")
    print("in brackets how often the ladder took a rung with the source.\n")
    print(f"| source and target | | {' | '.join(f'n={n}' for n in TRANSFER_SIZES)} |")
    print(f"|---|---|{'---|' * len(TRANSFER_SIZES)}")
    for space in SPACES:
        for before, after in TRANSFERS:
            if not {f"{space} {before}", f"{space} {after}"} <= by_task.keys():
                continue
            source, target = by_task[f"{space} {before}"], by_task[f"{space} {after}"]
            with_source, afresh = [], []
            for n in TRANSFER_SIZES:
                found = [transferred(source, target, split, n) for split in splits(target, args.splits)]
                used = 100 * np.mean([took for _, _, took in found])
                with_source.append(f"{cells(mean_score([s for s, _, _ in found])[0])} ({used:.0f} %)")
                afresh.append(cells(mean_score([s for _, s, _ in found])[0]))
            print(f"| {space}: {before} to {after} | with the source | {' | '.join(with_source)} |")
            print(f"| | afresh | {' | '.join(afresh)} |", flush=True)
