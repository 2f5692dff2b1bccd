"""Every image is looked at once before anything else: bad ones are named at once, good ones remembered."""

import os
from pathlib import Path

import pytest
from image_trees import make_tree, save
from PIL import Image

from nas import datasets
from nas.datasets import image_folder
from nas.images import checked
from nas.progress import Silent
from search_spaces.errors import UsageError

SETTLED = 0.2  # seconds after which a file's times are believed


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "images")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read, of a process that remembers nothing but what is in the file."""
    names: list[str] = []
    original = checked._read

    def noted(path: Path) -> checked.Checked:
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(checked, "_read", noted)
    monkeypatch.setattr(checked, "_has_settled", lambda stamp: True)
    checked._book.cache_clear()
    return names


def forget_process() -> None:
    checked._book.cache_clear()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def replace_by_text(path: Path) -> None:
    path.write_text("no image")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def break_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def flatten_bomb(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        Image.new("1", (20_000, 20_000)).save(path)


@pytest.mark.parametrize("damage", [truncate, replace_by_text, empty, break_link, flatten_bomb])
def test_an_unreadable_image_is_named_with_its_reason(tree, damage) -> None:
    damage(tree / "bee" / "4.png")
    with pytest.raises(UsageError, match=r"The image '.*bee/4\.png' cannot be read: .+\.") as caught:
        image_folder.build(root=str(tree))
    assert "on_bad_image: skip" in caught.value.hint
    assert "--accept-data" in caught.value.hint
    assert "0x" not in caught.value.message


def test_all_bad_images_are_named_at_once(tree) -> None:
    for i in range(10):
        empty(tree / "ant" / f"{i}.png")
    truncate(tree / "cat" / "2.png")
    with pytest.raises(UsageError) as caught:
        image_folder.build(root=str(tree))
    assert caught.value.message.startswith(f"11 of 30 images in '{tree}' cannot be read: 'ant/0.png'")
    assert caught.value.message.endswith("and 1 more.")


def test_bad_images_are_skipped_and_no_other_image_changes_sides(tree) -> None:
    whole = image_folder.build(root=str(tree))
    bad = [whole._splits[split][0].relative for split in ("train", "report")]
    for name in bad:
        truncate(tree / name)
    rest = image_folder.build(root=str(tree), on_bad_image="skip")
    for split, files in whole._splits.items():
        expected = [file.relative for file in files if file.relative not in bad]
        assert [file.relative for file in rest._splits[split]] == expected
    assert rest.facts["left_out"] == {"unreadable": 2}
    assert all(name in rest.facts["notes"][0] for name in bad)


@pytest.mark.parametrize("gone", [False, True])
def test_skipped_images_may_change_or_go(tree, gone: bool) -> None:
    truncate(tree / "bee" / "4.png")
    digest = image_folder.build(root=str(tree), on_bad_image="skip").digest
    if gone:
        (tree / "bee" / "4.png").unlink()
    else:
        save(tree / "bee" / "4.png", seed=99)
    assert image_folder.build(root=str(tree), skipped=["bee/4.png"]).digest == digest


def test_images_that_were_added_are_left_out_on_request(tree) -> None:
    digest = image_folder.build(root=str(tree)).digest
    save(tree / "bee" / "new.png", seed=99)
    assert image_folder.build(root=str(tree)).digest != digest
    assert image_folder.build(root=str(tree), added=["bee/new.png"]).digest == digest


def test_the_digest_is_over_contents(tree) -> None:
    def digest() -> str:
        return image_folder.build(root=str(tree)).digest

    before, path = digest(), tree / "ant" / "3.png"
    content = path.read_bytes()
    Image.new("RGB", (20, 24)).save(path)
    os.truncate(path, len(content))  # zeros after the end of an image are no part of it
    assert path.stat().st_size == len(content)
    assert digest() != before
    path.write_bytes(content)
    assert digest() == before


def test_what_was_seen_is_not_read_again(tree, read) -> None:
    first = image_folder.build(root=str(tree))
    assert len(read) == 30
    forget_process()
    read.clear()
    save(tree / "ant" / "3.png", seed=99)
    again = image_folder.build(root=str(tree))
    assert read == ["3.png"]
    assert again.digest != first.digest


@pytest.mark.parametrize("damage", [truncate, replace_by_text, empty])
def test_a_damaged_memory_is_harmless(tree, read, damage) -> None:
    digest = image_folder.build(root=str(tree)).digest
    (memory,) = (checked._place(checked.Files(tree)).parent).iterdir()
    damage(memory)
    forget_process()
    read.clear()
    assert image_folder.build(root=str(tree)).digest == digest
    assert len(read) == 30


def test_a_memory_that_cannot_be_written_is_harmless(tree, tmp_path, monkeypatch, read) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert sum(image_folder.build(root=str(tree)).sizes.values()) == 30


def test_bad_images_are_never_remembered(tree, read) -> None:
    truncate(tree / "bee" / "4.png")
    for _ in range(2):
        read.clear()
        image_folder.build(root=str(tree), on_bad_image="skip")
    assert read == ["4.png"]


def test_looking_at_many_images_shows_how_far_it_is(tmp_path) -> None:
    class Told(Silent):
        def __init__(self) -> None:
            self.updates: list[tuple[int, int]] = []

        def update(self, done: int, total: int, **info: object) -> None:
            self.updates.append((done, total))

    progress = Told()
    root = make_tree(tmp_path, per_class=30)
    datasets.prepared("image_folder", {"root": str(root)}, progress)
    assert progress.updates == [(0, 90), (32, 90), (64, 90)]


def test_the_digest_of_older_jobs_is_known_and_what_they_saw_otherwise(tree) -> None:
    dataset = image_folder.build(root=str(tree))
    assert dataset.former_digest != dataset.digest
    assert dataset.otherwise == ""
    image = Image.open(tree / "ant" / "3.png")
    image.load()
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tree / "ant" / "3.png", exif=exif)
    assert (
        image_folder.build(root=str(tree)).otherwise == "1 images are oriented, scaled or blended otherwise"
    )
