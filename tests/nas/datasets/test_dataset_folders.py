"""Image folders of awkward shape: what is an image, of which class and split, what is said of the rest."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from image_trees import CLASSES, make_tree, save

from nas import datasets
from nas.datasets import image_folder
from search_spaces.errors import UsageError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "images")


def left_out(root: Path) -> dict[str, int]:
    left_out: dict[str, int] = image_folder.build(root=str(root)).facts["left_out"]
    return left_out


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("Training", "Testing"),
        ("Train", "Val"),
        ("train", "validation"),
        ("TRAIN", "valid"),
        ("train", "dev"),
        ("training", "test"),
        ("train_images", "val_images"),
        ("train2017", "val2017"),
        ("Train Set", "Test-Set"),
        ("trainset", "testset"),
        ("train ", "val "),
    ],
)
def test_the_usual_names_in_any_case_are_splits(tmp_path, train: str, held_out: str) -> None:
    make_tree(tmp_path / train, per_class=4)
    make_tree(tmp_path / held_out, per_class=4, seed=1)
    dataset = image_folder.build(root=str(tmp_path))
    assert dataset.classes == CLASSES
    assert dataset.sizes == {"train": 12, "search": 6, "report": 6}


def test_parts_of_unknown_names_are_told(tmp_path) -> None:
    for seed, name in enumerate(("morning", "evening")):
        make_tree(tmp_path / name, per_class=4, seed=seed)
    dataset = image_folder.build(root=str(tmp_path))
    assert dataset.classes == ("evening", "morning")
    assert "all hold the same folders ('ant', 'bee', 'cat')" in dataset.facts["notes"][0]


def test_a_layout_one_folder_deeper_is_pointed_at(tmp_path) -> None:
    for seed, name in enumerate(("train", "val")):
        make_tree(tmp_path / "images" / name, per_class=4, seed=seed)
    with pytest.raises(UsageError) as caught:
        image_folder.build(root=str(tmp_path))
    assert f"Is '{tmp_path / 'images'}' meant?" in caught.value.hint


def test_splits_with_the_same_images_say_so(tmp_path) -> None:
    make_tree(tmp_path / "train", per_class=4)
    (tmp_path / "val").symlink_to(tmp_path / "train")
    with pytest.raises(UsageError, match=r"split 'train'.*'train/ant/0.png' is 'val/ant/0.png'"):
        image_folder.build(root=str(tmp_path))


def test_of_three_splits_the_validation_images_are_divided(tmp_path) -> None:
    for seed, name in enumerate(("Train", "Test", "Valid")):
        make_tree(tmp_path / name, per_class=4, seed=seed)
    dataset = image_folder.build(root=str(tmp_path))
    assert all(file.relative.startswith("Valid/") for file in dataset._splits["report"])
    assert dataset.facts["left_out"] == {"folders beside the splits": 1}


@pytest.mark.parametrize(
    ("names", "message"), [(("train", "Train", "val"), "both"), (("Val", "Test"), "no 'train'")]
)
def test_splits_that_are_unclear_are_one_sentence(tmp_path, names: tuple[str, ...], message: str) -> None:
    for seed, name in enumerate(names):
        make_tree(tmp_path / name, per_class=4, seed=seed)
    with pytest.raises(UsageError, match=message):
        image_folder.build(root=str(tmp_path))


def test_a_class_may_be_called_as_a_split_is(tmp_path) -> None:
    make_tree(tmp_path, classes=("bus", "train"))
    assert image_folder.build(root=str(tmp_path)).classes == ("bus", "train")


@pytest.mark.parametrize(
    "clutter",
    [
        *(".ipynb_checkpoints", "@eaDir", "__MACOSX", "lost+found", "System Volume Information"),
        *("@__thumb", "#recycle"),
    ],
)
def test_folders_of_systems_hold_no_images(tree, clutter: str) -> None:
    before = image_folder.build(root=str(tree)).digest
    for place in (tree, tree / "ant"):
        (place / clutter).mkdir()
        shutil.copy(tree / "ant" / "0.png", place / clutter / "0-copy.png")
    assert image_folder.build(root=str(tree)).digest == before
    assert left_out(tree) == {"hidden or system folders": 2}


@pytest.mark.parametrize("target", ["ant", ".", ".."])
def test_links_that_lead_back_are_not_followed(tree, target: str) -> None:
    (tree / "ant" / "again").symlink_to(tree.resolve() / target)
    dataset = image_folder.build(root=str(tree))
    assert sum(dataset.sizes.values()) == 30
    assert dataset.facts["left_out"] == {"links that lead back": 1}


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_counts_once(tree, link: Callable[[Path, Path], None]) -> None:
    link(tree / "ant" / "3.png", tree / "ant" / "x.png")
    assert sum(image_folder.build(root=str(tree)).sizes.values()) == 30
    assert left_out(tree) == {"links to the same file": 1}


def test_classes_that_are_links_are_followed(tree, tmp_path) -> None:
    before = image_folder.build(root=str(tree)).digest
    shutil.move(tree / "bee", tmp_path / "bees")
    (tree / "bee").symlink_to(tmp_path / "bees")
    assert image_folder.build(root=str(tree)).digest == before


def test_other_endings_are_counted(tree) -> None:
    for i in range(4):
        (tree / "ant" / f"{i}.HEIC").write_bytes(b"x")
    (tree / "bee" / "Thumbs.db").write_bytes(b"x")
    (tree / "bee" / "notes").write_bytes(b"x")
    assert left_out(tree) == {".heic": 4, "hidden or system files": 1, "files without an ending": 1}


def test_a_pipe_is_not_waited_for(tree) -> None:
    os.mkfifo(tree / "ant" / "pipe.png")
    assert sum(image_folder.build(root=str(tree)).sizes.values()) == 30
    assert left_out(tree) == {"no regular files": 1}


def test_equal_images_of_two_classes_are_refused_and_named(tree) -> None:
    shutil.copy(tree / "ant" / "3.png", tree / "bee" / "copy.png")
    with pytest.raises(UsageError, match=r"two classes.*'ant/3\.png' and 'bee/copy\.png'") as caught:
        image_folder.build(root=str(tree))
    assert "on_equal_images: keep" in caught.value.hint
    assert sum(image_folder.build(root=str(tree), on_equal_images="keep").sizes.values()) >= 30


def test_what_is_held_out_is_not_trained_on(tmp_path) -> None:
    make_tree(tmp_path / "train", per_class=4)
    make_tree(tmp_path / "val", per_class=4, seed=1)
    shutil.copy(tmp_path / "val" / "ant" / "1.png", tmp_path / "train" / "ant" / "leak.png")
    dataset = image_folder.build(root=str(tmp_path))
    assert dataset.sizes["train"] == 12
    assert dataset.facts["left_out"] == {"equal to a held-out one": 1}
    assert "'train/ant/leak.png' is 'val/ant/1.png'" in dataset.facts["notes"][0]


def test_one_line_tells_what_the_data_are(tree) -> None:
    (tree / "ant" / "a.heic").write_bytes(b"x")
    save(tree / "cat" / "x.png", seed=77)
    line = datasets.sentence(datasets.described(image_folder.build(root=str(tree))))
    assert line == (
        "Data image_folder: 3 classes; images: 25 train, 3 search, 3 report; "
        "from 10 (ant) to 11 (cat) a class; left out: 1 .heic."
    )


def test_the_line_tells_equal_classes_once(tree) -> None:
    line = datasets.sentence(datasets.described(image_folder.build(root=str(tree))))
    assert line.endswith("; 10 a class.")


def test_names_that_are_no_text_are_read_and_shown(tree) -> None:
    odd = os.fsdecode(b"caf\xe9.png")
    shutil.move(tree / "ant" / "3.png", tree / "ant" / odd)
    dataset = image_folder.build(root=str(tree))
    assert sum(dataset.sizes.values()) == 30
    (tree / "ant" / odd).write_bytes(b"")
    with pytest.raises(UsageError) as caught:
        image_folder.build(root=str(tree))
    caught.value.message.encode()
    assert "caf\\xe9.png" in caught.value.message


def test_a_relative_root_says_where_it_looked(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        image_folder.build(root="images")
    assert str(tmp_path / "images") in caught.value.message
    assert "--data-root" in caught.value.hint


@pytest.mark.parametrize("copies", ["checkpoints", "Checkpoint", "Thumbnails", "@other", "#old"])
def test_folders_of_copies_in_a_class_hold_no_images(tree, copies: str) -> None:
    shutil.copytree(tree / "ant", tree / "ant" / copies)
    assert left_out(tree) == {"hidden or system folders": 1}


def test_a_class_may_be_called_as_copies_are(tmp_path) -> None:
    make_tree(tmp_path, classes=("checkpoint", "street"))
    assert image_folder.build(root=str(tmp_path)).classes == ("checkpoint", "street")


def test_images_outside_the_classes_and_links_that_lead_nowhere_are_counted(tree) -> None:
    save(tree / "stray.png", seed=88)
    (tree / "dog").symlink_to(tree / "gone")
    assert left_out(tree) == {"images outside the class folders": 1, "links that lead nowhere": 1}


def test_a_link_to_itself_is_one_bad_image(tree) -> None:
    (tree / "loop").symlink_to("loop")
    (tree / "ant" / "self.png").symlink_to("self.png")
    with pytest.raises(UsageError, match=r"self\.png' cannot be read"):
        image_folder.build(root=str(tree))
    skipped = image_folder.build(root=str(tree), on_bad_image="skip")
    assert skipped.facts["left_out"] == {"links that lead nowhere": 1, "unreadable": 1}


@pytest.mark.parametrize("twins", [("Ant", "ant"), ("ant", "ant "), ("\u00e9", "e\u0301")])
def test_classes_that_look_the_same_are_told(tmp_path, twins: tuple[str, str]) -> None:
    make_tree(tmp_path, classes=(*twins, "bee"))
    dataset = image_folder.build(root=str(tmp_path))
    assert dataset.num_classes == 3
    assert all(ascii(name) in dataset.facts["notes"][0] for name in twins)


def test_classes_whose_names_are_no_text_can_be_stored_and_shown(tmp_path) -> None:
    odd = os.fsdecode(b"caf\xe9"), "\x1b[31mred"
    make_tree(tmp_path, classes=(*odd, "bee"))
    dataset = image_folder.build(root=str(tmp_path))
    assert sorted(dataset.classes) == ["\\x1b[31mred", "bee", "caf\\xe9"]
    assert datasets.sentence(datasets.described(dataset)).encode().isascii()


def test_an_image_of_an_odd_name_keeps_its_place_when_it_is_gone(tmp_path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    make_tree(tmp_path, classes=("ant", odd))
    before = image_folder.build(root=str(tmp_path))
    (tmp_path / odd / "3.png").unlink()
    after = image_folder.build(root=str(tmp_path), skipped=["caf\\xe9/3.png"])
    for name, files in before._splits.items():
        kept = [file.relative for file in files if file.relative != f"{odd}/3.png"]
        assert [file.relative for file in after._splits[name]] == kept
