"""Small image folders for tests."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat")


def save(path: Path, *, seed: int, size: tuple[int, int] = (20, 24), mode: str = "RGB") -> None:
    """A random image of (width, height) in any of Pillow's modes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size=(size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def make_tree(root: Path, *, per_class: int = 10, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> Path:
    """`per_class` different images of each class; another seed: other images."""
    for label, name in enumerate(classes):
        for i in range(per_class):
            save(root / name / f"{i}.png", seed=1_000_000 * seed + 1000 * label + i)
    return root
