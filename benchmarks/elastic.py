"""Elastic folders: deadlines met while something else uses the core, what a switch costs, memory saved.

    python benchmarks/elastic.py                        # trains a small job first, some minutes
    python benchmarks/elastic.py FOLDER                 # what `nas extract --elastic` wrote of such a job
    python benchmarks/elastic.py --only simulated       # no clock: made latencies under made slowness
    python benchmarks/elastic.py --only switches        # CPU time and memory, of made supernets

`adapt` is compared with fixed subnets of the same mean quality: a mixture of two of them in the proportion
that gives adapt's mean, the two that keep most deadlines. In the real test all take turns within each tick,
so that they meet the same moments; the process that uses the core stops and goes on at random times.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nas
import search_spaces
import supernet
from nas.exported.elastic import ElasticMember, export_elastic
from nas.exported.elastic_runtime import Adaptive, Elastic
from nas.results.extraction import export_front
from supernet.supernet import Supernet

JOB: Mapping[str, Any] = {
    "name": "digits",
    "data": "digits",
    "supernet": {
        "space": {
            "embed_dim": [16, 32, 64],
            "depth": [1, 2, 3, 4],
            "num_heads": [2, 4],
            "mlp_ratio": [0.5, 1, 2, 4],
        }
    },
    "train": {"steps": 1200, "batch_size": 32, "threads": 1},
    "devices": {"cpu": {"batch": 64}},
    "search": {"evaluations": 60, "finalists": 8},
    "execution": {"workers": 1},
}
SPACES: Mapping[str, Mapping[str, Any]] = {
    "matformer": {},
    "autoformer_tiny": {},
    "vit_resnas": {},
    "turbovit_digit_pairs": {},
    "stitching": {},
    "matlm": {
        "context": 128,
        "embed_dim": [256],
        "depth": [4, 8],
        "num_heads": [4, 8],
        "mlp_hidden": [256, 1024],
    },
}
MADE = 8  # members of the made front
CALLS, SEEDS = 4000, 5
BUSY, QUIET = 40, 80  # calls that a made busy time, and a quiet one, last in the mean
MOST_SUBNETS = 5  # of a real front
BUSY_S, QUIET_S = 4.0, 6.0  # of the process that uses the core, in the mean
HOG = """
import os, random, sys, time
draw, parent = random.Random(int(sys.argv[1])), os.getppid()
while os.getppid() == parent:
    end = time.monotonic() + draw.expovariate(1 / float(sys.argv[2]))
    while time.monotonic() < end:
        pass
    time.sleep(draw.expovariate(1 / float(sys.argv[3])))
"""


@dataclass(frozen=True)
class Outcome:
    """share: of the deadlines that were met.  quality: mean over the calls.  switches: a thousand calls."""

    share: float
    quality: float
    switches: float = 0.0


def made_members() -> list[dict[str, Any]]:
    """A front whose quality rises ever less with latency, from 1 to 12 ms."""
    return [
        {"key": str(i), "quality": 0.95 - 0.25 * float(np.exp(-ms / 3)), "latency_ms": {"made": float(ms)}}
        for i, ms in enumerate(np.geomspace(1, 12, MADE))
    ]


def made_slowness(seed: int, calls: int = CALLS) -> list[float]:
    """Quiet and busy times by turns, each call a little different, one in a hundred much slower."""
    rng = np.random.default_rng(seed)
    factors: list[float] = []
    while len(factors) < calls:
        for level, spread, mean in ((1.0, 0.05, QUIET), (2.0, 0.15, BUSY)):
            factors += list(level * rng.lognormal(0, spread, 1 + rng.geometric(1 / mean)))
    spikes = np.where(rng.random(calls) < 0.01, 4.0, 1.0)
    return [float(factor) for factor in np.array(factors[:calls]) * spikes]


def adapted(members: Sequence[Mapping[str, Any]], deadline_ms: float, slowness: Sequence[float]) -> Outcome:
    """What `adapt` comes to where runs take as long as measured times the slowness of the moment."""
    adaptive = Adaptive(Elastic({"goal": "max", "members": members}, {}, None), deadline_ms, None)
    met, qualities, keys = 0, [], []
    for factor in slowness:
        member = adaptive.member
        took_ms = factor * member["latency_ms"]["made"]
        met += took_ms <= deadline_ms
        qualities.append(member["quality"])
        keys.append(member["key"])
        adaptive.told(took_ms)
    return Outcome(met / len(keys), statistics.fmean(qualities), switches(keys))


def fixed(member: Mapping[str, Any], deadline_ms: float, slowness: Sequence[float]) -> Outcome:
    """One subnet under the same slowness."""
    met = sum(factor * member["latency_ms"]["made"] <= deadline_ms for factor in slowness)
    return Outcome(met / len(slowness), member["quality"])


def switches(keys: Sequence[str]) -> float:
    """How often the next one is another, a thousand calls."""
    return 1000 * sum(a != b for a, b in pairwise(keys)) / max(len(keys), 1)


def mixed(alone: Sequence[Outcome], quality: float) -> float:
    """The largest share of deadlines that fixed subnets keep, mixed so that their mean quality is this."""
    best = 0.0
    for low in alone:
        for high in alone:
            if low.quality <= quality <= high.quality:
                apart = high.quality - low.quality
                part = (quality - low.quality) / apart if apart else 0.0
                best = max(best, (1 - part) * low.share + part * high.share)
    return best


def at_least(alone: Sequence[Outcome], quality: float) -> Outcome:
    """Of the fixed subnets that are at least so good the one that keeps most deadlines."""
    good = [one for one in alone if one.quality >= quality]
    return max(good or [max(alone, key=lambda one: one.quality)], key=lambda one: one.share)


HEADER = (
    "| deadline ms | adapt: met | mean quality | switches / 1000 | fixed mixture of that quality: met | "
    "adapt over it | one fixed subnet at least as good: met | its quality |"
)


def print_row(deadline_ms: float, pairs: Sequence[tuple[Outcome, Sequence[Outcome]]]) -> None:
    """pairs: for every seed what adapt came to, and what the fixed subnets did."""
    ours = [one for one, _ in pairs]
    theirs = [mixed(alone, one.quality) for one, alone in pairs]
    single = [at_least(alone, one.quality) for one, alone in pairs]
    cells = [
        f"{deadline_ms:.3g}",
        shown([100 * one.share for one in ours], " %"),
        f"{statistics.fmean(one.quality for one in ours):.4f}",
        f"{statistics.fmean(one.switches for one in ours):.0f}",
        shown([100 * share for share in theirs], " %"),
        shown([one.share / share for one, share in zip(ours, theirs, strict=True)], "", 3),
        shown([100 * one.share for one in single], " %"),
        f"{statistics.fmean(one.quality for one in single):.4f}",
    ]
    print(f"| {' | '.join(cells)} |")


def shown(values: Sequence[float], unit: str, digits: int = 1) -> str:
    """The mean with its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} ± {error:.{digits}f}{unit}"


def print_header(title: str) -> None:
    print(f"\n{title}\n\n{HEADER}\n|{'---|' * (HEADER.count('|') - 1)}")


def simulate() -> None:
    members = made_members()
    print_header(f"Simulated: {MADE} made subnets, {CALLS} calls, {SEEDS} seeds")
    for deadline_ms in (2.0, 4.0, 8.0, 16.0):
        pairs = []
        for seed in range(SEEDS):
            slowness = made_slowness(seed)
            alone = [fixed(member, deadline_ms, slowness) for member in members]
            pairs.append((adapted(members, deadline_ms, slowness), alone))
        print_row(deadline_ms, pairs)


# -- the real test --


def trained(folder: Path) -> Path:
    """The elastic folder of a small job."""
    job = nas.run(dict(JOB), store=f"sqlite:///{folder / 'nas.db'}")
    export_front(job.store, job.job, folder / "nets")
    return folder / "nets"


@contextmanager
def hog(seed: int, core: int) -> Iterator[None]:
    """A process that uses the core for a second or so, and leaves it for longer, by turns."""
    words = [sys.executable, "-c", HOG, str(seed), str(BUSY_S), str(QUIET_S)]
    process = subprocess.Popen(words)
    try:
        os.sched_setaffinity(process.pid, {core})
        yield
    finally:
        process.kill()
        process.wait()


def chosen(members: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some of a front's subnets, from the fastest to the slowest."""
    places = np.linspace(0, len(members) - 1, min(MOST_SUBNETS, len(members))).round().astype(int)
    return [members[i] for i in dict.fromkeys(places)]


def wall_ms(elastic: Elastic, key: str, x: torch.Tensor) -> float:
    """The median time of a subnet on the machine as it is before the test's own process uses the core."""
    module = elastic.use(key)
    with torch.inference_mode():
        return statistics.median(timed(partial(module, x)) for _ in range(60))


def cpu_ms(run: Callable[[], object]) -> float:
    """CPU time of this thread in milliseconds."""
    began = time.thread_time()
    run()
    return 1e3 * (time.thread_time() - began)


def timed(run: Callable[[], object]) -> float:
    """Milliseconds of wall time."""
    began = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - began)


def segment(
    elastic: Elastic,
    adaptives: Sequence[Adaptive],
    deadlines: Sequence[float],
    x: torch.Tensor,
    seconds: float,
) -> list[tuple[Outcome, list[Outcome]]]:
    """For each deadline what adapt and the fixed subnets came to, all by turns for so many seconds."""
    rng = np.random.default_rng(0)
    keys = [member["key"] for member in elastic.members]
    quality = {member["key"]: member["quality"] for member in elastic.members}
    took: dict[Any, list[float]] = {name: [] for name in (*range(len(deadlines)), *keys)}
    used: list[list[str]] = [[] for _ in deadlines]
    names, end = list(took), time.monotonic() + seconds
    with torch.inference_mode():
        while time.monotonic() < end:
            for place in rng.permutation(len(names)):
                name = names[place]
                if isinstance(name, int):
                    used[name].append(adaptives[name].member["key"])
                    took[name].append(timed(lambda name=name: adaptives[name](x)))
                else:
                    took[name].append(timed(lambda name=name: elastic.use(name)(x)))
    pairs = []
    for i, deadline in enumerate(deadlines):
        alone = [Outcome(share_met(took[key], deadline), quality[key]) for key in keys]
        mean = statistics.fmean(quality[key] for key in used[i])
        pairs.append((Outcome(share_met(took[i], deadline), mean, switches(used[i])), alone))
    return pairs


def share_met(times: Sequence[float], deadline_ms: float) -> float:
    return sum(ms <= deadline_ms for ms in times) / len(times)


def under_load(folder: Path, batch: int, seconds: float, rounds: int) -> None:
    """The real test on a folder of image classifiers, on one core that is shared."""
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    elastic = Elastic.load(folder)
    elastic.members[:] = chosen(elastic.members)
    x = torch.zeros(batch, 1, 8, 8)
    print(f"\nBatches of {batch}: ms of the front, ms now without the other process, accuracy:")
    for member in elastic.members:
        now = wall_ms(elastic, member["key"], x)
        (of_front,) = member["latency_ms"].values()
        print(f"{of_front:.2f}, {now:.2f}, {member['quality']:.3f}")
    deadlines = [share * now for share in (0.7, 1.3)]  # of the best one, the last
    adaptives = [elastic.adapt(deadline) for deadline in deadlines]
    results = []
    for seed in range(rounds):
        with hog(seed, core):
            results.append(segment(elastic, adaptives, deadlines, x, seconds))
    print_header(
        f"Real: {rounds} times {seconds:g} s, one core; another process uses it {BUSY_S:g} s of "
        f"{BUSY_S + QUIET_S:g} in the mean"
    )
    for i, deadline in enumerate(deadlines):
        print_row(deadline, [pairs[i] for pairs in results])


# -- what switching costs, what memory is saved --


def made_folder(net: Supernet, folder: Path) -> Path:
    """The smallest, four random ones and the largest subnet of a supernet that nobody trained."""
    rng = np.random.default_rng(0)
    drawn = [net.space.sample(rng) for _ in range(4)]
    archs = dict.fromkeys([net.space.smallest, *drawn, net.space.largest])
    members = []
    for number, arch in enumerate(archs):
        cost = net.space.cost(arch)
        facts = {"key": arch.key, "quality": number, "stderr": 0.0, "latency_ms": {"made": 1.0 + number}}
        members.append(ElasticMember(arch, facts | {"params": cost.params, "macs": cost.macs}))
    info = {"job": "made", "metric": "accuracy", "goal": "max", "inputs": "made inputs"}
    export_elastic(net, members, folder, example=net.example_input(3), info=info)
    return folder


def print_switches() -> None:
    print("\n| space | subnets | MiB shared | copied too | one by one | of that | first use ms | later us |")
    print("|---|---|---|---|---|---|---|---|")
    for name, options in SPACES.items():
        net = supernet.build(search_spaces.get(name, **options), seed=0).eval()
        with tempfile.TemporaryDirectory() as place:
            elastic = Elastic.load(made_folder(net, Path(place, "nets")))
        keys = [member["key"] for member in elastic.members]
        first = [cpu_ms(partial(elastic.use, key)) for key in keys]
        later = [cpu_ms(partial(elastic.use, key)) for _ in range(200) for key in keys]
        modules = [elastic.use(key) for key in keys]
        apart = sum(t.nbytes for module in modules for t in module.state_dict().values())
        shared, copied = elastic.shared_bytes(), elastic.copied_bytes()
        mib = " | ".join(f"{size / 2**20:.2f}" for size in (shared, copied, apart))
        cells = f"{mib} | {(shared + copied) / apart:.2f} | {statistics.median(first):.2f}"
        print(f"| {name} | {len(keys)} | {cells} | {1e3 * statistics.median(later):.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="of a front on digits")
    parser.add_argument("--only", choices=("simulated", "switches", "load"))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30.0, help="of one round")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    if asked.only in (None, "simulated"):
        simulate()
    if asked.only in (None, "switches"):
        print_switches()
    if asked.only in (None, "load"):
        with tempfile.TemporaryDirectory() as place:
            under_load(asked.folder or trained(Path(place)), asked.batch, asked.seconds, asked.rounds)


if __name__ == "__main__":
    main()
