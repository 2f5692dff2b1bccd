"""By what a job knows the images with which it began."""

import hashlib
import json
from typing import Any

from nas.images.centre import Shape
from nas.images.decoding import SIXTEEN, WHITE, Scale
from nas.images.files import shown
from nas.images.selection import Selection

VERSION = 2
Normal = tuple[list[float], list[float]]


def digest(selection: Selection, size: tuple[int, int], normal: Normal, shape: Shape, scale: Scale) -> str:
    """SHA-256 over the contents of all images that are used, their splits, and all that shapes an input."""
    files = [
        (file.relative, selection.contents[file.relative].sha256, file.label, name)
        for name, part in selection.splits.items()
        for file in part
    ]
    pixels = [VERSION, scale.mode, sorted(scale.depths.items()), scale.background]
    return _hash([pixels, selection.classes, files, size, normal, *_other(shape)])


def former_digest(selection: Selection, size: tuple[int, int], normal: Normal, shape: Shape) -> str:
    """By the rule of jobs before version 0.2: the sizes of the files, and every image was used."""
    files = [
        (file.relative, file.size, file.label, name)
        for name, part in selection.everything.items()
        for file in part
    ]
    side = size[0] if size[0] == size[1] else size
    return _hash([selection.classes, files, side, normal, *_other(shape)])


def read_otherwise(selection: Selection, scale: Scale) -> str:
    """Why jobs before version 0.2 saw other pixels or other images than are used now; empty: they did not."""
    looks = [selection.contents[file.relative].look for part in selection.splits.values() for file in part]
    count = sum(look.otherwise or (look.kind == SIXTEEN and scale.depths[SIXTEEN] != 16) for look in looks)
    unused = sum(map(len, selection.everything.values())) - len(looks)
    reasons = [
        f"{count} images are oriented, scaled or blended otherwise" if count else "",
        f"{unused} images are left out" if unused else "",
        "the background is not white" if scale.background != WHITE else "",
    ]
    return " and ".join(filter(None, reasons))


def manifest(selection: Selection) -> list[list[Any]]:
    """Every image with its place in the split: name, SHA-256, split; "" where it is not used."""
    used = {file.relative for part in selection.splits.values() for file in part}
    return [
        [
            shown(file.relative),
            selection.contents[file.relative].sha256 if file.relative in selection.contents else "",
            name,
            file.relative in used,
        ]
        for name, part in selection.everything.items()
        for file in part
    ]


def _other(shape: Shape) -> list[Any]:
    # Jobs of before there was a choice of shapes know the digest without one.
    return [] if shape.is_former else [shape.as_timm(), shape.pct]


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
