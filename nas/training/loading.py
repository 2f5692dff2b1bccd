"""Batches ahead of the step that asks for them: by a thread of this process, or by processes beside it.

Whoever makes a batch, or a part of one, it is a pure function of the seed and its number.
"""

import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from itertools import count
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from nas.datasets import DataSet, train_part
from nas.errors import JobFailedError
from nas.results.running.replaced_images import sentence
from nas.watchdog import deaf_children
from search_spaces.errors import NASError
from supernet.training.trainer import Batches

Batch = tuple[Tensor, Tensor]
Places = Callable[[int], Sequence[int]]  # of the examples that are wanted of the batch of a number

AHEAD = 2  # batches of each process
LONGEST = 600.0  # seconds that a batch may take
FROM_DATA = "in DataLoader worker process"  # what torch adds to an exception of the data
DEATHS = 3  # of processes in a row, between which no batch was made


class Loading:
    """Batches by their numbers, on a device; each is prepared before it is asked for.

    finish: makes inputs of what has travelled to the device.
    ahead: how many batches are prepared before they are asked for.
    waited: the seconds in which whoever asked had to wait.  warnings: sentences that nobody has told yet.
    """

    def __init__(
        self,
        make: Batches,
        device: torch.device,
        warnings: list[str],
        *,
        patience: float | None,
        ahead: int = 1,
        finish: Callable[[Tensor], Tensor] = lambda inputs: inputs,
    ) -> None:
        self.ahead, self.waited, self.warnings, self._finish = ahead, 0.0, warnings, finish
        self._make, self._device, self._patience = make, device, patience
        self._asked: SimpleQueue[tuple[int, Future[Batch]] | None] = SimpleQueue()
        self._waiting: dict[int, Future[Batch]] = {}

    def __call__(self, number: int) -> Batch:
        """Inputs and targets. Raises what making them raises, and JobFailedError where nothing comes."""
        current = self._waiting.pop(number, None) or self._ask(number)
        self._waiting = {number + 1: self._ask(number + 1)}
        began = time.perf_counter()
        try:
            x, targets = current.result(self._patience)
        except TimeoutError as error:
            raise JobFailedError(
                f"A training batch was not there after {self._patience:.0f} s: a process that prepares "
                "batches hangs, or the data does.",
                "Look whether the files can be read, and go on with `nas resume JOB`.",
            ) from error
        self.waited += time.perf_counter() - began
        inputs = self._finish(x.to(self._device, non_blocking=True))
        return inputs, targets.to(self._device, non_blocking=True)

    def _ask(self, number: int) -> "Future[Batch]":
        batch: Future[Batch] = Future()
        self._asked.put((number, batch))
        return batch

    def prepare(self) -> None:
        """Makes what is asked for, until `end`."""
        failed: tuple[int, BaseException] | None = None
        while (next_one := self._asked.get()) is not None:
            number, batch = next_one
            if failed is not None and number == failed[0] + 1:  # asked for before anybody knew
                batch.set_exception(failed[1])
                continue
            try:
                x, targets = self._make(number)
                if self._device.type == "cuda":  # else the copy there would wait for what is computed
                    x, targets = x.pin_memory(), targets.pin_memory()
                batch.set_result((x, targets))
            except BaseException as error:
                traceback.clear_frames(error.__traceback__)  # which would keep a loader and its processes
                failed = number, error
                batch.set_exception(error)

    def end(self) -> None:
        """No more batches."""
        self._asked.put(None)


@contextmanager
def loading(
    data: DataSet,
    seed: int,
    size: int,
    device: torch.device,
    *,
    processes: int = 0,
    places: Places | None = None,
) -> Iterator[Loading]:
    """Batches of `size` training examples; a thread prepares the next one while the current one is in use.

    places: which examples of a batch are wanted; None: all.
    processes: they make the batches, each AHEAD of them, if whoever asks asks for one number after the other;
    0: the thread does.
    The thread is one for which the process does not wait in the end: data may hang.
    """
    # Bytes are a quarter of inputs: they go to a GPU and come from processes, and are normalised then.
    normalised = getattr(data, "normalised", None) if hasattr(data, "raw_part") else None
    finish = {"finish": normalised} if device.type == "cuda" and normalised is not None else {}
    numbered = Numbered(data, seed, size, raw=normalised is not None and bool(finish or processes))
    wanted = places or (lambda number: range(size))
    warnings: list[str] = []
    tell = _Once(warnings.append)
    made = _FromProcesses(numbered, wanted, processes, warnings.append, tell) if processes else None
    patience = LONGEST if processes else None
    make = partial(_told, numbered, wanted, tell) if made is None else made
    if made is not None and normalised is not None and not finish:
        make = partial(_normalised, made, normalised)
    ahead = AHEAD * processes if processes else 1
    batches = Loading(make, device, warnings, patience=patience, ahead=ahead, **finish)

    def prepare() -> None:
        batches.prepare()
        if made is not None:
            made.end()

    thread = threading.Thread(target=prepare, daemon=True)
    thread.start()
    try:
        yield batches
    finally:
        batches.end()
    thread.join()  # not behind an error: data may hang


class Numbered(Dataset[Any]):
    """The training batches of a data set by their numbers.

    raw: before they are normalised, of data that has such.
    """

    def __init__(self, data: DataSet, seed: int, size: int, *, raw: bool = False) -> None:
        self._data, self._seed, self._size, self._raw = data, seed, size, raw

    def batch(self, number: int, places: Sequence[int]) -> Batch:
        """Inputs and targets of the examples at these places of a batch."""
        data: Any = self._data
        if self._raw:
            part: Batch = data.raw_part(self._seed, number, self._size, places)
            return part
        if len(places) == self._size:
            whole: Batch = data.train_batch(self._seed, number, self._size)
            return whole
        return train_part(data, self._seed, number, self._size, places)

    def unreadable(self) -> dict[str, str]:
        """Images that broke since the last call, by where they are, and why; of data that go on without."""
        news = getattr(self._data, "unreadable", None)
        return {} if news is None else news()

    def __getitem__(
        self, wanted: tuple[int, Sequence[int]]
    ) -> tuple[Tensor, Tensor, dict[str, str]] | NASError:
        # What a loader makes of an exception is a new one with a traceback for a message.
        try:
            return (*self.batch(*wanted), self.unreadable())
        except NASError as error:
            return error


class _Wanted(Sampler[tuple[int, Sequence[int]]]):
    """What a `DataLoader` has its processes make: batches from a number on, each with the places in it."""

    def __init__(self, first: int, places: Places) -> None:
        self._first, self._places = first, places

    def __iter__(self) -> Iterator[tuple[int, Sequence[int]]]:
        return ((number, self._places(number)) for number in count(self._first))


class _Once:
    """Tells of each image that broke once, whoever has noticed it."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._places = tell, set[str]()

    def __call__(self, news: Mapping[str, str]) -> None:
        for place, reason in news.items():
            if place not in self._places:
                self._places.add(place)
                self._tell(sentence(place, reason))


def _told(numbered: Numbered, places: Places, tell: _Once, number: int) -> Batch:
    """A batch that is made here."""
    made = numbered.batch(number, places(number))
    tell(numbered.unreadable())
    return made


def _normalised(make: Batches, normalise: Callable[[Tensor], Tensor], number: int) -> Batch:
    x, targets = make(number)
    return normalise(x), targets


class _FromProcesses:
    """Batches that a `DataLoader` has its processes make. Used by one thread, not by the main one.

    There the loader would raise the death of a process wherever the main thread is just then: in the middle
    of a step, too.
    places: which examples of a batch are wanted.  tell: hears that a process was started anew.  broken:
    hears of images that broke.
    """

    def __init__(
        self,
        numbered: Numbered,
        places: Places,
        processes: int,
        tell: Callable[[str], None],
        broken: _Once,
    ) -> None:
        self._numbered, self._places, self._processes = numbered, places, processes
        self._tell, self._broken = tell, broken
        self._next = -1  # the number that the iterator gives next
        self._iterator: Iterator[Any] | None = None
        self._deaths = 0

    def __call__(self, number: int) -> Batch:
        if self._iterator is None or number != self._next:
            self._begin(number)
        while True:
            assert self._iterator is not None
            try:
                made = next(self._iterator)
            except (RuntimeError, OSError, EOFError) as error:
                # One that died takes with it what it had handed over and nobody had received.
                if FROM_DATA in str(error):
                    raise
                self._begin_again(number, error)
                continue
            self._next, self._deaths = number + 1, 0
            if isinstance(made, NASError):
                raise made
            x, targets, broken = made
            self._broken(broken)
            return x, targets

    def _begin(self, number: int) -> None:
        self.end()
        with deaf_children(), warnings.catch_warnings():
            # That there are fewer processors: how long steps wait is told (`WAITED`), and says more.
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            loader = DataLoader(
                self._numbered,
                batch_size=None,
                sampler=_Wanted(number, self._places),
                num_workers=self._processes,
                prefetch_factor=AHEAD,
                multiprocessing_context="spawn",
                worker_init_fn=_one_thread,
            )
            self._iterator = iter(loader)

    def _begin_again(self, number: int, error: Exception) -> None:
        """Raises JobFailedError where that is no use."""
        self._deaths += 1
        if self._deaths >= DEATHS:
            raise JobFailedError(
                f"Processes that prepare training batches died {DEATHS} times in a row, without a word.",
                "They may lack memory: lower train.loaders or train.batch_size, and go on with "
                "`nas resume JOB`.",
            ) from error
        self._tell("A process that prepares training batches died: others are started.")
        self._begin(number)

    def end(self) -> None:
        """Ends the processes."""
        self._iterator = None  # the loader's iterator ends them when nothing holds it


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
