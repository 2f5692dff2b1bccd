"""Evaluating subnets with inherited weights in a local pool of processes.

A process says which images a subnet classifies right; whoever asks makes a quality and its standard error of
this. The weights are loaded once per process. Which process evaluates what does not change any result, and a
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
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from search_spaces import Architecture, SearchSpace
from search_spaces._errors import JobFailedError

if TYPE_CHECKING:
    from torch import Tensor

    from nas.datasets import DataSet
    from supernet._base import Supernet
    from supernet._probe import Probing

T = TypeVar("T")
BATCH = 256
PROBED = 64


Hits = NDArray[np.bool_]


class Evaluator(Protocol):
    """Who evaluates subnets with the shared weights; the answers depend on nothing but the arguments."""

    def correct(self, archs: Sequence[Architecture], split: str, images: slice | None = None) -> list[Hits]:
        """For each architecture which of the split's examples, or of these of them, it classifies right."""

    def probe(self, archs: Sequence[Architecture]) -> "list[Probing]":
        """How each network reacts to the first PROBED examples of `search`."""


@dataclass(frozen=True)
class EvaluationSetup:
    """All that a process needs to evaluate: plain data and the (verified) file of the shared weights."""

    family: str
    space_options: Mapping[str, Any]
    weights: Path
    data_name: str
    data_options: Mapping[str, Any]
    torch_device: str
    threads: int


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

    def correct(self, archs: Sequence[Architecture], split: str, images: slice | None = None) -> list[Hits]:
        """For each architecture, in the given order, which examples it classifies right.

        Neighbours in the space go to the same process, where they share the computation of their common
        first layers. Raises JobFailedError when the processes die twice over the same batch.
        """
        return self._twice(lambda: self._correct(archs, split, images))

    def probe(self, archs: Sequence[Architecture]) -> "list[Probing]":
        """How each network reacts, with the shared weights, to the first PROBED examples of `search`.

        Raises JobFailedError as `correct` does.
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

    def _correct(self, archs: Sequence[Architecture], split: str, images: slice | None) -> list[Hits]:
        order = sorted(range(len(archs)), key=lambda i: str(archs[i].values))
        share = -(-len(order) // self._workers)
        parts = [order[i : i + share] for i in range(0, len(order), share)]
        with _deaf_children():
            futures = [self._pool.submit(_correct, [archs[i] for i in part], split, images) for part in parts]
        results: dict[int, Hits] = {}
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


def _correct(archs: Sequence[Architecture], split: str, images: slice | None) -> list[Hits]:
    from supernet._evaluate import correct  # noqa: PLC0415 - imports torch

    assert _loaded is not None, "the pool's initialiser has run"
    hits = correct(_loaded.net, archs, _batches(_loaded, split, images))
    return [hits[arch].cpu().numpy() for arch in archs]


def _probe(archs: Sequence[Architecture]) -> "list[Probing]":
    from supernet._probe import probe  # noqa: PLC0415 - imports torch

    assert _loaded is not None, "the pool's initialiser has run"
    x, labels = next(_batches(_loaded, "search", slice(PROBED)))
    return [probe(_loaded.net, arch, x, labels) for arch in archs]


def _batches(loaded: _Loaded, split: str, images: slice | None) -> "Iterator[tuple[Tensor, Tensor]]":
    """On the evaluating device."""
    device = loaded.setup.torch_device
    return ((x.to(device), labels.to(device)) for x, labels in loaded.data.batches(split, BATCH, images))


def _end_with_parent() -> None:
    """Ends this process when its parent is gone: a killed service leaves no orphans."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
