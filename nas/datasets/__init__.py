"""Data sets: one file each, `build(**options) -> DataSet`.

A data set is split once into three: `train` teaches the supernet, `search` chooses subnets, `report` tells
how good the chosen ones are.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from nas.progress import Progress
from search_spaces import registry
from supernet import tasks

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


__all__ = [
    "SPLITS",
    "DataSet",
    "build",
    "counts_of",
    "described",
    "moved",
    "names",
    "prepared",
    "sentence",
    "targets_of",
    "task_name",
    "task_of",
    "train_part",
]

MOST_REASONS = 6
SPLITS = ("search", "report")
TARGETS_AT_ONCE = 256


class DataSet(Protocol):
    """Examples in three disjoint splits: inputs, and what a task says of them.

    input_shape: of one example: (channels, height, width) of an image, (tokens,) of text.
    num_classes: between which outputs decide: classes, or the vocabulary.  sizes: examples by split name.
    digest: SHA-256 (hex) of what the splits are made of; equal digests mean equal data and equal splits.

    One that is made of files may have more.  former_digest, otherwise: the digest by an older rule, and why
    jobs of that rule saw other inputs, "" if they did not.  manifest(): a row [name, SHA-256, split, whether
    it is used] for each file.  splits_anew: whether the splits are drawn again when a file changes. In its
    module `moved(options, root)`: its options where its files are elsewhere.  facts: what `described` adds.
    A data set may have `classes`, their names by label, and `preprocessing`, how its images become inputs
    (`nas.images.preprocessing.Preprocessing`): extracted subnets carry both.
    One that can make some examples of a training batch without the others has `train_part(seed, step, size,
    places)`: what `train_batch` gives at these places, bit for bit. One whose inputs travel better than they
    are used has `raw_part`, of the same arguments, and `normalised(inputs)`, which makes inputs of what that
    gives, on whatever device. One that goes on without examples that broke has `unreadable()`: where they
    are, and why; each is told once.
    One of another task than classification says it: `task`, also as TASK at the top of its module, where a
    job file's defaults are looked up. One whose qualities are told per something has `counts(split)`: how
    much of it each example has, (examples,), by its name.
    """

    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    sizes: dict[str, int]
    digest: str

    def train_batch(self, seed: int, step: int, size: int) -> "tuple[Tensor, Tensor]":
        """Inputs (size, *input_shape), augmented where that is done, and targets; a pure function of its
        arguments.
        """

    def clean_batch(self, seed: int, step: int, size: int) -> "Tensor":
        """Training inputs (size, *input_shape), prepared as the held-out splits prepare theirs.

        Like `train_batch` a pure function of its arguments.
        """

    def batches(
        self, split: str, size: int, images: slice | None = None
    ) -> "Iterator[tuple[Tensor, Tensor]]":
        """The `search` or `report` split, or these of its examples, in a fixed order, nothing random.

        Of `search` every first part is a sample of the whole: a search looks at growing parts.
        """

    def sources(self, split: str) -> "Tensor | None":
        """The ids (examples, k) of the source items each example was made from, if examples share items.

        Their outcomes are then correlated, which the standard error takes into account. None: independent
        examples.
        """

    def labels(self, split: str) -> "Tensor":
        """The targets (examples, ...) of `search` or `report`, in the order of `batches`."""


def names() -> list[str]:
    """The data sets that there are."""
    return registry.names(__name__)


def build(name: str, **options: Any) -> DataSet:
    """The data set of that name.

    Raises NotFoundError for an unknown name, UsageError for unknown, missing or wrong options.
    """
    dataset: DataSet = registry.call(__name__, name, **options)
    return dataset


def prepared(name: str, options: Mapping[str, Any], progress: Progress) -> DataSet:
    """`build`, after the module's `prepare`, if it has one, has shown how far it is with what takes long.

    Raises what `build` raises.
    """
    begun: list[int] = []

    def update(done: int, total: int) -> None:
        if not begun:
            progress.stage("images")
        begun.append(done)
        progress.update(done, total)

    prepare = getattr(registry.load(__name__, name), "prepare", None)
    if prepare is not None and "root" in options:
        prepare(update, **options)
    return build(name, **options)


def moved(name: str, options: Mapping[str, Any], root: "Path | None") -> dict[str, Any] | None:
    """A data set's options with its files in another folder; None: it is not made of files in a folder."""
    elsewhere = getattr(registry.load(__name__, name), "moved", None)
    if elsewhere is None and "root" not in options:
        return None
    if root is None:
        return dict(options)
    return elsewhere(options, root) if elsewhere else {**options, "root": str(root)}


def task_of(data: DataSet) -> tasks.Task:
    """What the data are for. Raises NotFoundError for a task that there is not."""
    return tasks.get(task_name(data))


def task_name(data: DataSet) -> str:
    """The name of its task; classification where the data say none."""
    return str(getattr(data, "task", tasks.TASK))


def train_part(
    data: DataSet, seed: int, step: int, size: int, places: Sequence[int]
) -> "tuple[Tensor, Tensor]":
    """What `train_batch` gives at these places of the batch, which are in ascending order.

    Of data that make only whole batches it is taken from one.
    """
    if hasattr(data, "train_part"):
        part: tuple[Tensor, Tensor] = data.train_part(seed, step, size, places)
        return part
    chosen = list(places)
    inputs, targets = data.train_batch(seed, step, size)
    return inputs[chosen], targets[chosen]


def counts_of(data: DataSet, split: str) -> "Mapping[str, Tensor]":
    """What the examples of a split are made of, (examples,) each by its name; empty: nothing is counted."""
    counts: Mapping[str, Tensor] = data.counts(split) if hasattr(data, "counts") else {}
    return counts


def targets_of(data: DataSet, split: str) -> "Tensor":
    """The targets (examples, ...) of a split; of a data set that has no `labels`, read off its batches."""
    if hasattr(data, "labels"):
        return data.labels(split)
    import torch  # noqa: PLC0415 - the names of the data sets are told without it

    return torch.cat([targets for _, targets in data.batches(split, TARGETS_AT_ONCE)])


def described(data: DataSet) -> dict[str, Any]:
    """What a data set is made of, as plain data.

    name, digest, sizes (examples by split), num_classes, its task where it is not classification, and as far
    as the data set says: classes (their names by label), preprocessing (how images become inputs) and its
    `facts`.
    facts: smallest and largest ([class, images]), left_out (files by reason), notes (sentences), origin
    (words).
    """
    facts = {"name": data.name, "digest": data.digest, "sizes": data.sizes, "num_classes": data.num_classes}
    classes, preprocessing = getattr(data, "classes", None), getattr(data, "preprocessing", None)
    task = {} if task_name(data) == tasks.TASK else {"task": task_name(data)}
    return {
        **facts,
        **task,
        **({} if classes is None else {"classes": list(classes)}),
        **({} if preprocessing is None else {"preprocessing": preprocessing.to_dict()}),
        **getattr(data, "facts", {}),
    }


def sentence(description: dict[str, Any]) -> str:
    """`described` in the one line with which a job begins; also of jobs that knew less."""
    sizes = description.get("sizes", {})
    task = tasks.get(description.get("task", tasks.TASK))
    counts = ", ".join(f"{sizes[name]:,} {name}" for name in ("train", "search", "report") if name in sizes)
    parts = [f"{description['num_classes']} {task.choices}"] if "num_classes" in description else []
    parts += [f"{task.examples}: {counts}"] if counts else []
    parts += [description["origin"]] if "origin" in description else []
    if "smallest" in description:
        (small, least), (large, most) = description["smallest"], description["largest"]
        unequal = f"from {least:,} ({small}) to {most:,} ({large}) a class"
        parts.append(unequal if least < most else f"{most:,} a class")
    if left_out := description.get("left_out"):
        reasons = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
        some = ", ".join(f"{count:,} {reason}" for reason, count in reasons[:MOST_REASONS])
        parts.append(f"left out: {some}{', ...' if len(reasons) > MOST_REASONS else ''}")
    return f"Data {description['name']}: {'; '.join(parts)}."
