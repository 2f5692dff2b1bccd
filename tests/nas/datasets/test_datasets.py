"""The law of data sets, for every file in the folder."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from idx_files import make_idx
from image_tables import hf_table, save_to_disk, write_parquet
from image_tables import rows as image_rows
from image_trees import make_tree
from made_text import make_text
from sklearn.datasets import load_digits
from torch import Tensor

from nas import datasets
from nas.config.quantities import task_of
from nas.datasets import SPLITS, DataSet
from nas.images.digits import source_digits, split_indices
from search_spaces.errors import NotFoundError, UsageError
from supernet.tasks.language import NO_TARGET

Build = Callable[..., DataSet]
TYPES = {"classification": torch.float32, "language": torch.int64}  # of inputs


@pytest.fixture(scope="module")
def needed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The options without which a data set cannot be built."""
    tree = make_tree(tmp_path_factory.mktemp("images"))
    idx = make_idx(tmp_path_factory.mktemp("fashion"))
    torchvisions = tmp_path_factory.mktemp("torchvision")
    make_idx(torchvisions / "FashionMNIST" / "raw", packed=False)
    small = {"image_size": 8, "search": 0.3, "report": 0.3}
    return {
        "fashion_mnist": {"root": str(idx), "search": 50, "report": 100},
        "hf": {"root": str(save_to_disk(tmp_path_factory.mktemp("hf"), hf_table(image_rows()))), **small},
        "image_folder": {"root": str(tree), **small},
        "parquet_images": {
            "root": str(write_parquet(tmp_path_factory.mktemp("rows") / "a.parquet", image_rows())),
            **small,
        },
        "python_docs": {"documents": 60, "context": 64},
        "text": {"files": [str(make_text(tmp_path_factory.mktemp("text")))], "context": 48},
        "torchvision": {"class_name": "FashionMNIST", "root": str(torchvisions), "in_chans": 1, **small},
    }


@pytest.fixture(params=datasets.names())
def build(request: pytest.FixtureRequest, needed: dict[str, dict[str, Any]]) -> Build:
    return lambda **options: datasets.build(request.param, **(needed.get(request.param, {}) | options))


def whole(dataset: DataSet, split: str, size: int = 64) -> tuple[Tensor, Tensor]:
    inputs, labels = zip(*dataset.batches(split, size), strict=True)
    return torch.cat(inputs), torch.cat(labels)


def rows(inputs: Tensor) -> set[bytes]:
    return {row.contiguous().numpy().tobytes() for row in inputs}


def test_every_data_set_is_found() -> None:
    assert {"digit_pairs", "digits", "fashion_mnist", "hf", "image_folder", "torchvision"} <= set(
        datasets.names()
    )


def test_batches_cover_each_split_exactly_and_in_order(build) -> None:
    dataset = build()
    for split in SPLITS:
        inputs, labels = whole(dataset, split)
        assert inputs.shape == (dataset.sizes[split], *dataset.input_shape)
        for size in (1, 7, dataset.sizes[split], 10 * dataset.sizes[split]):
            again = list(dataset.batches(split, size))
            assert all(len(x) == len(y) == size for x, y in again[:-1])
            assert torch.equal(torch.cat([x for x, _ in again]), inputs)
            assert torch.equal(torch.cat([y for _, y in again]), labels)
        part = slice(2, dataset.sizes[split] - 1)
        some = list(dataset.batches(split, 3, part))
        assert torch.equal(torch.cat([x for x, _ in some]), inputs[part])
        assert torch.equal(torch.cat([y for _, y in some]), labels[part])


def test_shapes_types_and_labels(build) -> None:
    dataset = build()
    seen = set()
    for inputs, labels in (*(whole(dataset, split) for split in SPLITS), dataset.train_batch(0, 0, 200)):
        assert inputs.dtype == TYPES[datasets.task_name(dataset)]
        assert labels.dtype == torch.int64
        assert inputs.isfinite().all()
        assert inputs.shape[1:] == dataset.input_shape
        assert labels.shape == inputs.shape[: labels.ndim]
        seen |= set(labels[labels != NO_TARGET].flatten().tolist())
    assert seen <= set(range(dataset.num_classes))
    assert len(seen) == dataset.num_classes or datasets.task_name(dataset) == "language"
    assert dataset.sizes.keys() == {"train", *SPLITS}


def test_a_training_batch_is_a_function_of_seed_and_step(build) -> None:
    dataset = build()
    inputs, labels = dataset.train_batch(1, 2, 6)
    for other in (dataset, build()):
        again, again_labels = other.train_batch(1, 2, 6)
        assert torch.equal(inputs, again)
        assert torch.equal(labels, again_labels)
    assert not torch.equal(inputs, dataset.train_batch(1, 3, 6)[0])
    assert not torch.equal(inputs, dataset.train_batch(2, 2, 6)[0])


def test_parts_of_a_training_batch_joined_are_the_whole(build) -> None:
    dataset, size = build(), 7
    whole = dataset.train_batch(1, 2, size)
    parts = (range(3), [4, 6], [3], [5])
    made = [datasets.train_part(build(), 1, 2, size, places) for places in parts]
    places = [place for part in parts for place in part]
    for number, tensor in enumerate(whole):
        joined = torch.cat([part[number] for part in made])
        assert joined.dtype == tensor.dtype
        assert torch.equal(joined, tensor[places])
    if hasattr(dataset, "raw_part"):
        raw, labels = dataset.raw_part(1, 2, size, [1, 5])
        assert torch.equal(dataset.normalised(raw), whole[0][[1, 5]])
        assert torch.equal(labels, whole[1][[1, 5]])


def test_a_clean_batch_is_a_function_of_seed_and_step(build) -> None:
    dataset = build()
    inputs = dataset.clean_batch(1, 2, 6)
    assert inputs.shape == (6, *dataset.input_shape)
    assert inputs.dtype == TYPES[datasets.task_name(dataset)]
    before = torch.get_rng_state()
    for other in (dataset, build()):
        assert torch.equal(inputs, other.clean_batch(1, 2, 6))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(inputs, dataset.clean_batch(1, 3, 6))
    assert not torch.equal(inputs, dataset.clean_batch(2, 2, 6))


def test_a_clean_batch_shows_training_images_only(build) -> None:
    dataset = build()
    clean = rows(torch.cat([dataset.clean_batch(0, step, 50) for step in range(4)]))
    for split in SPLITS:
        assert not clean & rows(whole(dataset, split)[0])


def test_no_example_is_in_two_splits(build) -> None:
    dataset = build()
    held_out = [rows(whole(dataset, split)[0]) for split in SPLITS]
    assert not held_out[0] & held_out[1]
    if dataset.sources("search") is not None:
        ids = [set(dataset.sources(split).flatten().tolist()) for split in SPLITS]
        assert not ids[0] & ids[1]
    trained = rows(torch.cat([dataset.train_batch(0, step, 50)[0] for step in range(4)]))
    assert not trained & (held_out[0] | held_out[1])


def test_sources_are_one_row_for_each_example(build) -> None:
    dataset = build()
    for split in SPLITS:
        sources = dataset.sources(split)
        assert sources is None or (sources.ndim == 2 and len(sources) == dataset.sizes[split])


def test_the_digest_stands_for_the_splits(build) -> None:
    dataset, same, other = build(), build(split_seed=0), build(split_seed=1)
    assert dataset.digest == same.digest != other.digest
    assert len(dataset.digest) == 64
    for split in SPLITS:
        assert torch.equal(whole(dataset, split)[0], whole(same, split)[0])
        assert not torch.equal(whole(dataset, split)[0], whole(other, split)[0])


def test_counts_are_one_number_for_each_example(build) -> None:
    dataset = build()
    for split in SPLITS:
        for counted in datasets.counts_of(dataset, split).values():
            assert counted.shape == (dataset.sizes[split],)
            assert (counted > 0).all()
    per = {kind.per for kind in datasets.task_of(dataset).qualities} - {""}
    assert per <= datasets.counts_of(dataset, "report").keys()


def test_a_job_file_learns_the_task_without_the_data(build) -> None:
    dataset = build()
    assert task_of(dataset.name) == datasets.task_name(dataset)


def test_the_name_is_that_of_the_file(build) -> None:
    assert build().name in datasets.names()


def test_unknown_options_are_refused_with_those_that_exist(build) -> None:
    with pytest.raises(UsageError, match="no option 'splitseed'") as caught:
        build(splitseed=1)
    assert "split_seed" in caught.value.hint


def test_a_seed_that_is_no_integer_is_refused(build) -> None:
    with pytest.raises(UsageError, match="split_seed = 'a'"):
        build(split_seed="a")


def test_an_unknown_data_set_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="'digit_pair'") as caught:
        datasets.build("digit_pair")
    assert caught.value.hint == "Did you mean 'digit_pairs'?"


@pytest.mark.parametrize("seed", [0, 7])
def test_digits_are_split_without_remainder(seed: int) -> None:
    indices = split_indices(seed)
    assert {name: len(i) for name, i in indices.items()} == {"train": 1197, "search": 300, "report": 300}
    assert sorted(torch.cat(list(indices.values())).tolist()) == list(range(1797))


@pytest.mark.parametrize("seed", [0, 7])
def test_the_label_of_a_pair_is_the_sum_of_its_digits(seed: int) -> None:
    dataset = datasets.build("digit_pairs", split_seed=seed, pairs=500)
    digits = source_digits()[1]
    for split in SPLITS:
        sources = dataset.sources(split)
        assert sources.shape == (500, 2)
        assert torch.equal(digits[sources].sum(dim=1), whole(dataset, split)[1])
        assert set(sources.flatten().tolist()) <= set(split_indices(seed)[split].tolist())


def test_a_pair_shows_its_digits_side_by_side() -> None:
    dataset = datasets.build("digit_pairs", pairs=200)
    images, _ = source_digits()
    inputs, _ = whole(dataset, "search")
    originals = images[dataset.sources("search")]
    for side in (0, 1):
        shown = inputs[..., 8 * side : 8 * side + 8]
        likeness = torch.corrcoef(torch.stack([shown.flatten(), originals[:, side].flatten()]))[0, 1]
        other = torch.corrcoef(torch.stack([shown.flatten(), originals[:, 1 - side].flatten()]))[0, 1]
        assert likeness > 0.6 > other


def test_the_digits_are_scikit_learns() -> None:
    images, labels = source_digits()
    digits = load_digits()
    assert torch.equal(images, torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1))
    assert torch.equal(labels, torch.tensor(digits.target))


def test_clean_digits_are_the_images_themselves() -> None:
    dataset = datasets.build("digits")
    images, _ = source_digits()
    clean = rows(dataset.clean_batch(0, 0, 200))
    assert clean <= rows(images[split_indices(0)["train"]])
    assert len(clean) > 150
    assert not clean & rows(dataset.train_batch(0, 0, 200)[0])


def test_a_clean_pair_has_no_empty_side() -> None:
    """An empty side is noise of standard deviation 0.1; a digit's pixels spread over three times as much."""
    dataset = datasets.build("digit_pairs", pairs=200)

    def spread(inputs: Tensor) -> Tensor:
        return inputs.unflatten(-1, (2, 8)).std(dim=(1, 2, 4)).min(dim=1).values

    assert (spread(dataset.train_batch(0, 0, 400)[0]) < 0.15).float().mean() > 0.2
    assert spread(dataset.clean_batch(0, 0, 400)).min() > 0.2
    assert spread(whole(dataset, "search")[0]).min() > 0.2


@pytest.mark.parametrize("pairs", [0, -1, 1.5, "many"])
def test_an_impossible_number_of_pairs_is_refused(pairs: object) -> None:
    with pytest.raises(UsageError, match="pairs = "):
        datasets.build("digit_pairs", pairs=pairs)
