"""Which files of a folder of class folders belong to which split; nothing is decoded here."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from nas.datasets._seeds import mixed_seed
from search_spaces._errors import UsageError

LAYOUT = (
    "Expected are root/<class>/<image> folders, or root/train/<class>/<image> and root/val/<class>/<image>."
)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image: its path, the same from the root on with forward slashes, the class and the bytes."""

    path: Path
    relative: str
    label: int
    size: int


def find(root: Path) -> tuple[tuple[str, ...], dict[str, list[ImageFile]]]:
    """The class names and the images by folder: `all`, or `train` and `val`; sorted by their relative paths.

    Raises UsageError when the tree does not have the expected layout.
    """
    if not root.is_dir():
        raise UsageError(f"There is no image folder '{root}'.", LAYOUT)
    try:
        return _find(root)
    except OSError as error:
        raise UsageError(
            f"The image folder '{root}' cannot be read: {error}.", "Check its links and permissions."
        ) from error


def _find(root: Path) -> tuple[tuple[str, ...], dict[str, list[ImageFile]]]:
    folders = _folders(root)
    if "train" not in folders or not _folders(root / "train"):
        classes = _classes(root)
        return classes, {"all": _images(root, root, classes)}
    if "val" not in folders:
        raise UsageError(
            f"The image folder '{root}' has a 'train' folder of classes but no 'val' folder.", LAYOUT
        )
    classes, val_classes = _classes(root / "train"), _classes(root / "val")
    if odd := sorted(set(classes) ^ set(val_classes)):
        missing = "val" if odd[0] in classes else "train"
        raise UsageError(
            f"Class '{odd[0]}' of the image folder '{root}' has no folder in '{missing}'.", LAYOUT
        )
    return classes, {part: _images(root, root / part, classes) for part in ("train", "val")}


def split(
    groups: dict[str, list[ImageFile]], *, seed: int, search: float, report: float
) -> dict[str, list[ImageFile]]:
    """Divides each class at random into train, search and report; a `val` group into the last two only.

    search, report: their shares of all images; of a `val` group they divide the whole in proportion.
    Raises UsageError when a class has too few images to be in every split.
    """
    if "train" in groups:
        held_out = _by_shares(groups["val"], seed, {"search": search / (search + report)}, rest="report")
        return {"train": groups["train"]} | held_out
    return _by_shares(groups["all"], seed, {"search": search, "report": report}, rest="train")


def _by_shares(
    images: list[ImageFile], seed: int, shares: dict[str, float], *, rest: str
) -> dict[str, list[ImageFile]]:
    parts: dict[str, list[ImageFile]] = {name: [] for name in (*shares, rest)}
    classes: dict[int, list[ImageFile]] = {}
    for image in images:
        classes.setdefault(image.label, []).append(image)
    for label, members in classes.items():
        counts = {name: max(1, round(share * len(members))) for name, share in shares.items()}
        if sum(counts.values()) >= len(members):
            raise UsageError(
                f"The {len(members)} images of class folder '{members[0].path.parent}' are too few for "
                f"{' + '.join(f'{count} {name}' for name, count in counts.items())} and at least 1 {rest}.",
                "Add images, remove the class, or make the shares `search` and `report` smaller.",
            )
        generator = torch.Generator().manual_seed(mixed_seed(seed, label))
        order = torch.randperm(len(members), generator=generator).tolist()
        for name, count in counts.items():
            parts[name] += [members[i] for i in order[:count]]
            order = order[count:]
        parts[rest] += [members[i] for i in order]
    ordered = {name: sorted(part, key=lambda image: image.relative) for name, part in parts.items()}
    return ordered | {"search": _mixed(ordered["search"], seed)}


def _mixed(images: list[ImageFile], seed: int) -> list[ImageFile]:
    """In an order of which every first part is a sample of the whole: searches look at parts."""
    generator = torch.Generator().manual_seed(mixed_seed(seed, -1))
    return [images[i] for i in torch.randperm(len(images), generator=generator).tolist()]


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _classes(root: Path) -> tuple[str, ...]:
    classes = tuple(_folders(root)) if root.is_dir() else ()
    if not classes:
        raise UsageError(f"The image folder '{root}' has no class folders.", LAYOUT)
    if len(classes) < 2:
        raise UsageError(
            f"The image folder '{root}' has only one class folder ('{classes[0]}'); at least 2 are needed.",
            LAYOUT,
        )
    return classes


def _images(root: Path, folder: Path, classes: tuple[str, ...]) -> list[ImageFile]:
    numbers = {name: label for label, name in enumerate(classes)}
    found = make_dataset(str(folder), numbers, extensions=IMG_EXTENSIONS, allow_empty=True)
    images = list(_described(root, ((Path(path), label) for path, label in found)))
    empty = sorted(set(numbers.values()) - {image.label for image in images})
    if empty:
        raise UsageError(
            f"The class folder '{folder / classes[empty[0]]}' has no images.",
            f"Images are files that end in {', '.join(IMG_EXTENSIONS)}.",
        )
    return sorted(images, key=lambda image: image.relative)


def _described(root: Path, found: Iterable[tuple[Path, int]]) -> Iterable[ImageFile]:
    for path, label in found:
        if not path.name.startswith("."):
            yield ImageFile(path, path.relative_to(root).as_posix(), label, path.stat().st_size)
