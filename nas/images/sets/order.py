"""In which order training images are taken: shuffled epochs, some classes perhaps more often than others.

All of it is a function of a seed and the place in the training; nothing is remembered.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch

from nas.images.options import is_number
from nas.images.seeds import mixed_seed
from search_spaces.errors import UsageError, did_you_mean

SQRT = "sqrt"

Balance = bool | str | Mapping[str, float]


def factors_of(balance: object, classes: Sequence[str], counts: Sequence[int]) -> list[float] | None:
    """How many times as often as it comes by itself an image of each class is drawn; None: all alike.

    balance: `true`, every class as often as any other; `sqrt`, in proportion to the square roots of how many
    images there are; or factors by class name, 1 for those that are not named.  counts: images by class, each
    at least 1.  Raises UsageError.
    """
    if balance is False:
        return None
    if balance is True:
        return [1 / count for count in counts]
    if balance == SQRT:
        return [1 / math.sqrt(count) for count in counts]
    if not isinstance(balance, Mapping):
        raise UsageError(
            f"balance = {balance!r} is unknown.",
            "Options: false, true (classes equally often), sqrt, or {class: factor}.",
        )
    for name, factor in balance.items():
        if str(name) not in classes:
            raise UsageError(
                f"balance names the class '{name}', which there is not.", did_you_mean(str(name), classes)
            )
        if not is_number(factor) or factor <= 0:
            raise UsageError(f"balance.{name} = {factor!r} is no positive number.")
    by_name = {str(name): float(factor) for name, factor in balance.items()}
    return [by_name.get(name, 1.0) for name in classes]


def draws_of(counts: Sequence[int], factors: Sequence[float]) -> list[int]:
    """How many images of each class an epoch has: at least one, together as many as there are images."""
    total = sum(counts)
    weights = [count * factor for count, factor in zip(counts, factors, strict=True)]
    exact = [total * weight / sum(weights) for weight in weights]
    draws = [max(1, math.floor(share)) for share in exact]
    by_rest = sorted(range(len(counts)), key=lambda label: (draws[label] - exact[label], label))
    while (missing := total - sum(draws)) > 0:
        for label in by_rest[:missing]:
            draws[label] += 1
    while sum(draws) > total:  # where classes that would have had none have got one
        several = [label for label, count in enumerate(draws) if count > 1]
        draws[max(several, key=lambda label: (draws[label] - exact[label], label))] -= 1
    return draws


class Order:
    """The order of training images, given by their labels.

    factors: as `factors_of` has them; None: every image once an epoch, else those of a class about equally
    often, though some in an epoch and others in the next one.
    """

    def __init__(self, labels: Sequence[int], factors: Sequence[float] | None) -> None:
        self._count = len(labels)
        members: dict[int, list[int]] = {}
        for image, label in enumerate(labels):
            members.setdefault(label, []).append(image)
        self._members = members
        self._draws: tuple[tuple[int, int], ...] = ()
        if factors is not None:
            present = sorted(members)
            counts = [len(members[label]) for label in present]
            draws = draws_of(counts, [factors[label] for label in present])
            self._draws = tuple(zip(present, draws, strict=True))
        self._epochs: dict[tuple[int, int], list[int]] = {}

    def __call__(self, seed: int, place: int) -> int:
        """The image at a place of the training: its number."""
        epoch, within = divmod(place, self._count)
        if not self._draws:
            return shuffled(seed, epoch, self._count)[within]
        drawn = self._epochs.get((seed, epoch))
        if drawn is None:
            drawn = self._drawn(seed, epoch)
            self._epochs = {(seed, epoch): drawn}  # the one that is needed next
        return drawn[within]

    def others(self, label: int, seed: int, *numbers: int) -> int:
        """An image of that class, drawn at random."""
        members = self._members[label]
        return members[mixed_seed(seed, *numbers) % len(members)]

    def _drawn(self, seed: int, epoch: int) -> list[int]:
        """An epoch's images: of each class where its last epoch ended, over and over all of its images."""
        drawn: list[int] = []
        for label, draws in self._draws:
            members = self._members[label]
            for number in range(epoch * draws, (epoch + 1) * draws):
                turn, at = divmod(number, len(members))
                drawn.append(members[shuffled(mixed_seed(seed, label), turn, len(members))[at]])
        return [drawn[place] for place in shuffled(seed, epoch, len(drawn))]


@lru_cache(2)
def shuffled(seed: int, epoch: int, count: int) -> list[int]:
    """The numbers below `count`, as an epoch has them."""
    order: list[int] = torch.randperm(
        count, generator=torch.Generator().manual_seed(mixed_seed(seed, epoch, -1))
    ).tolist()
    return order
