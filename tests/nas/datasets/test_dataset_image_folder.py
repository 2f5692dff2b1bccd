"""A user's own folder of images: which image is in which split, and what a file becomes."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from image_trees import CLASSES, make_tree, save
from PIL import Image

from nas.datasets import image_folder
from nas.images import checked
from nas.images.sets.image_set import crop_box

EXACT = {"mean": (0, 0, 0), "std": (1, 1, 1), "augmentation": "none"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "images")


def files(dataset: image_folder.ImageFolder) -> dict[str, set[str]]:
    return {split: {file.relative for file in part} for split, part in dataset._splits.items()}


def pixels(dataset: image_folder.ImageFolder, split: str) -> torch.Tensor:
    return torch.cat([inputs for inputs, _ in dataset.batches(split, 7)])


def save_all(root: Path, make: Callable[[int], Image.Image]) -> None:
    """Three images each of classes a and b; `make` gets 0 to 5, so that no two need to be equal."""
    for i in range(6):
        (root / "ab"[i % 2]).mkdir(exist_ok=True)
        make(i).save(root / "ab"[i % 2] / f"{i}.png")


def test_the_split_is_by_file_and_the_same_in_every_class(tree) -> None:
    dataset = image_folder.build(root=str(tree), search=0.2, report=0.3)
    by_split = files(dataset)
    assert dataset.sizes == {"train": 15, "search": 6, "report": 9}
    assert set.union(*by_split.values()) == {f"{name}/{i}.png" for name in CLASSES for i in range(10)}
    assert sum(map(len, by_split.values())) == 30
    for split, count in {"train": 5, "search": 2, "report": 3}.items():
        for name in CLASSES:
            assert len([path for path in by_split[split] if path.startswith(f"{name}/")]) == count
    assert dataset.classes == CLASSES


def test_labels_are_the_classes_of_the_files(tree) -> None:
    dataset = image_folder.build(root=str(tree))
    labels = torch.cat([labels for _, labels in dataset.batches("report", 2)])
    assert [CLASSES[i] for i in labels] == [path.split("/")[0] for path in sorted(files(dataset)["report"])]
    assert dataset.labels("report").tolist() == labels.tolist()
    search = torch.cat([labels for _, labels in dataset.batches("search", 2)])
    assert dataset.labels("search").tolist() == search.tolist()


def test_the_split_does_not_depend_on_the_file_system(tree, tmp_path) -> None:
    other = tmp_path / "other"
    for path in sorted(tree.rglob("*.png"), reverse=True):
        (other / path.relative_to(tree).parent).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, other / path.relative_to(tree))
    first, second = (image_folder.build(root=str(root)) for root in (tree, other))
    assert files(first) == files(second)
    assert first.digest == second.digest
    assert files(image_folder.build(root=str(tree), split_seed=1)) != files(first)


def test_the_digest_notices_a_changed_file_and_a_changed_option(tree) -> None:
    def digest(**options: object) -> str:
        return image_folder.build(root=str(tree), **options).digest

    before = digest()
    assert len({before, digest(image_size=32), digest(mean=(0, 0, 0)), digest(search=0.3)}) == 4
    assert digest(workers=1) == digest(augmentation="none") == before
    save(tree / "ant" / "3.png", seed=0, size=(30, 30))
    assert digest() != before


def test_train_and_val_folders_are_kept_apart(tmp_path) -> None:
    make_tree(tmp_path / "train", per_class=4)
    make_tree(tmp_path / "val", per_class=6, seed=1)
    dataset = image_folder.build(root=str(tmp_path))
    by_split = files(dataset)
    assert dataset.sizes == {"train": 12, "search": 9, "report": 9}
    assert {path.split("/")[0] for path in by_split["train"]} == {"train"}
    assert {path.split("/")[0] for path in by_split["search"] | by_split["report"]} == {"val"}
    assert not by_split["search"] & by_split["report"]
    assert image_folder.build(root=str(tmp_path), search=0.2, report=0.1).sizes["search"] == 12


def test_an_epoch_shows_every_image_once_in_a_new_order(tree) -> None:
    dataset = image_folder.build(root=str(tree), image_size=8, augmentation="none")
    count = dataset.sizes["train"]
    once = {tuple(x.flatten().tolist()) for x in dataset.train_batch(0, 0, count)[0]}
    assert len(once) == count
    by_steps = torch.cat([dataset.train_batch(0, step, 7)[0] for step in range(2 * count // 7 + 1)])
    first, second = by_steps[:count], by_steps[count : 2 * count]
    assert {tuple(x.flatten().tolist()) for x in first} == once
    assert {tuple(x.flatten().tolist()) for x in second} == once
    assert not torch.equal(first, second)


def test_crops_are_flipped_about_half_of_the_time_and_differ(tmp_path) -> None:
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 3, 64, axis=0).repeat(3, axis=2)
    save_all(tmp_path, lambda i: Image.fromarray(ramp + i))
    dataset = image_folder.build(root=str(tmp_path), image_size=8, **EXACT | {"augmentation": "crop"})
    inputs, _ = dataset.train_batch(0, 0, 100)
    rises = (inputs[:, 0, 0, -1] > inputs[:, 0, 0, 0]).float().mean()
    assert 0.3 < rises < 0.7
    assert len({tuple(x.flatten().tolist()) for x in inputs}) > 95


def test_a_clean_batch_is_centre_crops_of_the_training_images(tree) -> None:
    cropped, plain = (
        image_folder.build(root=str(tree), image_size=8, **EXACT | {"augmentation": kind})
        for kind in ("crop", "none")
    )
    clean = cropped.clean_batch(2, 1, 9)
    assert torch.equal(clean, plain.train_batch(2, 1, 9)[0])
    assert not torch.equal(clean, cropped.train_batch(2, 1, 9)[0])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 400), (400, 5), (64, 48)])
def test_crop_boxes_stay_inside(height: int, width: int) -> None:
    draws = torch.rand(200, 10, 4, generator=torch.Generator().manual_seed(0)).tolist()
    for draw in [*draws, [[0.0] * 4], [[1 - 1e-7] * 4]]:
        top, left, h, w = crop_box(height, width, draw)
        assert 0 <= top <= top + h <= height
        assert 0 <= left <= left + w <= width
        assert min(h, w) > 0


def test_threads_and_the_global_generator_change_nothing(tree) -> None:
    threads = threading.active_count()
    one, four = (image_folder.build(root=str(tree), workers=workers) for workers in (1, 4))
    before = torch.get_rng_state()
    batch = one.train_batch(3, 5, 9)[0]
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(123)
    assert torch.equal(batch, four.train_batch(3, 5, 9)[0])
    assert torch.equal(pixels(one, "search"), pixels(four, "search"))
    assert threading.active_count() == threads


def test_batches_read_no_more_than_they_give(tree, monkeypatch) -> None:
    dataset = image_folder.build(root=str(tree), search=0.4)
    read: list[Path] = []
    decoded = checked.decoded
    monkeypatch.setattr(checked, "decoded", lambda path, scale: read.append(path) or decoded(path, scale))
    batches = dataset.batches("search", 5)
    assert read == []
    next(batches)
    assert len(read) == 5


def test_pixels_are_normalised(tree) -> None:
    raw = pixels(image_folder.build(root=str(tree), **EXACT), "report")
    assert 0 <= raw.min() < raw.max() <= 1
    normal = pixels(image_folder.build(root=str(tree), mean=[0.1, 0.2, 0.3], std=[1, 2, 4]), "report")
    expected = (raw - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([1.0, 2, 4])[:, None, None]
    torch.testing.assert_close(normal, expected)


def test_the_centre_of_an_image_is_kept(tmp_path) -> None:
    image = np.zeros((10, 30, 3), dtype=np.uint8)
    image[:, 10:20] = 255
    save_all(tmp_path, lambda i: Image.fromarray(np.pad(image, ((0, 0), (i, i), (0, 0)))))
    assert pixels(image_folder.build(root=str(tmp_path), image_size=10, **EXACT), "search").min() == 1


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_every_kind_of_image_becomes_rgb(tmp_path, mode: str) -> None:
    for i in range(6):
        save(tmp_path / "ab"[i % 2] / f"{i}.png", seed=i, mode=mode)
    dataset = image_folder.build(root=str(tmp_path), image_size=24, **EXACT)
    grey = pixels(dataset, "search")
    assert grey.shape == (2, 3, 24, 24)
    if mode in ("L", "LA", "1"):
        assert torch.equal(grey[:, 0], grey[:, 1])


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path) -> None:
    def half_red(i: int) -> Image.Image:
        image = Image.new("P", (8 + i, 8), 1)
        image.putpalette([0, 0, 0, 255, 0, 0])
        image.info["transparency"] = bytes([0, 128])
        return image

    save_all(tmp_path, half_red)
    options = {"root": str(tmp_path), "image_size": 8} | EXACT
    on_white = pixels(image_folder.build(**options), "search").mean(dim=(0, 2, 3))
    torch.testing.assert_close(on_white, torch.tensor([1, 127 / 255, 127 / 255]))
    on_black = pixels(image_folder.build(**options, background="black"), "search").mean(dim=(0, 2, 3))
    torch.testing.assert_close(on_black, torch.tensor([128 / 255, 0, 0]))


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path) -> None:
    save_all(tmp_path, lambda i: Image.fromarray(np.full((8, 8 + i), 51 << 8, dtype=np.uint16)))
    grey = pixels(image_folder.build(root=str(tmp_path), image_size=8, **EXACT), "search")
    torch.testing.assert_close(grey, torch.full_like(grey, 0.2))


def test_hidden_and_other_files_are_left_out(tree) -> None:
    before = image_folder.build(root=str(tree)).digest
    (tree / ".cache").mkdir()
    (tree / "ant" / "notes.txt").write_text("no image")
    (tree / "ant" / "._3.png").write_bytes(b"no image")
    (tree / "README.md").write_text("no class")
    assert image_folder.build(root=str(tree)).digest == before


def test_images_may_lie_deeper_and_have_capital_suffixes(tree) -> None:
    save(tree / "ant" / "deep" / "X.PNG", seed=99)
    assert sum(image_folder.build(root=str(tree)).sizes.values()) == 31


def test_the_first_part_of_the_search_split_is_a_sample_of_it(tree) -> None:
    dataset, same = (image_folder.build(root=str(tree), search=0.4) for _ in range(2))
    (_, labels), *_ = dataset.batches("search", 1000)
    assert labels.tolist() != sorted(labels.tolist())
    (_, again), *_ = same.batches("search", 1000)
    assert labels.tolist() == again.tolist()
