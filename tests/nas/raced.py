"""A search over a space whose subnets have all been evaluated beforehand."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from no_latency import NoLatency
from numpy.typing import NDArray

import search_spaces
from nas.config import JobConfig
from nas.job_run import Run
from nas.progress import Silent
from nas.search import stage as search_stage
from nas.search.objectives import Objectives
from nas.store import Store
from search_spaces import Architecture

IMAGES = 1024
SPACE = search_spaces.get(
    "matformer", image_size=(8, 8), patch_size=4, in_chans=1, num_classes=10, embed_dim=(16,), num_heads=(2,)
)
ARCHS = SPACE.decode(SPACE.all_codes())
MACS = SPACE.costs(SPACE.all_codes())["macs"].astype(np.float64)

Scores = NDArray[np.bool_]


def table(quality: NDArray[np.float64], images: int = IMAGES, *, seed: int = 0) -> Scores:
    """Scores of subnets of these qualities: images differ in difficulty, so that subnets mostly agree."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(0, 2, size=images)
    logit = np.log(quality / (1 - quality))[:, None] * 2.0
    return rng.random((len(quality), images)) < 1 / (1 + np.exp(-logit - ease))


class Looked:
    """An evaluator of table rows, by their numbers or as architectures; a Ctrl-C comes at call `stop`."""

    def __init__(self, hits: Scores, stop: int | None = None) -> None:
        self.hits, self.asked, self._stop = hits, [], stop  # type: ignore[var-annotated]
        self._places = {arch: i for i, arch in enumerate(ARCHS)}

    def scored(self, archs: Sequence[Any], split: str, images: slice | None = None) -> list[Scores]:
        assert split == "search"
        assert images is not None
        if len(self.asked) == self._stop:
            raise KeyboardInterrupt
        rows = [self._places.get(arch, arch) for arch in archs]
        self.asked.append((rows, images))
        return list(self.hits[rows, images])

    def probe(self, archs: Sequence[Architecture]) -> list[Any]:
        raise AssertionError("nobody asked")

    @property
    def images(self) -> int:
        return sum(len(rows) * (images.stop - images.start) for rows, images in self.asked)


class Data:
    """As much of a data set as the stage looks at."""

    sizes = {"search": IMAGES, "report": IMAGES}  # noqa: RUF012 - nobody changes it

    def sources(self, split: str) -> None:
        return None

    def labels(self, split: str) -> torch.Tensor:
        return torch.arange(IMAGES) % 2


QUALITY = 0.3 + 0.5 * (MACS - MACS.min()) / np.ptp(MACS) + 0.1 * np.random.default_rng(1).random(len(MACS))


@contextmanager
def running(
    store: Store, name: str, *, quality: str = "accuracy", **settings: Any
) -> Iterator[tuple[Run, Objectives]]:
    """The job of that name as ours for a while; a Ctrl-C ends it early."""
    section = {"evaluations": 96, "batch": 12, "searcher": "nsga2", "population": 12} | settings
    config = JobConfig.model_validate({"objectives": [quality, "macs"], "search": section})
    known = [found for found in store.jobs() if found.name == name]
    row = known[0] if known else store.create_job(name, config={}, seed=0, provenance={})
    with store.acquire(row) as lease:
        objectives = Objectives((quality, "macs"), SPACE, NoLatency(), quality=quality)  # type: ignore[arg-type]
        try:
            yield Run(store, lease, config, Silent(), threading.Event()), objectives
            lease.finish("succeeded")
        except KeyboardInterrupt:
            lease.finish("stopped")


def run_search(store: Store, name: str, pool: Looked, **settings: Any) -> dict[str, Any]:
    """Once; an interruption ends it early. Returns the rows as far as they are."""
    with running(store, name, **settings) as (run, objectives):
        search_stage.search(run, objectives, Data(), pool)  # type: ignore[arg-type]
    return rows_of(store, name)


def rows_of(store: Store, name: str) -> dict[str, Any]:
    """What is known of each subnet of the job, by its key."""
    row = next(found for found in store.jobs() if found.name == name)
    hits = {key: seen.tolist() for key, seen in store.hits(row, "search").items()}
    rows = store.evaluations(row, "search")
    assert all(len(hits.get(e.subnet.key, range(IMAGES))) == e.count for e in rows)
    return {e.subnet.key: (e.position, e.value, e.stderr, e.count, hits.get(e.subnet.key)) for e in rows}
