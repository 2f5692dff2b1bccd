"""Racing against evaluation in full: images that a search looks at, and the front that it ends with.

The supernet of `searched_job.yaml` is trained and all its subnets are evaluated once on both held-out splits.
Searches then look their evaluations up, through the job's own stage, with the same seeds with and without
racing, and with as many images as racing looks at but the same ones for every subnet ("first"). Fronts are
compared by the report split, which no search sees: hypervolume of the finalists, with the standard error that
these images leave in one front's, and the hypervolume that the front was believed to have less that.

    python benchmarks/fidelity.py --seeds 10 --table table.npz
    python benchmarks/fidelity.py --seeds 10 --made 0       # a made truth: no training
"""

import argparse
import contextlib
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_hits import SPLITS, made_hits
from numpy.typing import NDArray

import supernet
from nas import datasets
from nas.config import JobConfig, load_config, merged
from nas.datasets import DataSet
from nas.evaluation import Scores
from nas.job_run import Run
from nas.progress import Silent
from nas.search.belief import believed
from nas.search.finalists import choose, show_more
from nas.search.objectives import Objectives, values_of
from nas.search.stage import search
from nas.spaces.job_space import resolve
from nas.store import Evaluation, Store
from nas.training.supernets import strategy
from search_spaces import Architecture, SearchSpace
from search_spaces.space import Codes
from supernet.evaluation.scores import scored
from supernet.evaluation.standard_errors import MeanErrors
from supernet.training.trainer import Training

JOB = Path(__file__).parent / "searched_job.yaml"
BATCH = 256


class NoLatency:
    """The latency of a search for accuracy against MACs."""

    def metrics(self, codes: Codes) -> dict[str, Any]:
        return {"latency_ms": np.ones(len(codes))}

    limited = metrics

    def intervals(self, codes: Codes) -> dict[str, Any]:
        return {}

    def named(self, metric: str) -> str:
        return metric


@dataclass
class Table:
    """An evaluator that has evaluated everything: hits (subnets, images) by split; `seen` counts images."""

    places: dict[Architecture, int]
    hits: dict[str, Scores]
    seen: int = 0

    def scored(self, archs: Sequence[Architecture], split: str, images: slice | None = None) -> list[Scores]:
        found = self.hits[split][[self.places[arch] for arch in archs], images or slice(None)]
        self.seen += found.size
        return list(found)

    def probe(self, archs: Sequence[Architecture]) -> list[Any]:
        raise NotImplementedError("nothing is run here, so that nothing can be probed")


def tabulated(config: JobConfig, data: DataSet, space: SearchSpace, file: Path | None) -> dict[str, Scores]:
    """Scores (all subnets, images) by split: read from the file, or trained, evaluated and written there."""
    if file is not None and file.exists():
        with np.load(file) as stored:
            return {s: np.unpackbits(stored[s], axis=1, count=data.sizes[s]).astype(np.bool_) for s in SPLITS}
    net = supernet.build(space, seed=config.seed)
    training = Training(net, strategy(config.train.sampling, net), config.train, seed=config.seed)
    for _ in training.run(lambda step: data.train_batch(config.seed, step, config.train.batch_size)):
        pass
    archs = space.decode(space.all_codes())
    order = sorted(archs, key=lambda arch: str(arch.values))
    hits = {}
    for split in SPLITS:
        found = scored(net, order, data.batches(split, BATCH))
        hits[split] = np.array([found[arch].numpy() for arch in archs])
    if file is not None:
        packed = {split: np.packbits(found, axis=1) for split, found in hits.items()}
        np.savez(file, **packed)
    return hits


@dataclass(frozen=True)
class Outcome:
    """Of one search: share of the images, its front by the report split and as believed, CPU seconds.

    stderr: of `true`, over the images of the report split.
    """

    share: float
    true: float
    stderr: float
    believed: float
    seconds: float
    reproducibility: dict[str, Any]


def searched(config: JobConfig, data: DataSet, objectives: Objectives, table: Table, folder: Path) -> Outcome:
    """A search through the stage of a job, with a store of its own."""
    table.seen = 0
    with Store.open(f"sqlite:///{folder}/nas.db") as store:
        job = store.create_job("search", config=merged(config), seed=config.seed, provenance={})
        with store.acquire(job) as lease:
            run = Run(store, lease, config, Silent(), threading.Event())
            begun = time.process_time()
            search(run, objectives, data, table)

            def chosen() -> list[Evaluation]:
                return choose(objectives, store.evaluations(job, "search"), config.search.finalists)

            if config.search.racing is not None:
                show_more(run, objectives, data, table, chosen)
            seconds = time.process_time() - begun
            lease.finish("succeeded")
            finalists = chosen()
        rows = [row for row in store.evaluations(job, "search") if row.state == "ok"]
        stage = store.stage(job, "search")
    share = table.seen / (len(rows) * data.sizes["search"])
    archs = [objectives.space.architecture(row.subnet.architecture) for row in finalists]
    values, hits = values_of(objectives, finalists), np.array(table.scored(archs, "report"))
    values[:, 0] = hits.mean(axis=1)
    told = stage.result if stage is not None and stage.result is not None else {}
    hoped = objectives.hypervolume(believed(objectives, rows))
    true, stderr = objectives.hypervolume(values), volume_error(objectives, values, hits, data)
    return Outcome(share, true, stderr, hoped, seconds, told["reproducibility"])


def volume_error(objectives: Objectives, values: NDArray[np.float64], hits: Scores, data: DataSet) -> float:
    """The standard error of a front's hypervolume over the images that tell its accuracies.

    To first order: the volume is a weighted sum of the accuracies, and therefore a mean over the images.
    """
    step, volume = 1e-6, objectives.hypervolume(values)
    raised = values + step * np.eye(len(values))[:, :, None] * (np.arange(values.shape[1]) == 0)
    weights = np.array([objectives.hypervolume(one) - volume for one in raised]) / step
    by_image = torch.from_numpy(weights @ hits)[:, None]
    return float(MeanErrors.over(len(by_image), data.sources("report")).of_means(by_image)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--searchers", nargs="+", default=["surrogate", "random"])
    parser.add_argument("--rate", type=float, default=0.1, help="search.racing")
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--table", type=Path, help="where the evaluations of all subnets are kept")
    parser.add_argument("--made", type=int, metavar="SEED", help="a made truth, and no supernet")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(JOB, environment={})
    data = datasets.build(config.data.name, **config.data.options)
    space = resolve(config, data)
    made = options.made is not None
    hits = (
        made_hits(space, data, seed=options.made) if made else tabulated(config, data, space, options.table)
    )
    table = Table({arch: i for i, arch in enumerate(space.decode(space.all_codes()))}, hits)
    objectives = Objectives(("accuracy", "macs"), space, NoLatency())  # type: ignore[arg-type]
    print(
        "searcher   way     images         true front ± its error; less whole      believed less true  CPU ms"
    )
    for searcher in options.searchers:
        section = {"searcher": searcher, "evaluations": options.evaluations, "measure_above": None}

        def run(way: str, section: dict[str, Any], whole: Sequence[Outcome] = ()) -> list[Outcome]:
            found = [_one(config, data, objectives, table, section, seed) for seed in range(options.seeds)]
            _show(way, found, whole or found, section)
            return found

        whole = run("whole", section | {"racing": None})
        raced = run("racing", section | {"racing": options.rate}, whole)
        images = round(np.mean([one.share for one in raced]) * data.sizes["search"])
        run("first", section | {"racing": None, "images": images}, whole)


def _one(
    config: JobConfig,
    data: DataSet,
    objectives: Objectives,
    table: Table,
    section: dict[str, Any],
    seed: int,
) -> Outcome:
    tree = merged(config) | {"seed": seed, "objectives": list(objectives.names)}
    job = JobConfig.model_validate(tree | {"search": tree["search"] | section}, strict=False)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        return searched(job, data, objectives, table, Path(folder))


def _show(way: str, found: Sequence[Outcome], whole: Sequence[Outcome], section: dict[str, Any]) -> None:
    """A line of the table. whole: the searches of the same seeds with all images."""
    share = np.array([one.share for one in found])
    front, error = (np.mean([getattr(one, name) for one in found]) for name in ("true", "stderr"))
    apart = np.array([one.true - other.true for one, other in zip(found, whole, strict=True)])
    spread = apart.std(ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else np.nan
    print(
        f"{section['searcher']:10} {way:6} {share.mean():6.3f} ± {share.std():.3f}  "
        f"{front:.4f} ± {error:.4f}; {apart.mean():+.4f} ± {spread:.4f}  "
        f"{np.mean([one.believed - one.true for one in found]):+.4f}  "
        f"{1e3 * np.mean([one.seconds for one in found]) / section['evaluations']:.1f}",
        flush=True,
    )
    if way == "whole":
        print("  ", found[0].reproducibility)


if __name__ == "__main__":
    main()
