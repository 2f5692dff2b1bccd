"""What can be wrong with a user's own folder of images: one sentence each."""

import os
import shutil
from pathlib import Path

import pytest
from image_trees import CLASSES, make_tree

from nas import datasets
from nas.datasets import image_folder
from nas.errors import JobFailedError
from search_spaces.errors import UsageError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "images")


def remove_image_folder(root: Path) -> None:
    shutil.rmtree(root)


def make_empty(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def one_class(root: Path) -> None:
    shutil.rmtree(root / "bee")
    shutil.rmtree(root / "cat")


def empty_class(root: Path) -> None:
    (root / "dog").mkdir()
    (root / "dog" / "notes.txt").write_text("no image")


def two_images(root: Path) -> None:
    for i in range(2, 10):
        (root / "bee" / f"{i}.png").unlink()


def only_train(root: Path) -> None:
    for name in CLASSES:
        shutil.move(root / name, root / "train" / name)


def other_classes_in_val(root: Path) -> None:
    only_train(root)
    make_tree(root / "val", classes=("ant", "bee"), seed=1)


def broken_link(root: Path) -> None:
    (root / "ant" / "gone.png").symlink_to(root / "nowhere.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_image_folder, "There is no image folder '{root}'"),
        (make_empty, "'{root}' has no class folders"),
        (one_class, "'{root}' has only one class folder ('ant')"),
        (empty_class, "The class folder '{root}/dog' has no images"),
        (two_images, "The 2 images of class 'bee' of '{root}' are too few"),
        (only_train, "'{root}' has a 'train' folder of classes but no 'val' folder"),
        (other_classes_in_val, "Class 'cat' of the image folder '{root}' has no folder in 'val'"),
        (broken_link, "gone.png"),
    ],
)
def test_a_tree_that_cannot_be_used_is_one_sentence(tree, damage, message: str) -> None:
    damage(tree)
    with pytest.raises(UsageError) as caught:
        datasets.build("image_folder", root=str(tree))
    assert message.format(root=tree) in caught.value.message
    assert caught.value.message.endswith(".")
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_image_that_breaks_later_is_named(tree, content: bytes | None) -> None:
    dataset = image_folder.build(root=str(tree))
    for path in tree.rglob("*.png"):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    for read in (lambda: dataset.train_batch(0, 0, 2), lambda: next(dataset.batches("search", 2))):
        with pytest.raises(JobFailedError, match=r"The image '.*\d\.png' cannot be read") as caught:
            read()
        assert "remove it" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_one_sentence(tree) -> None:
    tree.chmod(0)
    try:
        with pytest.raises(UsageError, match="cannot be read"):
            image_folder.build(root=str(tree))
    finally:
        tree.chmod(0o755)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size = 0"),
        ({"image_size": "64"}, "image_size = '64'"),
        ({"image_size": True}, "image_size = True"),
        ({"workers": 0}, "workers = 0"),
        ({"split_seed": 0.5}, "split_seed = 0.5"),
        ({"search": 0}, "search = 0"),
        ({"search": "a"}, "search = 'a'"),
        ({"search": 0.5, "report": 0.5}, "report = 0.5"),
        ({"augmentation": "flip"}, "augmentation = 'flip'"),
        ({"mean": (0.5,)}, "mean = (0.5,)"),
        ({"mean": 0.5}, "mean = 0.5"),
        ({"std": (1, 0, 1)}, "std = [1.0, 0.0, 1.0]"),
        ({"root": 3}, "root = 3"),
        ({"size": 64}, "no option 'size'"),
    ],
)
def test_a_wrong_option_is_one_sentence(tree, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        datasets.build("image_folder", **({"root": str(tree)} | options))
    assert message in caught.value.message


def test_the_root_is_needed() -> None:
    with pytest.raises(UsageError, match="needs the option 'root'"):
        datasets.build("image_folder")
