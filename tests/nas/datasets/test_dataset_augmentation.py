"""Training images by timm's own transforms, as a function of seed, step and place."""

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_trees import make_tree
from timm.data.transforms_factory import create_transform

from nas import datasets
from nas.datasets import image_folder
from nas.images.files import decoded
from nas.images.seeds import mixed_seed
from search_spaces.errors import UsageError
from supernet.global_draws import seeded

DEIT: dict[str, Any] = {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25, "color_jitter": 0.4}
SIZE = 6


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "images")


def built(tree: Path, **augmentation: Any) -> image_folder.ImageFolder:
    return image_folder.build(root=str(tree), image_size=16, augmentation=augmentation)


@pytest.mark.parametrize(
    "options",
    [DEIT, {"auto_augment": "3a"}, {"scale": [0.5, 1.0], "hflip": 0.0}, {"re_prob": 0.9, "re_mode": "pixel"}],
)
def test_images_are_what_timm_makes_of_them(tree: Path, options: dict[str, Any]) -> None:
    data = built(tree, **options)
    images, labels = data.train_batch(3, 2, SIZE)
    transform: Any = create_transform(
        (16, 16), is_training=True, interpolation="bilinear", **({"color_jitter": None} | options)
    )
    files = data._chosen(3, 2, SIZE, range(SIZE))
    for i, file in enumerate(files):
        with seeded(mixed_seed(3, 2, i)):
            expected = transform(decoded(file.path, data.scale))
        assert torch.equal(images[i], expected)
        assert int(labels[i]) == file.label


def test_a_batch_is_a_function_of_the_seed_and_its_number(tree: Path) -> None:
    data = built(tree, **DEIT)
    again = pickle.loads(pickle.dumps(data))  # as a process gets it
    random.seed(8)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    first, other = data.train_batch(0, 1, SIZE)[0], again.train_batch(0, 1, SIZE)[0]
    assert torch.equal(first, other)
    assert not torch.equal(first, data.train_batch(0, 2, SIZE)[0])
    assert not torch.equal(first, data.train_batch(1, 1, SIZE)[0])
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_what_is_searched_and_reported_is_not_augmented(tree: Path) -> None:
    plain, augmented = image_folder.build(root=str(tree), image_size=16), built(tree, **DEIT)
    assert plain.digest == augmented.digest
    for split in ("search", "report"):
        for one, other in zip(plain.batches(split, 4), augmented.batches(split, 4), strict=True):
            assert torch.equal(one[0], other[0])
    assert torch.equal(plain.clean_batch(0, 1, SIZE), augmented.clean_batch(0, 1, SIZE))


def test_an_image_may_be_there_several_times_each_time_otherwise(tree: Path) -> None:
    data = built(tree, repeats=3, **DEIT)
    files = [file.relative for file in data._chosen(0, 0, SIZE, range(SIZE))]
    assert files == [files[0]] * 3 + [files[3]] * 3
    assert files[0] != files[3]
    images = data.train_batch(0, 0, SIZE)[0]
    assert not torch.equal(images[0], images[1])
    count = data.sizes["train"]
    seen = [
        file.relative
        for step in range(3 * count // SIZE)
        for file in data._chosen(0, step, SIZE, range(SIZE))
    ]
    assert sorted(seen) == sorted(3 * [file.relative for file in data._splits["train"]])


@pytest.mark.parametrize("policy", ["rand-m10-inc1-n12-p1.0", "rand-m0-n12-p1.0", "original"])
def test_a_level_that_leaves_no_bits_ends_no_training(tree: Path, policy: str) -> None:
    data = built(tree, auto_augment=policy)
    for step in range(8):  # without a bit at least one image in two
        assert data.train_batch(0, step, SIZE)[0].isfinite().all()


def test_grey_images_are_augmented_too(tree: Path) -> None:
    data = image_folder.build(root=str(tree), image_size=16, in_chans=1, augmentation={"re_prob": 1.0})
    assert data.train_batch(0, 0, SIZE)[0].shape == (SIZE, 1, 16, 16)


@pytest.mark.parametrize(
    ("augmentation", "words"),
    [
        ({"auto_augument": "rand-m9"}, "augmentation.auto_augument is unknown"),
        ({"auto_augment": "rand-m9-x7"}, "timm does not take augmentation"),
        ({"auto_augment": 3}, "timm does not take augmentation"),
        ({"scale": "large"}, "augmentation.scale = 'large' is no range"),
        ({"scale": [2.0, 3.0]}, "no shares of an image"),
        ({"re_prob": 7}, "augmentation.re_prob = 7 is no probability"),
        ({"auto_augment": "rand-m9-inc"}, "a part 'inc' that says no number"),
        ({"re_prob": "often"}, "timm does not take augmentation"),
        ({"repeats": 0}, "augmentation.repeats = 0"),
        ({"mean": [0, 0, 0]}, "augmentation.mean is unknown"),
    ],
)
def test_what_timm_does_not_take_is_one_sentence(
    tree: Path, augmentation: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        datasets.build("image_folder", root=str(tree), augmentation=augmentation)
    assert words in caught.value.message
    assert "\n" not in caught.value.message
