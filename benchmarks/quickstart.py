"""The embedded job measured: CPU seconds of its stages, its front and its latency predictor.

What its training is worth against nets trained alone is told by `worth.py` and `specialisation.py`.

    python benchmarks/quickstart.py
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil

import nas
from nas import pipeline
from nas.config import load_config
from nas.jobs import create
from nas.results.front import ParetoFront
from nas.store import Store

EXAMPLE = Path(__file__).parent.parent / "examples" / "quickstart.yaml"


class StageClock:
    """A `Progress` that notes the CPU seconds of this process and its children at every change of stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name, self._since, self._children = "start", _cpu(), 0.0

    def stage(self, name: str) -> None:
        now = max(_cpu(), self._since)
        self.seconds[self._name] = now - self._since
        self._name, self._since = name, now

    def update(self, done: int, total: int, **info: object) -> None:
        """Nothing."""

    def warn(self, message: str) -> None:
        print(message)


def _cpu() -> float:
    """CPU seconds so far of this process, its children that live and those that have ended."""
    me = psutil.Process()
    times = me.cpu_times()
    live = [child.cpu_times() for child in me.children(recursive=True)]
    ended = times.children_user + times.children_system
    return times.user + times.system + ended + sum(child.user + child.system for child in live)


def print_job(front: ParetoFront, clock: StageClock, store: Store, job_name: str) -> None:
    """CPU seconds by stage, the front and the predictor's score."""
    print("| stage | CPU s |\n|---|---|")
    for name, seconds in clock.seconds.items():
        if name != "start":
            print(f"| {name} | {seconds:.0f} |")
    print("\n| subnet | params | MACs | accuracy % (report) | predicted ms | measured ms |")
    print("|---|---|---|---|---|---|")
    for member in front.members:
        print(
            f"| {member.subnet} | {member.params:,} | {member.macs:,} | {100 * member.quality:.1f} ± "
            f"{100 * (member.stderr or 0):.1f} | {member.predicted_ms:.2f} | {member.measured_ms:.2f} |"
        )
    row = store.predictor(store.job(job_name))
    assert row is not None
    score, ceiling = row.score, row.score["repeatability"]
    print(
        f"\nPredictor '{row.kind}' on held-out subnets: MAPE {100 * score['mape']:.1f} %, within 10 %: "
        f"{100 * score['within_10']:.0f} %, Kendall tau {score['tau']:.2f} ({score['count']} measured; "
        f"repeatability of the measurements: MAPE {100 * ceiling['mape']:.1f} %, tau {ceiling['tau']:.2f})"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", help="URL of a store that keeps the job; default: a temporary one")
    args = parser.parse_args(argv)
    config = load_config(EXAMPLE)
    with (
        tempfile.TemporaryDirectory() as folder,
        Store.open(args.store or f"sqlite:///{folder}/q.db") as store,
    ):
        clock = StageClock()
        job = create(store, config, name=None)
        pipeline.run(store, job, progress=clock)
        clock.stage("end")
        print_job(nas.JobHandle(store, job).front(), clock, store, job.name)


if __name__ == "__main__":
    main()
