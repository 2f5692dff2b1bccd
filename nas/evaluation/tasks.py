"""What a process needs to evaluate, and how an evaluation is cut into tasks.

Architectures times examples make a rectangle. It is cut into blocks of examples whose borders do not depend
on how many processes there are, and between the processes, in equal shares: whole blocks first, since all
architectures of a block share the computation of their common first layers, and inside a block only where a
share ends there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supernet.tasks import TASK

if TYPE_CHECKING:
    from nas.datasets import DataSet

BATCH = 256
MOST_OUTPUTS = 2**26  # numbers that a network says of a batch: 256 MiB of them


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
    task: of the data.  batch: how many examples go through a network at once.
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
    task: str = TASK
    batch: int = BATCH


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a subnet could not be evaluated."""

    reason: str


@dataclass(frozen=True, slots=True)
class Task:
    """Architectures [first, last) on the examples [start, stop), all in one block.

    worker: who had best do it: the same examples come back to the same process, which may remember them.
    """

    first: int
    last: int
    start: int
    stop: int
    worker: int


def batch_of(data: "DataSet") -> int:
    """How many examples go through a network at once: BATCH, or fewer where each has many outputs."""
    if len(data.input_shape) != 1:
        return BATCH
    outputs = data.input_shape[0] * data.num_classes
    return max(1, min(BATCH, MOST_OUTPUTS // outputs))


def tasks(count: int, examples: range, workers: int, batch: int = BATCH) -> list[Task]:
    """The tasks of `count` architectures on these examples (of step 1), of which so many are a block."""
    blocks = _blocks(examples, batch)
    return [task for block in blocks for task in _of_block(count, block, examples, workers)]


def _blocks(examples: range, batch: int) -> Iterator[range]:
    """Aligned to multiples of the batch: parts of a split that grow meet the same blocks again."""
    for start in range(examples.start // batch * batch, examples.stop if examples else 0, batch):
        yield range(max(start, examples.start), min(start + batch, examples.stop))


def _of_block(count: int, block: range, examples: range, workers: int) -> Iterator[Task]:
    def share(worker: int) -> int:
        """How many of the architectures come before this worker's."""
        border = worker * len(examples) / workers - (block.start - examples.start)
        return min(max(round(count * border / len(block)), 0), count)

    for worker in range(workers):
        first, last = share(worker), share(worker + 1)
        if first < last:
            yield Task(first, last, block.start, block.stop, worker)
