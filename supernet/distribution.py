"""What the ranks of a data-parallel training do together, under an initialised `torch.distributed` group.

Every rank has the same weights, draws the same architectures and sees a part of each one's examples, which is
all that it is given of a batch. Sums are made in the order of the ranks, so that they are the same whenever
they are made.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from queue import SimpleQueue
from threading import Thread
from typing import Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_BYTES = 8 * 2**20  # `benchmarks/training.py` compares


def world() -> int:
    """How many ranks there are: one without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this one."""
    return dist.get_rank() if dist.is_initialized() else 0


def parts_of(count: int, pieces: int) -> list[slice]:
    """The parts of `count` examples that are this rank's, in order: one rank's are one behind the other.

    pieces: into how many all ranks divide the examples, or more where that is no multiple of the ranks.
    """
    each = -(-pieces // world())
    ends = [count * i // (each * world()) for i in range(each * rank(), each * (rank() + 1) + 1)]
    return [slice(*pair) for pair in pairwise(ends) if pair[0] < pair[1]]


@dataclass(frozen=True)
class Part:
    """What a process has of a batch of `size` examples: those at these places of it, in ascending order."""

    size: int
    places: Sequence[int]

    @classmethod
    def whole(cls, size: int) -> Self:
        """All of it."""
        return cls(size, range(size))

    def at(self, places: range) -> slice | Tensor:
        """Where the examples at these places of the batch are among those that it has."""
        if len(self.places) == self.size:
            return slice(places.start, places.stop, places.step)
        among = np.searchsorted(np.asarray(self.places), np.asarray(places))
        steps = np.diff(among)
        if len(steps) == 0 or (steps == steps[0]).all():
            step = int(steps[0]) if len(steps) else 1
            return slice(int(among[0]), int(among[-1]) + 1, step)
        return torch.from_numpy(among)


class OutOfStepError(RuntimeError):
    """Ranks that did not do the same."""


class Ranks:
    """What the ranks of one training exchange in every step: gradients, and whether to stop.

    Gradients are summed by a thread while others are still computed: `last_pass` is the backward pass after
    which they are complete. All must be made alike, and those of one rank be used one after the other.
    Raises OutOfStepError where ranks did not do the same, RuntimeError where one is lost.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, bucket_bytes: int = BUCKET_BYTES) -> None:
        self._parameters, self._bucket_bytes = list(parameters), bucket_bytes
        # Of its own, as two threads may not use one group; and on the CPU, where nothing waits for a GPU.
        few = dist.new_group(backend="gloo")
        assert isinstance(few, dist.ProcessGroup), "all ranks are in it"
        self._few = few
        self._listens = False
        self._reset()
        places = {id(p): i for i, p in enumerate(self._parameters)}
        for parameter in self._parameters:
            parameter.register_post_accumulate_grad_hook(lambda p: self._complete(p, places[id(p)]))

    def _reset(self) -> None:
        self._order: list[int] = []  # the places of the parameters whose gradients are complete
        self._bucket: list[nn.Parameter] = []
        self._size = 0
        self._full: SimpleQueue[tuple[list[nn.Parameter], Tensor] | None] = SimpleQueue()
        self._summed: list[tuple[list[nn.Parameter], Tensor]] = []
        self._error: BaseException | None = None

    @contextmanager
    def last_pass(self) -> Iterator[None]:
        """Inside, what a backward pass adds to a gradient is the last of this step; all are summed then."""
        thread = Thread(target=self._sum, daemon=True)
        thread.start()
        self._listens = True
        try:
            yield
        except BaseException:
            self._full.put(None)  # nobody waits for the thread: the others may be gone
            raise
        finally:
            self._listens = False
        complete = set(self._order)
        for place, parameter in enumerate(self._parameters):
            if parameter.grad is not None and place not in complete:
                self._take(parameter, place)
        self._flush()
        self._full.put(None)
        thread.join()
        if self._error is not None:
            raise self._error
        for parameters, flat in self._summed:
            gradients = [p.grad for p in parameters if p.grad is not None]
            sums = flat.split([g.numel() for g in gradients])
            for gradient, total in zip(gradients, sums, strict=True):
                gradient.copy_(total.view_as(gradient))

    def agreed(self, *, stop: bool) -> bool:
        """After the last pass: whether any rank wants to stop after this step.

        Raises OutOfStepError for ranks whose gradients came in another order, which were summed wrongly.
        """
        order = zlib.crc32(",".join(map(str, self._order)).encode())
        self._reset()
        answers = torch.empty(world() * 2, dtype=torch.int64)
        dist.all_gather_into_tensor(answers, torch.tensor([stop, order]), group=self._few)
        stops, orders = answers.view(-1, 2).unbind(1)
        if len(set(orders.tolist())) > 1:
            raise OutOfStepError("The ranks of a training have not computed the same gradients.")
        return bool(stops.any())

    def total(self, number: float) -> float:
        """The sum of the ranks' numbers."""
        numbers = torch.empty(world(), dtype=torch.float64)
        mine = torch.tensor([number], dtype=torch.float64)
        dist.all_gather_into_tensor(numbers, mine, group=self._few)
        return float(sum(numbers.tolist()))

    def _complete(self, parameter: Tensor, place: int) -> None:
        if self._listens:
            assert isinstance(parameter, nn.Parameter)
            self._take(parameter, place)

    def _take(self, parameter: nn.Parameter, place: int) -> None:
        assert parameter.grad is not None
        if self._bucket and self._bucket[-1].dtype != parameter.dtype:
            self._flush()
        self._order.append(place)
        self._bucket.append(parameter)
        self._size += parameter.grad.nbytes
        if self._size >= self._bucket_bytes:
            self._flush()

    def _flush(self) -> None:
        if self._bucket:
            flat = torch.cat([p.grad.flatten() for p in self._bucket if p.grad is not None])
            self._full.put((self._bucket, flat))
        self._bucket, self._size = [], 0

    def _sum(self) -> None:
        """In a thread of its own: sums what is full, in the order in which it was filled."""
        try:
            while (bucket := self._full.get()) is not None:
                parameters, flat = bucket
                self._summed.append((parameters, summed(flat)))
        except BaseException as error:
            self._error = error


def summed(flat: Tensor) -> Tensor:
    """The sum of the ranks' vectors, which are lost; each element is added up in the order of the ranks.

    On GPUs NCCL adds in an order of its own, which is the same for the same ranks.
    """
    if world() == 2 or flat.device.type == "cuda":  # of two numbers there is one sum
        dist.all_reduce(flat)
        return flat
    # Each rank adds up one of the pieces: as little is sent as by a ring, whose order depends on the piece.
    length = -(-len(flat) // world())
    padded = nn.functional.pad(flat, (0, length * world() - len(flat)))
    pieces = torch.empty_like(padded)
    dist.all_to_all_single(pieces, padded)
    first, *others = pieces.view(world(), length).unbind(0)
    for other in others:
        first += other
    dist.all_gather_into_tensor(padded, first)
    return padded[: len(flat)]


def gathered(data: bytes) -> list[bytes]:
    """What each rank gives, in their order."""
    lengths, mine = torch.empty(world(), dtype=torch.int64), torch.tensor([len(data)])
    dist.all_gather_into_tensor(lengths, mine)
    longest = max(1, int(lengths.max()))
    padded = torch.frombuffer(bytearray(data.ljust(longest, b"\0")), dtype=torch.uint8)
    everyone = torch.empty(world() * longest, dtype=torch.uint8)
    dist.all_gather_into_tensor(everyone, padded)
    rows = everyone.view(world(), longest)
    return [row[:length].numpy().tobytes() for row, length in zip(rows, lengths.tolist(), strict=True)]


def sent_from_first(data: bytes | None) -> bytes:
    """The bytes that the first rank has, on all of them. Others give None."""
    length = torch.tensor([0 if data is None else len(data)])
    dist.broadcast(length, src=0)
    sent = torch.frombuffer(bytearray(data or bytes(int(length))), dtype=torch.uint8)
    dist.broadcast(sent, src=0)
    return sent.numpy().tobytes() if data is None else data
