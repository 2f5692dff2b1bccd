"""What a process needs to evaluate, and how an evaluation is cut into tasks.

Architectures times images make a rectangle. It is cut into blocks of images whose borders do not depend on
how many processes there are, and between the processes, in equal shares: whole blocks first, since all
architectures of a block share the computation of their common first layers, and inside a block only where a
share ends there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCH = 256
Hits = NDArray[np.bool_]


@dataclass(frozen=True)
class SharedWeights:
    """A supernet: its space as plain data, and the file with its weights."""

    family: str
    space_options: Mapping[str, Any]
    file: Path


@dataclass(frozen=True)
class EvaluationSetup:
    """All that a process needs to evaluate: plain data and the (verified) files of shared weights.

    supernets: by the names by which architectures say of which they are; of one alone under "".
    data_digest, data_sizes: of the data set that the job has; a process that finds another one says so.
    cache_mib: of activations that each process remembers, on its torch device; 0: none.
    siblings: whether FFNs that differ only in width run as one, which changes logits by rounding (1e-6).
    """

    supernets: Mapping[str, SharedWeights]
    data_name: str
    data_options: Mapping[str, Any]
    data_digest: str
    data_sizes: Mapping[str, int]
    torch_device: str
    threads: int
    cache_mib: int
    siblings: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a subnet could not be evaluated."""

    reason: str


@dataclass(frozen=True, slots=True)
class Task:
    """Architectures [first, last) on the images [start, stop), all in one block.

    worker: who had best do it: the same images come back to the same process, which may remember them.
    """

    first: int
    last: int
    start: int
    stop: int
    worker: int


def tasks(count: int, images: range, workers: int) -> list[Task]:
    """The tasks of `count` architectures on these images (of step 1)."""
    return [task for block in _blocks(images) for task in _of_block(count, block, images, workers)]


def _blocks(images: range) -> Iterator[range]:
    """Aligned to multiples of BATCH: parts of a split that grow meet the same blocks again."""
    for start in range(images.start // BATCH * BATCH, images.stop if images else 0, BATCH):
        yield range(max(start, images.start), min(start + BATCH, images.stop))


def _of_block(count: int, block: range, images: range, workers: int) -> Iterator[Task]:
    def share(worker: int) -> int:
        """How many of the architectures come before this worker's."""
        border = worker * len(images) / workers - (block.start - images.start)
        return min(max(round(count * border / len(block)), 0), count)

    for worker in range(workers):
        first, last = share(worker), share(worker + 1)
        if first < last:
            yield Task(first, last, block.start, block.stop, worker)
