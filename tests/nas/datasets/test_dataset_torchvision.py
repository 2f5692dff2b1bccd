"""Data sets of torchvision by the name of their class, from files that are there."""

import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.datasets as offered
from idx_files import make_idx
from image_trees import make_tree
from torchvision.transforms.v2 import functional as transforms

from nas import datasets
from nas.datasets import torchvision
from search_spaces.errors import NotHereError, UsageError

SMALL: dict[str, Any] = {"image_size": 28, "in_chans": 1, "mean": (0, 0, 0), "std": (1, 1, 1)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_idx(tmp_path / "FashionMNIST" / "raw", packed=False, train=200, test=60)
    return tmp_path


def built(root: Path, **options: Any) -> Any:
    return datasets.build(
        "torchvision", **({"class_name": "FashionMNIST", "root": str(root)} | SMALL | options)
    )


def as_input(image: Any) -> bytes:
    pixels = transforms.to_dtype(transforms.pil_to_tensor(image), torch.float32, scale=True)
    return bytes(pixels.numpy().tobytes())


def test_its_test_images_are_held_out(root: Path) -> None:
    data = built(root, search=0.1, report=0.2, augmentation="none")
    assert data.sizes == {"train": 200, "search": 20, "report": 40}
    assert data.classes[0] == "T-shirt/top"
    theirs = offered.FashionMNIST(root=str(root), train=False)
    expected = {as_input(image): label for image, label in theirs}
    for split in ("search", "report"):
        for images, labels in data.batches(split, 7):
            assert [expected[image.numpy().tobytes()] for image in images] == labels.tolist()


def test_one_that_has_no_splits_is_divided(tmp_path: Path) -> None:
    make_tree(tmp_path / "images")
    data = built(tmp_path / "images", class_name="ImageFolder", in_chans=3)
    assert data.sizes == {"train": 24, "search": 3, "report": 3}
    assert data.classes == ("ant", "bee", "cat")


class Split(offered.VisionDataset):
    """As many of torchvision's: a split by name, labels that nobody can see without decoding."""

    def __init__(self, root: str, split: str = "trainval") -> None:
        super().__init__(root)
        if split not in ("trainval", "test"):
            raise ValueError(f"Unknown value '{split}' for argument split. Valid values are trainval, test.")
        self._images = offered.FashionMNIST(root=root, train=split == "trainval")

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Any:
        return self._images[index]


class NoLabels(Split):
    def __getitem__(self, index: int) -> Any:
        return self._images[index][0], "a caption"


class Untold(Split):
    def __init__(self, root: str, split: str = "a") -> None:
        raise ValueError(f"Unknown value '{split}' for argument split. Valid values are a, b.")


@pytest.fixture
def more(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Split, NoLabels, Untold):
        monkeypatch.setattr(offered, kind.__name__, kind, raising=False)
    names = [kind.__name__ for kind in (Split, NoLabels, Untold)]
    monkeypatch.setattr(offered, "__all__", (*offered.__all__, *names))


@pytest.mark.usefixtures("more")
def test_splits_by_other_names_are_tried(root: Path) -> None:
    one, other = built(root, class_name="Split"), built(root)
    assert one.sizes == other.sizes
    assert torch.equal(one.labels("report"), other.labels("report"))
    assert torch.equal(one.clean_batch(0, 0, 8), other.clean_batch(0, 0, 8))


@pytest.mark.usefixtures("more")
def test_what_has_no_labels_or_splits_is_one_sentence(root: Path) -> None:
    with pytest.raises(UsageError, match=r"NoLabels in .* cannot be read: ValueError"):
        built(root, class_name="NoLabels")
    with pytest.raises(UsageError, match="Untold has no split called 'train'"):
        built(root, class_name="Untold")


def test_a_copy_in_another_process_reads_the_same(root: Path) -> None:
    data = built(root)
    packed = pickle.dumps(data)
    assert torch.equal(pickle.loads(packed).train_batch(1, 2, 6)[0], data.train_batch(1, 2, 6)[0])
    assert len(packed) < 100_000


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"class_name": "CIFAR1O"}, "class_name = 'CIFAR1O' is no data set", "Did you mean 'CIFAR10'?"),
        ({"class_name": "LSUN"}, "class_name = 'LSUN' is no data set", ""),
        ({"class_name": 3}, "class_name = 3 is no data set", ""),
        ({"download": "yes"}, "download = 'yes'", ""),
        ({"options": [1]}, "options = [1]", ""),
        ({"options": {"speed": 3}}, "cannot be read with {'speed': 3}: TypeError", ""),
        ({"options": {"root": "/etc"}}, "options.root is no option", ""),
        ({"in_chans": 2}, "in_chans = 2", ""),
    ],
)
def test_a_wrong_option_is_one_sentence(root: Path, options: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        built(root, **options)
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


def test_data_that_are_not_there_are_not_fetched_unasked(tmp_path: Path) -> None:
    with pytest.raises(NotHereError, match="FashionMNIST is not in") as caught:
        built(tmp_path)
    assert "data.download: true" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_download_is_asked_of_torchvision(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def fetched(self: Any) -> None:
        asked.append(True)
        raise OSError("the network is off")

    monkeypatch.setattr(offered.FashionMNIST, "download", fetched)
    with pytest.raises(UsageError, match=r"cannot be downloaded to .*: the network is off"):
        built(tmp_path / "other", download=True)
    assert asked == [True]
    built(root, download=True)
    assert asked == [True]  # it is there


def test_its_classes_are_not_imported_for_a_list_of_names() -> None:
    assert "torchvision" in datasets.names()
    assert sys.modules[torchvision.__name__].__name__ == "nas.datasets.torchvision"
