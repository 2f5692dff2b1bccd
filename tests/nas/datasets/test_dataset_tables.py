"""Data sets of rows: `hf` and `parquet_images` see what `image_folder` sees; errors are one sentence."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from image_tables import hf_table, png, rows, save_to_disk, write_arrow, write_parquet
from image_trees import CLASSES

from nas import datasets
from nas.datasets import hf, image_folder, parquet_images
from nas.errors import JobFailedError
from nas.images.sets import tables
from nas.images.sets.image_set import ImageSet
from search_spaces.errors import NotHereError, UsageError

SMALL: dict[str, Any] = {"image_size": 16, "search": 0.3, "report": 0.3}


def held_out(data: ImageSet) -> set[bytes]:
    return {
        image.numpy().tobytes()
        for split in datasets.SPLITS
        for images, _ in data.batches(split, 4)
        for image in images
    }


def as_files(root: Path, columns: dict[str, list[Any]], splits: dict[str, range]) -> Path:
    """The same images as folders."""
    for split, numbers in splits.items():
        for number in numbers:
            path = root / split / CLASSES[columns["label"][number]] / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(columns["image"][number])
    return root


def in_two_files(root: Path, columns: dict[str, list[Any]], splits: dict[str, range]) -> Path:
    for split, numbers in splits.items():
        part = {name: [values[number] for number in numbers] for name, values in columns.items()}
        write_parquet(root / "data" / f"{split}-00000-of-00001.parquet", part)
    return root


def in_saved_splits(root: Path, columns: dict[str, list[Any]], splits: dict[str, range]) -> Path:
    for split, numbers in splits.items():
        save_to_disk(root / split, hf_table(columns).slice(numbers[0], len(numbers)))
    (root / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return root


def in_the_cache(root: Path, columns: dict[str, list[Any]], splits: dict[str, range]) -> Path:
    for split, numbers in splits.items():
        part = hf_table(columns).slice(numbers[0], len(numbers))
        write_arrow(root / "default" / "0.0.0" / f"pets-{split}.arrow", part)
    write_arrow(root / "default" / "0.0.0" / "cache-0123.arrow", hf_table(columns))
    return root


def test_rows_become_what_files_become(tmp_path: Path) -> None:
    columns, splits = rows(36), {"train": range(18), "validation": range(18, 36)}
    files = image_folder.build(root=str(as_files(tmp_path / "files", columns, splits)), **SMALL)
    for name, made in (
        ("parquet_images", in_two_files(tmp_path / "a", columns, splits)),
        ("hf", in_two_files(tmp_path / "b", columns, splits)),
        ("hf", in_saved_splits(tmp_path / "c", columns, splits)),
        ("hf", in_the_cache(tmp_path / "d", columns, splits)),
    ):
        data: Any = datasets.build(name, root=str(made), **SMALL)
        assert data.sizes == files.sizes
        assert held_out(data) == held_out(files)
        one, other = (float(made.clean_batch(0, 0, 18).sum()) for made in (data, files))
        assert one == pytest.approx(other, rel=1e-4)
        assert data.preprocessing == files.preprocessing


def test_names_of_classes_are_those_of_the_data_set(tmp_path: Path) -> None:
    assert hf.build(root=str(save_to_disk(tmp_path / "a", hf_table(rows()))), **SMALL).classes == CLASSES
    words = rows(labels=("dog", "cat"))
    data = parquet_images.build(root=str(write_parquet(tmp_path / "b.parquet", words)), **SMALL)
    assert data.classes == ("cat", "dog")
    numbers = rows(labels=(7, 30, 4))
    data = parquet_images.build(root=str(write_parquet(tmp_path / "c.parquet", numbers)), **SMALL)
    assert data.classes == ("4", "7", "30")


def test_other_columns_may_be_named(tmp_path: Path) -> None:
    columns = rows()
    named = write_parquet(tmp_path / "a.parquet", {"img": columns["image"], "fine_label": columns["label"]})
    data = parquet_images.build(root=str(named), image_column="img", label_column="fine_label", **SMALL)
    assert sum(data.sizes.values()) == 30


def test_a_copy_in_another_process_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "GROUP_BYTES", 1)  # one row group at a time
    for data in (
        parquet_images.build(root=str(write_parquet(tmp_path / "a.parquet", rows())), **SMALL),
        hf.build(root=str(save_to_disk(tmp_path / "b", hf_table(rows()))), **SMALL),
    ):
        expected = data.train_batch(2, 3, 6)[0]
        packed = pickle.dumps(data)
        assert len(packed) < 60_000  # the rows themselves stay where they are
        assert torch.equal(pickle.loads(packed).train_batch(2, 3, 6)[0], expected)


def test_rows_may_name_files(tmp_path: Path) -> None:
    columns, inside = rows(), []
    for number, image in enumerate(columns["image"]):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / f"{number}.png").write_bytes(image)
        inside.append({"bytes": None, "path": f"{number}.png"})
    folder = save_to_disk(tmp_path / "set", hf_table(columns | {"image": inside}))
    assert sum(hf.build(root=str(folder), **SMALL).sizes.values()) == 30
    inside[3] = {"bytes": None, "path": "../outside.png"}
    (tmp_path / "outside.png").write_bytes(png(1))
    save_to_disk(tmp_path / "set", hf_table(columns | {"image": inside}))
    with pytest.raises(UsageError, match=r"not below data\.root"):
        hf.build(root=str(folder), **SMALL)


def test_options_are_those_of_an_image_folder(tmp_path: Path) -> None:
    root = str(write_parquet(tmp_path / "a.parquet", rows()))
    options = {"augmentation": {"re_prob": 0.5, "repeats": 2}, "balance": "sqrt", "in_chans": 1}
    data: Any = datasets.build("parquet_images", root=root, **SMALL, **options)
    assert data.train_batch(0, 0, 4)[0].shape == (4, 1, 16, 16)
    with pytest.raises(UsageError, match="no option 'augmentaton'"):
        datasets.build("parquet_images", root=root, augmentaton="none")


def no_label(columns: dict[str, list[Any]]) -> None:
    columns["label"][4] = None


def no_image(columns: dict[str, list[Any]]) -> None:
    columns["image"][4] = None


def half_an_image(columns: dict[str, list[Any]]) -> None:
    columns["image"][4] = columns["image"][4][:100]


def one_class(columns: dict[str, list[Any]]) -> None:
    columns["label"] = [1] * 30


def negative(columns: dict[str, list[Any]]) -> None:
    columns["label"][4] = -1


def fractions(columns: dict[str, list[Any]]) -> None:
    columns["label"] = [0.5] * 30


def words_for_images(columns: dict[str, list[Any]]) -> None:
    columns["image"] = ["a.png"] * 30


def other_names(columns: dict[str, list[Any]]) -> None:
    columns["lable"] = columns.pop("label")


def no_rows(columns: dict[str, list[Any]]) -> None:
    for name in columns:
        columns[name] = columns[name][:0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_label, "Row 4 of '{path}' has no 'label'"),
        (no_image, "The image 4 of '{path}' cannot be read: its row holds no image"),
        (half_an_image, "The image 4 of '{path}' cannot be read"),
        (one_class, "are of one class ('label' is 1)"),
        (negative, "Row 4 of '{path}' has the label -1, which is below 0"),
        (fractions, "Column 'label' of '{path}' holds double and no labels"),
        (words_for_images, "Column 'image' of '{path}' holds string and no images"),
        (other_names, "'{path}' has no column 'label', but 'image', 'lable'"),
        (no_rows, "have no rows"),
    ],
)
def test_rows_that_cannot_be_used_are_one_sentence(
    tmp_path: Path, damage: Callable[[dict[str, list[Any]]], None], message: str
) -> None:
    columns = rows()
    damage(columns)
    kinds = {"image": pa.binary(), "label": pa.int64()} if damage is no_rows else {}
    arrays = {name: pa.array(values, kinds.get(name)) for name, values in columns.items()}
    path = write_parquet(tmp_path / "a.parquet", arrays)
    with pytest.raises(UsageError) as caught:
        datasets.build("parquet_images", root=str(path), **SMALL)
    assert message.format(path=path) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_label_beyond_the_named_classes_is_named(tmp_path: Path) -> None:
    columns = rows()
    columns["label"][4] = 3
    folder = save_to_disk(tmp_path / "set", hf_table(columns))
    with pytest.raises(
        UsageError, match="has the label 3, which is not below 3, the number of named classes"
    ):
        hf.build(root=str(folder), **SMALL)


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no parquet")
    with pytest.raises(UsageError, match=r"a\.parquet' cannot be read as a file of Parquet"):
        parquet_images.build(root=str(tmp_path), **SMALL)
    (tmp_path / "b.arrow").write_text("no arrow")
    with pytest.raises(UsageError, match=r"b\.arrow' cannot be read as a file of Arrow"):
        hf.build(root=str(tmp_path), **SMALL)


def test_a_folder_without_files_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no files with rows"):
        parquet_images.build(root=str(tmp_path))
    with pytest.raises(UsageError, match=r"no \.arrow or \.parquet files") as caught:
        hf.build(root=str(tmp_path))
    assert "save_to_disk" in caught.value.hint
    for module in (hf, parquet_images):
        with pytest.raises(NotHereError, match="There is no"):
            module.build(root=str(tmp_path / "nowhere"))
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(UsageError, match="has no list '_data_files'"):
        hf.build(root=str(tmp_path))


def test_of_several_revisions_one_is_to_be_named(tmp_path: Path) -> None:
    columns = rows()
    one = write_parquet(tmp_path / "snapshots" / "abc" / "a.parquet", columns)
    assert sum(hf.build(root=str(tmp_path), **SMALL).sizes.values()) == 30
    write_parquet(tmp_path / "snapshots" / "def" / "a.parquet", columns)
    with pytest.raises(UsageError, match="2 revisions"):
        hf.build(root=str(tmp_path), **SMALL)
    assert sum(hf.build(root=str(one.parent), **SMALL).sizes.values()) == 30


def test_bad_rows_may_be_left_out(tmp_path: Path) -> None:
    columns = rows()
    half_an_image(columns)
    data = parquet_images.build(
        root=str(write_parquet(tmp_path / "a.parquet", columns)), on_bad_image="skip", **SMALL
    )
    assert sum(data.sizes.values()) == 29
    assert datasets.described(data)["left_out"] == {"unreadable": 1}


def test_a_file_that_shrinks_ends_the_job_with_its_name(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", rows())
    data = pickle.loads(pickle.dumps(parquet_images.build(root=str(path), **SMALL)))
    write_parquet(path, {name: values[:1] for name, values in rows().items()})
    with pytest.raises(
        JobFailedError, match=r"The image \d+ of '.*a\.parquet' cannot be read: the file has only 1"
    ):
        data.train_batch(0, 0, 4)
