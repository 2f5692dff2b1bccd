"""What backends make of the finalists of a job: their quality by each, paired with the supernet's.

One job is run; then every backend that works here computes its finalists in each of its precisions, on all
images of the report split, as stage `device_quality` does. Differences are the backend's quality less the
supernet's on the same images, their errors those of paired differences.

    python benchmarks/device_quality.py
    python benchmarks/device_quality.py examples/quickstart.yaml --set train.steps=1000 --batches 1 64
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import nas
from nas import datasets
from nas.config import load_config
from nas.datasets import DataSet
from nas.evaluation.on_device import Compared, compared, device_scores, module_scores
from nas.results import extraction
from nas.results.columns import difference_words, is_clear
from predictors.devices import Device
from search_spaces.errors import NASError
from search_spaces.registry import load, names

JOB = Path(__file__).parents[1] / "examples" / "quickstart.yaml"
SPLIT, BATCH = "report", 64
SMALL = ("train.steps=600", "search.evaluations=64", "search.finalists=6")


@dataclass(frozen=True)
class Line:
    """What a device makes of the finalists, why it takes some not, and the wall seconds for each."""

    results: list[Compared]
    refused: dict[str, str]
    seconds: float


def devices(batches: Sequence[int], backends: Sequence[str]) -> Iterator[tuple[str, Device]]:
    """Every backend that works here in each of its precisions, with a name that tells it."""
    for backend in backends:
        component = load("predictors.devices", backend)
        for precision in component.PRECISIONS:
            for batch in batches:
                name = f"{backend} {precision}, batch {batch}"
                try:
                    yield name, component.build(name=name, batch=batch, precision=precision)
                except NASError as error:
                    print(f"{name}: {error.message}", flush=True)


def computed(device: Device, networks: dict[str, nn.Module], metric: str, data: DataSet) -> Line:
    """Every finalist on a device."""
    places = range(data.sizes[SPLIT])
    results, refused, began = list[Compared](), dict[str, str](), time.perf_counter()
    for key, network in networks.items():
        plain = module_scores(network, data, SPLIT, places, batch=BATCH)
        try:
            with device.session():
                scores = device_scores(device, network, data, SPLIT, places)
        except NASError as error:
            refused[key] = error.message
            continue
        results.append(compared(metric, scores, plain, data, SPLIT, places))
    return Line(results, refused, (time.perf_counter() - began) / len(networks))


def told(name: str, line: Line, metric: str) -> str:
    """A row of the table: over the finalists."""
    results = line.results
    if not results:
        return f"| {name} | – | – | {next(iter(line.refused.values()))} | – | {line.seconds:.1f} |"
    mean = sum(one.qualities[metric].value for one in results) / len(results)
    difference = sum(one.difference for one in results) / len(results)
    most = max(results, key=lambda one: abs(one.difference))
    clear = sum(is_clear(one.difference, one.stderr) for one in results)
    words = difference_words(metric, most.difference, most.stderr)
    refused = f", {len(line.refused)} refused" if line.refused else ""
    of_all = f"{clear} of {len(results)}{refused}"
    figures = (f"{100 * mean:.2f}", f"{100 * difference:+.2f}", words, of_all, f"{line.seconds:.1f}")
    return f"| {name} | {' | '.join(figures)} |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, nargs="?", default=JOB)
    parser.add_argument("--set", dest="settings", action="append", default=[], help="as of `nas run`")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--backends", nargs="+", default=names("predictors.devices"))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    config = load_config(args.file, [*(SMALL if args.file == JOB else ()), *args.settings])
    data = datasets.build(config.data.name, **config.data.options)
    with tempfile.TemporaryDirectory(prefix="device-quality-") as folder:
        job = nas.run(config, store=f"sqlite:///{folder}/store.sqlite")
        front = job.front()
        networks = {one.subnet: extraction.extract(job.store, job.job, one.subnet) for one in front.members}
    for one in front.members:
        print(f"{one.subnet}: {one.metric} {one.quality:.4f} ± {one.stderr or 0.0:.4f} in the supernet")
    mean = sum(one.quality for one in front.members) / len(front.members)
    print(f"mean of {len(networks)} finalists: {mean:.4f}, on {data.sizes[SPLIT]:,} images\n")
    print("| device | mean quality % | mean difference, points | the largest | clear | s a finalist |")
    print("|---|---|---|---|---|---|", flush=True)
    for name, device in devices(args.batches, args.backends):
        print(told(name, computed(device, networks, front.metric, data), front.metric), flush=True)


if __name__ == "__main__":
    main()
