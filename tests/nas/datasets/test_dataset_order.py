"""How often classes are drawn, what is held decoded, and what becomes of images that break in a training."""

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_trees import make_tree, save

from nas import datasets
from nas.datasets import image_folder
from nas.errors import JobFailedError
from nas.images import checked
from nas.images.sets.image_set import ImageSet
from nas.images.sets.order import Order, draws_of, shuffled
from search_spaces.errors import UsageError

SMALL: dict[str, Any] = {"image_size": 16, "search": 0.2, "report": 0.2}
COUNTS = {"ant": 50, "bee": 20, "cat": 10}  # of which 30, 12 and 6 are trained on


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for label, (name, count) in enumerate(COUNTS.items()):
        for i in range(count):
            save(tmp_path / "images" / name / f"{i}.png", seed=1000 * label + i)
    return tmp_path / "images"


def built(tree: Path, **options: Any) -> ImageSet:
    data: ImageSet = image_folder.build(root=str(tree), **SMALL, **options)
    return data


def drawn(data: ImageSet, seed: int, batches: int, size: int = 12) -> list[str]:
    return [file.relative for step in range(batches) for file in data._chosen(seed, step, size, range(size))]


@pytest.mark.parametrize(
    ("balance", "shares"),
    [
        (False, (30, 12, 6)),
        (True, (16, 16, 16)),
        ("sqrt", (23, 15, 10)),
        ({"cat": 4}, (22, 9, 17)),
    ],
)
def test_an_epoch_has_the_classes_in_these_shares(tree: Path, balance: Any, shares: tuple[int, ...]) -> None:
    data = built(tree, balance=balance)
    for epoch in range(3):
        names = [
            file.relative for step in range(4) for file in data._chosen(0, 4 * epoch + step, 12, range(12))
        ]
        counts = Counter(name.partition("/")[0] for name in names)
        assert [counts[name] for name in COUNTS] == list(shares)


def test_all_images_of_a_class_are_drawn_equally_often(tree: Path) -> None:
    data = built(tree, balance=True)
    counts = Counter(drawn(data, 3, 60))  # 15 epochs of 48 images: each class 240 times
    for name, count in COUNTS.items():
        of_class = [number for file, number in counts.items() if file.startswith(name)]
        assert len(of_class) == count * 0.6
        assert max(of_class) - min(of_class) <= 1


def test_the_order_is_a_function_of_the_seed_and_the_place(tree: Path) -> None:
    data, again = built(tree, balance="sqrt"), built(tree, balance="sqrt")
    straight = drawn(data, 1, 12)
    assert [[f.relative for f in again._chosen(1, step, 12, range(12))] for step in (7, 2, 11, 0)] == [
        straight[12 * step : 12 * (step + 1)] for step in (7, 2, 11, 0)
    ]
    assert straight != drawn(data, 2, 12)
    assert straight[:48] != straight[48:96]


def test_without_balance_the_order_is_that_of_shuffled_epochs(tree: Path) -> None:
    data = built(tree)
    files = data._splits["train"]
    assert drawn(data, 5, 8) == [files[shuffled(5, i // 48, 48)[i % 48]].relative for i in range(96)]


def test_what_is_searched_stays_as_it_is(tree: Path) -> None:
    plain, balanced = built(tree), built(tree, balance=True)
    assert plain.digest == balanced.digest
    assert torch.equal(plain.labels("search"), balanced.labels("search"))


@given(
    st.lists(st.tuples(st.integers(1, 500), st.floats(1e-3, 1e3)), min_size=1, max_size=20),
)
def test_draws_are_of_every_class_and_fill_the_epoch(classes: list[tuple[int, float]]) -> None:
    counts, factors = zip(*classes, strict=True)
    draws = draws_of(counts, factors)
    assert sum(draws) == sum(counts)
    assert min(draws) >= 1


def test_an_order_of_labels_that_are_not_all_there() -> None:
    order = Order([0, 0, 2, 2, 2, 2], [1.0, 1.0, 0.5])
    assert Counter([0, 0, 2, 2, 2, 2][order(0, place)] for place in range(6)) == {0: 3, 2: 3}


@pytest.mark.parametrize(
    ("balance", "message"),
    [
        ("equal", "balance = 'equal' is unknown"),
        (1, "balance = 1 is unknown"),
        ({"dog": 2}, "balance names the class 'dog', which there is not"),
        ({"ant": 0}, "balance.ant = 0 is no positive number"),
        ({"ant": "often"}, "balance.ant = 'often' is no positive number"),
        ({"ant": float("nan")}, "balance.ant = nan is no positive number"),
    ],
)
def test_a_wrong_balance_is_one_sentence(tree: Path, balance: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        built(tree, balance=balance)
    assert message in caught.value.message


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded."""
    paths: list[Path] = []
    original = checked.decoded
    monkeypatch.setattr(checked, "decoded", lambda path, scale: paths.append(path) or original(path, scale))
    return paths


def test_images_of_the_search_are_decoded_once_with_the_same_bits(tree: Path, read: list[Path]) -> None:
    image = 3 * 16 * 16
    for most, of_search, of_report in (
        (2**30, 16, 16),
        (20 * image, 16, 4),
        (5 * image + 7, 5, 0),
        (0, 0, 0),
    ):
        data, without = built(tree, cache_bytes=most), built(tree, cache_bytes=0)
        for split, held in (("search", of_search), ("report", of_report)):
            expected = torch.cat([x for x, _ in without.batches(split, 3)])
            read.clear()
            first = torch.cat([x for x, _ in data.batches(split, 5)])
            assert len(read) == 16
            again = torch.cat([x for x, _ in data.batches(split, 7)])
            assert len(read) == 16 + 16 - held
            part = torch.cat([x for x, _ in data.batches(split, 2, slice(1, 4))])
            assert torch.equal(first, expected)
            assert torch.equal(again, expected)
            assert torch.equal(part, expected[1:4])


def test_what_is_held_does_not_travel(tree: Path) -> None:
    data = built(tree)
    before = len(pickle.dumps(data))
    list(data.batches("search", 16))
    assert len(pickle.dumps(data)) <= before + 100
    assert data.digest == built(tree, cache_bytes=0).digest


@pytest.mark.parametrize("cache_bytes", [-1, 1.5, "1 GiB", True])
def test_a_wrong_number_of_bytes_is_one_sentence(tree: Path, cache_bytes: Any) -> None:
    with pytest.raises(UsageError, match=r"cache_bytes = .* is no number of bytes"):
        built(tree, cache_bytes=cache_bytes)


def test_an_image_that_breaks_in_a_training_is_replaced_and_told(tree: Path) -> None:
    data, other = built(tree, on_bad_image="skip"), built(tree, on_bad_image="skip")
    whole = data.train_batch(0, 0, 12)
    broken = {file.path for file in data._chosen(0, 0, 12, range(12))[3:5]}
    for path in broken:
        path.write_bytes(path.read_bytes()[:100])
    images, labels = data.train_batch(0, 0, 12)
    assert torch.equal(labels, whole[1])
    same = [torch.equal(one, before) for one, before in zip(images, whole[0], strict=True)]
    assert same == [True] * 3 + [False] * 2 + [True] * 7
    assert torch.equal(images, other.train_batch(0, 0, 12)[0])
    assert torch.equal(images, data.train_batch(0, 0, 12)[0])
    news = other.unreadable()
    assert news.keys() == {f"'{path}'" for path in broken}
    assert all(news.values())
    assert other.unreadable() == {}


class Counting:
    """A source of images that notes which are decoded."""

    def __init__(self, source: Any) -> None:
        self._source, self.decoded_files = source, list[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def decoded(self, image: Any, scale: Any) -> Any:
        self.decoded_files.append(image.relative)
        return self._source.decoded(image, scale)


@pytest.mark.parametrize("augmentation", ["crop", "none", {"re_prob": 0.5, "repeats": 3}])
@pytest.mark.parametrize("bad", [False, True])
def test_of_a_part_no_other_image_is_decoded(tree: Path, augmentation: Any, bad: bool) -> None:
    data: Any = built(tree, augmentation=augmentation, on_bad_image="skip")
    files = data._chosen(0, 2, 12, range(12))
    if bad:
        files[5].path.write_bytes(b"")
    whole = data.train_batch(0, 2, 12)
    data._source = counting = Counting(data._source)
    places = [1, 4, 5, 11]
    images, labels = data.train_part(0, 2, 12, places)
    assert torch.equal(images, whole[0][places])
    assert torch.equal(labels, whole[1][places])
    wanted = Counter(files[place].relative for place in places)
    decoded = Counter(counting.decoded_files)
    assert wanted <= decoded
    assert decoded.total() - wanted.total() == (wanted[files[5].relative] if bad else 0)


def test_a_class_that_is_gone_ends_the_training(tree: Path) -> None:
    data = built(tree, on_bad_image="skip")
    for path in (tree / "cat").iterdir():
        path.unlink()
    with pytest.raises(JobFailedError, match="training images of class 'cat' in a row cannot be read"):
        data.train_batch(0, 0, 48)


def test_unless_it_is_allowed_a_broken_image_ends_the_training(tmp_path: Path) -> None:
    data: Any = datasets.build("image_folder", root=str(make_tree(tmp_path / "images")))
    for path in (tmp_path / "images").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(JobFailedError, match="cannot be read: "):
        data.train_batch(0, 0, 2)
    assert data.unreadable() == {}
