"""Evaluating subnets with inherited weights in a local pool of processes.

The weights are loaded once per process. Which process evaluates what does not change any result, and a
batch's outcome does not depend on the number of workers.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from search_spaces import Architecture, SearchSpace
from search_spaces._errors import JobFailedError

if TYPE_CHECKING:
    from nas.datasets import DataSet
    from supernet._base import Supernet
    from supernet._evaluate import Quality
    from supernet._probe import Probing

T = TypeVar("T")
BATCH = 256
PROBED = 64


@dataclass(frozen=True)
class EvaluationSetup:
    """All that a process needs to evaluate: plain data and the (verified) file of the shared weights.

    images: examples of the search split that are used; None for all. The report split is always used in full.
    """

    family: str
    space_options: Mapping[str, Any]
    weights: Path
    data_name: str
    data_options: Mapping[str, Any]
    torch_device: str
    threads: int
    images: int | None


@dataclass(frozen=True)
class _Loaded:
    net: "Supernet"
    space: SearchSpace
    data: "DataSet"
    setup: EvaluationSetup


_loaded: _Loaded | None = None


class EvaluationPool:
    """`workers` processes; a context manager that ends them."""

    def __init__(self, setup: EvaluationSetup, *, workers: int) -> None:
        self._setup, self._workers = setup, workers
        self._pool = self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for process in list(self._pool._processes.values()):  # else the exit waits for what they evaluate
                process.kill()
        self._pool.shutdown(wait=error is None, cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._workers, context, initializer=_load, initargs=(self._setup,))

    def evaluate(self, archs: Sequence[Architecture], split: str) -> "list[Quality]":
        """Accuracy of each architecture on the split, in the given order.

        Neighbours in the space go to the same process, where they share the computation of their common
        first layers. Raises JobFailedError when the processes die twice over the same batch.
        """
        return self._twice(lambda: self._evaluate(archs, split))

    def probe(self, archs: Sequence[Architecture]) -> "list[Probing]":
        """How each network reacts, with the shared weights, to the first PROBED examples of `search`.

        Raises JobFailedError as `evaluate` does.
        """

        def submit() -> "list[Probing]":
            with _deaf_children():
                future = self._pool.submit(_probe, list(archs))
            return future.result()

        return self._twice(submit)

    def _twice(self, work: Callable[[], T]) -> T:
        """What the processes give; if they die over it, what new ones give."""
        try:
            return work()
        except BrokenProcessPool:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = self._start()
        try:
            return work()
        except BrokenProcessPool as error:
            raise JobFailedError(
                "A worker process died while it evaluated subnets, and died again on the second try.",
                "It may lack memory: lower execution.workers or search.batch.",
            ) from error

    def _evaluate(self, archs: Sequence[Architecture], split: str) -> "list[Quality]":
        order = sorted(range(len(archs)), key=lambda i: str(archs[i].values))
        share = -(-len(order) // self._workers)
        parts = [order[i : i + share] for i in range(0, len(order), share)]
        with _deaf_children():
            futures = [self._pool.submit(_evaluate, [archs[i] for i in part], split) for part in parts]
        results: dict[int, Quality] = {}
        for part, future in zip(parts, futures, strict=True):
            results.update(zip(part, future.result(), strict=True))
        return [results[i] for i in range(len(archs))]


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes that are started meanwhile hear no Ctrl-C, from their first instruction on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _load(setup: EvaluationSetup) -> None:
    """Runs once in every process."""
    import torch  # noqa: PLC0415 - with those below: only processes of the pool need these
    from safetensors.torch import load_file  # noqa: PLC0415

    import search_spaces  # noqa: PLC0415
    import supernet  # noqa: PLC0415
    from nas import datasets  # noqa: PLC0415

    global _loaded
    _end_with_parent()
    torch.set_num_threads(setup.threads)
    space = search_spaces.get(setup.family, **setup.space_options)
    net = supernet.build(space)
    net.shared.load_state_dict(load_file(setup.weights), strict=True)
    data = datasets.build(setup.data_name, **setup.data_options)
    _loaded = _Loaded(net.to(setup.torch_device).eval(), space, data, setup)


def _evaluate(archs: Sequence[Architecture], split: str) -> "list[Quality]":
    from supernet._evaluate import correct, quality  # noqa: PLC0415 - imports torch

    assert _loaded is not None, "the pool's initialiser has run"
    limit = _loaded.setup.images if split == "search" else None
    total = _loaded.data.sizes[split]
    count = min(limit or total, total)
    hits = correct(_loaded.net, archs, _first(_loaded, split, count))
    sources = _loaded.data.sources(split)
    return [quality(hits[arch].cpu(), None if sources is None else sources[:count]) for arch in archs]


def _probe(archs: Sequence[Architecture]) -> "list[Probing]":
    from supernet._probe import probe  # noqa: PLC0415 - imports torch

    assert _loaded is not None, "the pool's initialiser has run"
    x, labels = next(iter(_first(_loaded, "search", PROBED)))
    return [probe(_loaded.net, arch, x, labels) for arch in archs]


def _first(loaded: _Loaded, split: str, count: int) -> Any:
    """Batches of the first `count` examples, on the evaluating device."""
    for x, labels in loaded.data.batches(split, BATCH):
        if count <= 0:
            return
        yield x[:count].to(loaded.setup.torch_device), labels[:count].to(loaded.setup.torch_device)
        count -= len(x)


def _end_with_parent() -> None:
    """Ends this process when its parent is gone: a killed service leaves no orphans."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
