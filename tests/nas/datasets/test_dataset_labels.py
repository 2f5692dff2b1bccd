"""Labels out of a CSV file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from image_trees import CLASSES, make_tree, save

from nas import datasets
from nas.config import checked_config
from nas.config.paths import with_absolute_paths
from nas.datasets import image_folder
from search_spaces.errors import UsageError

SMALL: dict[str, Any] = {"image_size": 16, "search": 0.3, "report": 0.3}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Thirty images in one folder, and one that has no label."""
    for number in range(31):
        save(tmp_path / "images" / "all" / f"{number:02d}.png", seed=number)
    return tmp_path / "images"


def write(root: Path, lines: list[str], head: str = "file,label") -> str:
    path = root / "labels.csv"
    path.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    return str(path)


def listed(count: int = 30) -> list[str]:
    return [f"all/{number:02d}.png,{CLASSES[number % 3]}" for number in range(count)]


def test_a_table_says_the_classes(root: Path) -> None:
    data = image_folder.build(root=str(root), labels=write(root, listed()), **SMALL)
    assert data.classes == CLASSES
    assert data.sizes == {"train": 12, "search": 9, "report": 9}
    assert datasets.described(data)["left_out"] == {"images without a label": 1}
    for split, files in data._splits.items():
        assert [file.label for file in files] == [int(file.path.stem) % 3 for file in files], split


def test_it_sees_what_folders_see(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "images")
    lines = [f"{name}/{i}.png,{name}" for name in CLASSES for i in range(10)]
    one = image_folder.build(root=str(tree), labels=write(tree, lines), **SMALL)
    other = image_folder.build(root=str(tree), **SMALL)
    assert one.digest == other.digest
    assert torch.equal(one.train_batch(0, 3, 5)[0], other.train_batch(0, 3, 5)[0])


def test_other_labels_are_other_data(root: Path) -> None:
    before = image_folder.build(root=str(root), labels=write(root, listed()), **SMALL).digest
    changed = [line.replace("00.png,ant", "00.png,bee") for line in listed()]
    assert image_folder.build(root=str(root), labels=write(root, changed), **SMALL).digest != before


def test_a_column_may_say_the_split(root: Path) -> None:
    lines = [f"{line},{'train' if number < 18 else 'val'}" for number, line in enumerate(listed())]
    lines[3] = lines[3].replace("train", "test")
    data = image_folder.build(root=str(root), labels=write(root, lines, "file,label,split"), **SMALL)
    assert data.sizes == {"train": 17, "search": 6, "report": 6}
    assert all(int(file.path.stem) < 18 for file in data._splits["train"])
    assert datasets.described(data)["left_out"]["images of a split that is not used"] == 1


@pytest.mark.parametrize(
    ("lines", "head", "message"),
    [
        (listed(), "file,lable", "have no column 'label': the first line is 'file,lable'"),
        (listed(), "name,label", "no column 'file'"),
        ([], "file,label", "are of no image"),
        (
            [line.replace("bee", "ant").replace("cat", "ant") for line in listed()],
            "file,label",
            "are all 'ant'",
        ),
        (
            [*listed(), "all/00.png,ant"],
            "file,label",
            "Line 32 of '{path}' names 'all/00.png' again, as line 2",
        ),
        ([*listed(), "all/30.png,"], "file,label", "Line 32 of '{path}' has no label"),
        ([*listed(), ",ant"], "file,label", "Line 32 of '{path}' has no file"),
        ([*listed(), "all/30.png,ant,3,4"], "file,label", "Line 32 of '{path}' has more columns"),
        ([*listed(), "../secret.png,ant"], "file,label", "'../secret.png', which is not below data.root"),
        ([*listed(), "/etc/secret.png,ant"], "file,label", "'/etc/secret.png', which is not below data.root"),
        ([*listed(), "all/gone.png,ant"], "file,label", "gone.png' cannot be read: it is not there"),
        ([*listed(), 'all/30.png,"ant'], "file,label", "is no CSV file"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_sentence(
    root: Path, lines: list[str], head: str, message: str
) -> None:
    path = write(root, lines, head)
    with pytest.raises(UsageError) as caught:
        datasets.build("image_folder", root=str(root), labels=path, **SMALL)
    assert message.format(path=path) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_table_that_is_no_text_is_one_sentence(root: Path) -> None:
    (root / "labels.csv").write_bytes(b"file,label\n\xff\xfe,ant\n")
    with pytest.raises(UsageError, match="are not UTF-8"):
        image_folder.build(root=str(root), labels=str(root / "labels.csv"))
    with pytest.raises(UsageError, match="cannot be read"):
        image_folder.build(root=str(root), labels=str(root / "nowhere.csv"))
    with pytest.raises(UsageError, match="labels = 3"):
        image_folder.build(root=str(root), labels=3)


def test_an_image_of_the_table_that_is_gone_may_be_left_out(root: Path) -> None:
    table = write(root, [*listed(), "all/gone.png,ant"])
    data = image_folder.build(root=str(root), labels=table, on_bad_image="skip", **SMALL)
    assert sum(data.sizes.values()) == 30


def test_the_table_is_a_path_of_the_job_file(tmp_path: Path) -> None:
    section = {"name": "image_folder", "root": "images", "labels": "images/labels.csv"}
    moved = with_absolute_paths({"data": section}, tmp_path)["data"]
    assert moved["labels"] == str(tmp_path / "images" / "labels.csv")
    config = checked_config({"data": moved}, where="The test")
    elsewhere = datasets.moved("image_folder", config.data.options, Path("/other"))
    assert elsewhere is not None
    assert (elsewhere["root"], elsewhere["labels"]) == ("/other", "/other/labels.csv")
