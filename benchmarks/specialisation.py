"""What further training makes of finalists, against the same nets trained alone for the supernet's steps.

Runs the job of a file, which trains its finalists (`finalists: {train: ...}`), for each seed. Some of the
finalists, evenly spaced over the front, are then trained alone from fresh weights with the job's recipe and
as many steps as the supernet had. Told are accuracies on the report split, and their ratios to those of the
nets alone: with inherited weights, and after the training of the finalists. Beside it the area under the
front (`worth.py`) with both weights, which needs no net alone (`--count 0`) and no training of finalists.

    python benchmarks/specialisation.py examples/matformer.yaml --set finalists.train=true --seeds 0 1 2
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from quickstart import StageClock
from worth import PAID_FOR, area, cpu_of, training_alone

import nas
import supernet
from nas import datasets, pipeline
from nas.config import JobConfig, load_config
from nas.jobs import create
from nas.results.front import ParetoFront
from nas.spaces.job_space import resolve
from nas.store import Store
from nas.training.retrain import quality_of
from nas.training.supernets import finished
from supernet.training.alone import Alone


@dataclass(frozen=True)
class Compared:
    """One finalist: its place on the front (0 the smallest), MACs and accuracies on the report split."""

    seed: int
    place: int
    macs: int
    inherited: float
    specialised: float
    alone: float


def ran(config: JobConfig) -> tuple[ParetoFront, dict[str, float]]:
    """The job's front, and CPU seconds of the stages that were paid for."""
    with tempfile.TemporaryDirectory() as folder, Store.open(f"sqlite:///{folder}/store.sqlite") as store:
        clock, job = StageClock(), create(store, config, name=None)
        pipeline.run(store, job, progress=clock)
        clock.stage("end")
        paid = {name: seconds for name, seconds in clock.seconds.items() if name in PAID_FOR}
        return nas.JobHandle(store, job).front(), paid


def compared(config: JobConfig, count: int) -> list[Compared]:
    """So many finalists of the job."""
    front, paid = ran(config)
    data = datasets.build(config.data.name, **config.data.options)
    space, seed = resolve(config, data), config.seed
    inherited = [(one.macs, one.quality if one.inherited is None else one.inherited) for one in front.members]
    areas = area(inherited, space), area([(one.macs, one.quality) for one in front.members], space)
    cpu = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in paid.items())
    print(f"seed {seed}, area {areas[0]:.3f} inherited, {areas[1]:.3f} in the end; CPU s: {cpu}", flush=True)
    net, members = supernet.build(space, seed=seed), sorted(front.members, key=lambda one: one.macs)
    results = []
    for place, i in enumerate(np.linspace(0, len(members) - 1, count).round().astype(int)):
        member = members[i]
        arch = space.architecture(member.architecture)
        training = training_alone(net, arch, config, config.train.steps, seed)
        cpu_of(training, data, seed, until=config.train.steps)
        alone = training.supernet
        assert isinstance(alone, Alone)
        alone.shared.load_state_dict(finished(training, data))
        quality = quality_of(alone.eval(), data, "report").value
        assert member.inherited is not None, "the job trains its finalists"
        results.append(Compared(seed, place, member.macs, member.inherited, member.quality, quality))
    return results


def table(results: Sequence[Compared]) -> str:
    """A line for each place on the front: means and standard errors over the seeds, ratios paired."""
    told_of = ("inherited %", "specialised %", "alone %", "inherited / alone", "specialised / alone")
    lines = [f"| finalist | MACs | {' | '.join(told_of)} |", "|---|---|---|---|---|---|---|"]
    for place in sorted({one.place for one in results}):
        some = [one for one in results if one.place == place]
        accuracies = [
            told([100 * getattr(one, name) for one in some], 1)
            for name in ("inherited", "specialised", "alone")
        ]
        ratios = [
            told([getattr(one, name) / one.alone for one in some], 3) for name in ("inherited", "specialised")
        ]
        macs = f"{np.mean([one.macs for one in some]) / 1e6:.2f} M"
        lines.append(f"| {place + 1} | {macs} | {' | '.join([*accuracies, *ratios])} |")
    return "\n".join(lines)


def told(values: Sequence[float], digits: int) -> str:
    """Mean and standard error."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{np.mean(values):.{digits}f} ± {error:.{digits}f}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--set", dest="settings", action="append", default=[], help="as of `nas run`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=5, help="finalists that are trained alone")
    parser.add_argument("--json", type=Path, help="a file that takes every result as a line of JSON")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    results: list[Compared] = []
    for seed in args.seeds:
        settings = [*args.settings, f"seed={seed}", "objectives=[accuracy, macs]"]
        results += compared(load_config(args.file, settings), args.count)
        if args.json:
            with args.json.open("a") as lines:
                lines.writelines(json.dumps(vars(one)) + "\n" for one in results if one.seed == seed)
    print(f"\n{table(results)}")


if __name__ == "__main__":
    main()
