"""Which images of a folder of class folders belong to which split."""

from dataclasses import dataclass
from pathlib import Path

import torch

from nas.datasets._folder_names import shown
from nas.datasets._seeds import mixed_seed
from search_spaces._errors import UsageError


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image: its path, the same from the root on with forward slashes, the class and the bytes."""

    path: Path
    relative: str
    label: int
    size: int


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
            folder = shown(members[0].path.parent)
            raise UsageError(
                f"The {len(members)} images of class folder '{folder}' are too few for "
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
