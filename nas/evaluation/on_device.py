"""What a network scores where a device's backend computes it, paired with what it scores in the supernet.

A backend fuses, rounds and quantises: a device in 8 bits has another accuracy than the weights that it was
given. Examples go through in batches of the device's size, in the order of their split, as it would get them:
where ranges are found in every pass, what an example scores depends on those beside it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nas.datasets import DataSet, counts_of, task_of
from nas.evaluation import Evaluator, Failed, Scores
from nas.evaluation.estimates import Examples
from nas.evaluation.qualities import Qualities, classes_of, sizes_of
from nas.limits import kind_of
from nas.watchdog import within
from predictors.devices import Device
from predictors.measurement.deadlines import Deadlines
from search_spaces import Architecture
from search_spaces.errors import NASError, UsageError
from supernet.evaluation.scores import quality_of

if TYPE_CHECKING:
    from supernet.evaluation.probe import Probing

SEARCH = "search"  # the split
DRAW = 0  # seed of the draw of examples: equal numbers of them are equal ones, in every job


@dataclass(frozen=True)
class Compared:
    """All qualities of a network on a device by their names, and how much one of them differs.

    difference: of that quality, less what the same network has in the supernet on the same examples, with
    the standard error of paired differences.
    """

    qualities: Qualities
    difference: float
    stderr: float


def places_of(data: DataSet, split: str, count: int | None) -> Sequence[int]:
    """Which examples of a split are looked at, in its order: all of them, or so many drawn from it."""
    size = data.sizes[split]
    if count is None or count >= size:
        return range(size)
    drawn = torch.randperm(size, generator=torch.Generator().manual_seed(DRAW))[:count]
    places: list[int] = drawn.sort().values.tolist()
    return places


class OnDevice:
    """An `Evaluator` that answers about the split `search` by the backend of a device; else another one does.

    network: makes a stand-alone one of an architecture.  visited: as of `device_scores`.
    One after the other, in this process: nothing else may compute on the device meanwhile.
    """

    def __init__(
        self,
        device: Device,
        data: DataSet,
        other: Evaluator,
        *,
        network: Callable[[Architecture], nn.Module],
        visited: Callable[[], None],
    ) -> None:
        self._device, self._data, self._other = device, data, other
        self._network, self._visited = network, visited
        self._deadlines = Deadlines()

    def scored(
        self, archs: Sequence[Architecture], split: str, images: slice | None = None
    ) -> list[Scores | Failed]:
        """For each architecture what it scores on the split's examples, or on these of them."""
        if split != SEARCH:
            return self._other.scored(archs, split, images)
        places = range(self._data.sizes[split])[images or slice(None)]
        return [self._scored(arch, places) for arch in archs]

    def probe(self, archs: Sequence[Architecture]) -> "list[Probing | Failed]":
        """How each network reacts, in the supernet."""
        return self._other.probe(archs)

    def _scored(self, arch: Architecture, places: Sequence[int]) -> Scores | Failed:
        began = time.monotonic()
        what = f"Subnet {arch.key} on device '{self._device.name}'"
        try:
            with within(what, self._deadlines.seconds(SEARCH, len(places))), self._device.session():
                scores = device_scores(
                    self._device, self._network(arch), self._data, SEARCH, places, visited=self._visited
                )
        except NASError as error:
            return Failed(error.message.rstrip("."))
        except Exception as error:
            return Failed(f"{type(error).__name__}: {error}")
        self._deadlines.took(SEARCH, time.monotonic() - began, len(places))
        return scores


def device_scores(
    device: Device,
    module: nn.Module,
    data: DataSet,
    split: str,
    places: Sequence[int],
    *,
    visited: Callable[[], None] = lambda: None,
) -> Scores:
    """What the network scores on these examples of a split, by the device's backend; within its session.

    visited: is called after every batch, and may raise to stop.
    Raises UsageError for a backend that tells no outputs, and for a network that it cannot take.
    """
    check_tells_outputs(device)
    task, parts = task_of(data), list[Tensor]()
    batches = batches_at(data, split, places, device.batch)
    first = next(batches)
    with device.computing(module, _filled(first[0], device.batch)) as compute:
        for x, targets in chain([first], batches):
            outputs = compute(_filled(x, device.batch))[: len(x)]
            parts.append(task.scores(outputs, targets))
            visited()
    return _joined(parts)


def check_tells_outputs(device: Device) -> None:
    """Raises UsageError for a backend of somebody else's that only times networks."""
    if not hasattr(device, "computing"):
        raise UsageError(
            f"The backend of '{device.name}' tells no outputs of networks.",
            "A function `computing` of it does (predictors/devices/__init__.py).",
        )


def module_scores(
    module: nn.Module, data: DataSet, split: str, places: Sequence[int], *, batch: int
) -> Scores:
    """The same of the network as it is, which is what the supernet computes."""
    task = task_of(data)
    with torch.inference_mode():
        return _joined(
            [task.scores(module(x), targets) for x, targets in batches_at(data, split, places, batch)]
        )


def compared(
    metric: str, scores: Scores, reference: Scores, data: DataSet, split: str, places: Sequence[int]
) -> Compared:
    """Scores on these examples of a split as qualities, and beside others of the same network on the same."""
    at, sources = torch.as_tensor(places), data.sources(split)
    of_places = None if sources is None else sources[at]
    counts = {name: count[at] for name, count in counts_of(data, split).items()}
    qualities = {
        kind.name: quality_of(
            kind,
            torch.from_numpy(scores),
            sources=of_places,
            classes=_at(classes_of(data, split, kind.name), at),
            counts=counts,
        )
        for kind in task_of(data).qualities
    }
    sizes = _at(sizes_of(data, split, metric), at)
    classes = _at(classes_of(data, split, metric), at)
    examples = Examples(len(at), of_places, classes, sizes=sizes, kind=kind_of(metric))
    ahead, error = examples.leads(scores[None], reference[None])
    return Compared(qualities, kind_of(metric).sign * float(ahead[0]), float(error[0]))


def batches_at(
    data: DataSet, split: str, places: Sequence[int], size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """These examples of a split in batches of the size, the last perhaps smaller; inputs and targets."""
    if isinstance(places, range) and places == range(data.sizes[split]):
        yield from data.batches(split, size)
        return
    for start in range(0, len(places), size):
        parts = [
            batch
            for run in _runs(places[start : start + size])
            for batch in data.batches(split, size, slice(run.start, run.stop))
        ]
        yield torch.cat([x for x, _ in parts]), torch.cat([targets for _, targets in parts])


def _runs(places: Sequence[int]) -> Iterator[range]:
    """The same places as ranges without a gap."""
    start = before = places[0]
    for place in places[1:]:
        if place != before + 1:
            yield range(start, before + 1)
            start = place
        before = place
    yield range(start, before + 1)


def _filled(x: Tensor, size: int) -> Tensor:
    """A batch of the size: a smaller one with its examples again, which moves no range of a quantiser."""
    return x if len(x) == size else x[torch.arange(size) % len(x)]


def _at(values: Tensor | None, places: Tensor) -> Tensor | None:
    return None if values is None else values[places]


def _joined(parts: Sequence[Tensor]) -> Scores:
    scores: Scores = torch.cat(list(parts)).cpu().numpy()
    return scores
