"""How well measured latencies repeat while other work runs on the machine.

Random subnets of two spaces, batch 1, are measured twice on one thread of this CPU, in processes of their
own, beside others that start and stop matrix products at random. The table compares the two sessions: our
labels (ratios to the calibrator beside every run), and what other statistics make of the same runs.

    python benchmarks/latency_noise.py --hogs 2 --save noise.json      # ten minutes
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from latency_data import SPACES, measure_session

from predictors.measurement.rounds import RAW, Measurement, repeatability
from predictors.regression.metrics import Floats, Score, score

STATISTICS: Mapping[str, Callable[[Floats], float]] = {
    "median": np.median,
    "minimum": np.min,
    "mean": np.mean,
}
HOG_SIDE = 768
HOG_S = (0.05, 1.5)


def in_a_process(args: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """One session's measurements, of a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "session.json"
        numbers = map(str, [seed, args.subnets, args.max_rounds])
        command = [sys.executable, __file__, "--session", name, *numbers, "--save", str(path)]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


@contextmanager
def hogs(count: int) -> Iterator[None]:
    """Processes that work and rest at random while the context lasts."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    running = [subprocess.Popen([sys.executable, __file__, "--hog", str(i)], env=env) for i in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def hog(seed: int) -> None:
    """Matrix products for a random while, then rest for another, until killed or left alone."""
    rng, matrix, parent = random.Random(seed), torch.randn(HOG_SIDE, HOG_SIDE), os.getppid()
    while os.getppid() == parent:
        end = time.perf_counter() + rng.uniform(*HOG_S)
        while time.perf_counter() < end:
            matrix @ matrix
        time.sleep(rng.uniform(*HOG_S))


def measurements(data: Mapping[str, Any]) -> list[Measurement]:
    return [Measurement(**found["measurement"]) for found in data["found"]]


def statistics(data: Mapping[str, Any], reference_ms: float) -> dict[str, Floats]:
    """Latencies of a session's subnets in ms, by how they are made of the raw timings."""
    found = measurements(data)
    rows = [np.array(m.raw, dtype=np.float64) for m in found]
    made = {
        "bracketed ratio": np.array([m.latency_ms / m.reference_ms * reference_ms for m in found]),
        "the same, own clean time": np.array([m.latency_ms for m in found]),
    }
    for clock in ("wall", "cpu"):
        column = RAW.index(f"{clock}_s")
        made |= {
            f"{statistic} of {clock} time": np.array([1e3 * of(r[:, column]) for r in rows])
            for statistic, of in STATISTICS.items()
        }
    return made


def compared(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Score]:
    """The second session scored against the first; ratios in both under the first one's clean time."""
    reference_ms = measurements(first)[0].reference_ms
    before, after = (statistics(data, reference_ms) for data in (first, second))
    return {name: score(after[name], before[name]) for name in before}


def print_table(name: str, sessions: Sequence[Mapping[str, Any]]) -> None:
    for data in sessions:
        found = measurements(data)
        noise = repeatability(found)
        timings = found[0].rounds
        print(
            f"{name}: {len(found)} subnets, {timings} timings each in {data['wall_s']:.0f} s; "
            f"{min(m.latency_ms for m in found):.1f} to {max(m.latency_ms for m in found):.1f} ms; "
            f"calibrator {found[0].reference_ms:.3f} ms; "
            f"contention {np.median([m.contention for m in found]):.2f}; "
            f"stderr {100 * np.median([m.stderr_ms / m.latency_ms for m in found]):.1f} %; "
            f"halves: MAPE {100 * noise.mape:.1f} %, tau {noise.tau:.3f}, sigma {100 * noise.sigma:.1f} %"
        )
    print("| statistic | MAPE % | within 10 % | within 5 % | tau |\n|---|---|---|---|---|")
    for what, s in compared(*sessions).items():
        shares = f"{100 * s.mape:.1f} | {100 * s.within_10:.0f} | {100 * s.within_5:.0f}"
        print(f"| {what} | {shares} | {s.tau:.3f} |")


def main(argv: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--spaces", nargs="+", choices=SPACES, default=list(SPACES), metavar="NAME")
    parser.add_argument("--subnets", type=int, default=40)
    parser.add_argument("--hogs", type=int, default=2)
    parser.add_argument("--max-rounds", type=int, default=10)
    parser.add_argument("--save", type=Path, help="a JSON file for all timings")
    parser.add_argument("--session", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--hog", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.hog is not None:
        hog(args.hog)
    elif args.session:
        name, *numbers = args.session
        args.save.write_text(json.dumps(measure_session(name, "torch", *map(int, numbers))), encoding="utf-8")
    else:
        made: dict[str, list[dict[str, Any]]] = {}
        with hogs(args.hogs):
            for name in args.spaces:
                made[name] = [in_a_process(args, name, seed) for seed in (0, 1)]
        for name, sessions in made.items():
            print_table(name, sessions)
        if args.save:
            args.save.write_text(json.dumps(made), encoding="utf-8")


if __name__ == "__main__":
    main()
