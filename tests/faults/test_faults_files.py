"""Extraction from a damaged job, a disk that is full, names that mean harm, stores that cannot be used.

Damaged files and full disks are those of a folder, which both kinds of store have, or of a SQLite file.
"""

import resource
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from nas_process import SERVER, SQLITE, Place, Ran, make_place
from outcomes import assert_once, rows

HOSTILE = "../../x'\";DROP TABLE jobs;--<script>alert(1)</script>"
FILE_BYTES = 1_000_000
WIDE = ("--set", "supernet.space.embed_dim=[8, 128]")  # its checkpoints are larger than that


def _no_space() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))


@pytest.mark.spoils
def test_a_damaged_or_missing_supernet_leaves_no_folder(finished: Place, tmp_path: Path) -> None:
    places = [finished.copied_to(tmp_path / name) for name in ("damaged", "missing")]
    weights = [next(place.artifacts.glob("supernet-*")) for place in places]
    content = bytearray(weights[0].read_bytes())
    content[len(content) // 2] ^= 1
    weights[0].write_bytes(content)
    weights[1].unlink()
    with ThreadPoolExecutor(2) as pool:
        ran = list(pool.map(lambda place: place.nas("extract", "job", "--knee", "-o", "out/subnet"), places))
    for place, weight, one, word in zip(places, weights, ran, ("damaged", "missing"), strict=True):
        assert (one.code, one.out, len(one.errors)) == (1, "", 1)
        assert weight.name in one.errors[0]
        assert word in one.errors[0]
        assert not (place.folder / "out").exists()
        assert place.nas("db", "check").code == 5


def test_a_folder_that_is_not_empty_is_left_alone(finished: Place, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    ran = finished.nas("extract", "job", "--knee", "-o", tmp_path)
    assert (ran.code, len(ran.errors)) == (4, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    ran = finished.nas("extract", "job", "--knee", "-o", tmp_path / "mine.txt")
    assert (ran.code, (tmp_path / "mine.txt").read_text()) == (4, "mine")


@pytest.mark.slow
def test_a_full_disk_and_a_hostile_name_do_no_harm(tmp_path: Path) -> None:
    """Together, because both need a job of their own."""
    place = make_place(tmp_path / "a" / "b" / "place")
    ran = place.nas("run", "job.yaml", *WIDE, "--name", HOSTILE, preexec_fn=_no_space)
    assert_disk_was_full(place, ran)
    assert place.nas("resume", "1").code == 0
    assert_once(place)
    assert place.query("SELECT name, state FROM jobs") == [(HOSTILE, "succeeded")]
    assert place.nas("db", "check").code == 0
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["place"]
    (figure,) = place.folder.glob("*.html")
    assert "<script>alert(1)" not in figure.read_text()


def assert_disk_was_full(place: Place, ran: Ran) -> None:
    """One sentence, and nothing of the file."""
    assert (ran.code, ran.out, len(ran.errors)) == (1, "", 1)
    assert "checkpoint of step 20 cannot be written" in ran.errors[0]
    assert "too large" in ran.errors[0]
    assert list(place.artifacts.iterdir()) == []
    assert place.state() == ("failed", ran.errors[0].removeprefix("Error: "))


@pytest.mark.parametrize(
    ("copy", "name"),
    [(SQLITE, HOSTILE), (SQLITE, "=1+1"), pytest.param(SERVER, HOSTILE, marks=pytest.mark.slow)],
    indirect=["copy"],
)
def test_a_hostile_name_does_no_harm(copy: Place, name: str) -> None:
    quoted = name.replace("'", "''")
    copy.change(f"UPDATE jobs SET name = '{quoted}'")
    before = sorted(path.name for path in copy.folder.parent.iterdir())
    ran = copy.nas("resume", name, "--figure", "figure.html")
    assert (ran.code, ran.errors) == (0, [])
    assert "<script>alert(1)" not in (copy.folder / "figure.html").read_text()
    assert copy.query("SELECT name FROM jobs") == [(name,)]
    assert sorted(path.name for path in copy.folder.parent.iterdir()) == before
    table = copy.nas("front", name, "--csv")
    assert table.code == 0
    assert "\n=1+1," not in table.out


def _newer(place: Place) -> None:
    place.change("UPDATE alembic_version SET version_num = '9999'")


def _corrupt(place: Place) -> None:
    with closing(sqlite3.connect(place.file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(place.file.read_bytes())
    content[4096 : 4096 * 8] = b"\xff" * (4096 * 7)
    place.file.write_bytes(content)


def _not_sqlite(place: Place) -> None:
    place.file.write_text("this is not a database, whatever its name says\n" * 50)


@pytest.mark.spoils
@pytest.mark.parametrize(
    ("copy", "spoil", "sentence"),
    [
        (SQLITE, _newer, "newer version"),
        (SQLITE, _corrupt, "damaged"),
        (SQLITE, _not_sqlite, "is not a store"),
        pytest.param(SERVER, _newer, "newer version", marks=pytest.mark.slow),
    ],
    indirect=["copy"],
)
def test_a_store_that_cannot_be_used(copy: Place, spoil: object, sentence: str) -> None:
    assert callable(spoil)
    spoil(copy)

    def content() -> object:
        return copy.file.read_bytes() if copy.database is None else rows(copy)

    before = content()
    for words in (("ls",), ("resume", "job")):
        ran = copy.nas(*words)
        assert (ran.code, ran.out, len(ran.errors)) == (5, "", 1), words
        assert sentence in ran.errors[0]
        assert "Traceback" not in ran.err
    assert content() == before


def test_a_store_where_none_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file, no folder")
    place = make_place(tmp_path / "place")
    nowhere = Place(tmp_path / "file" / "deeper")
    ran = place.nas("run", "job.yaml", "--store", nowhere.url)
    assert (ran.code, len(ran.errors)) == (5, 1)
    assert (tmp_path / "file").read_text() == "a file, no folder"
    assert [path.name for path in place.folder.iterdir()] == ["job.yaml"]
