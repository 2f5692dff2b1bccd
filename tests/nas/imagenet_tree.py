"""A folder of a thousand classes as ImageNet has them, with few and tiny images."""

from pathlib import Path

from image_trees import save

CLASSES = 1000
HELD_OUT = 2  # images of a class: one for the search, one for the report


def make_imagenet(root: Path) -> Path:
    """`root` with `train` and `val` below it, all images different."""
    for label in range(CLASSES):
        for split, images in (("train", 1), ("val", HELD_OUT)):
            for i in range(images):
                seed = 10 * label + 5 * (split == "val") + i
                save(root / split / f"n{label:08d}" / f"{i}.png", seed=seed, size=(12, 10))
    return root
