"""Notes and tags of jobs: what is kept, what is refused, and how the command line sets and shows them."""

import json
from pathlib import Path

import old_schema
import pytest
import sqlalchemy as sa

from nas.cli import main
from nas.errors import StoreError
from nas.store import Store, upgrade
from nas.store import tables as t
from search_spaces.errors import UsageError


@pytest.fixture
def store(any_url):
    with Store.open(any_url) as opened:
        yield opened


@pytest.fixture
def job(store):
    return store.create_job("job", config={}, seed=0, provenance={})


def test_a_note_is_kept_and_removed(store, job):
    assert (job.note, job.tags) == (None, None)
    text = "  lr was too high\r\n<b>see</b> \u202eleft 'x'; DROP TABLE jobs\t👍  "
    assert store.set_note(job, text).note == text.strip().replace("\r\n", "\n")
    assert store.job("job").note == text.strip().replace("\r\n", "\n")
    assert store.set_note(job, "   ").note is None
    assert store.set_note(job, None).note is None


def test_tags_are_a_set_in_order(store, job):
    assert store.set_tags(job, ["b", "a", "b", "<i>"]).tags == ["<i>", "a", "b"]
    assert store.jobs()[0].tags == ["<i>", "a", "b"]
    assert store.set_tags(job, []).tags is None


@pytest.mark.parametrize("note", ["x" * 4_001, "a\0b", "bell\a", "\ud800", "esc\x1b[31m"])
def test_a_note_that_cannot_be_kept_is_refused(store, job, note):
    with pytest.raises(UsageError):
        store.set_note(job, note)
    assert store.job("job").note is None


@pytest.mark.parametrize("tag", ["", " ", "a b", "a,b", "x" * 41, "a\n", "\x1b", "\ud800"])
def test_what_cannot_be_a_tag_is_refused(store, job, tag):
    with pytest.raises(UsageError, match="cannot be a tag"):
        store.set_tags(job, ["good", tag])
    assert store.job("job").tags is None


def test_twenty_one_tags_are_too_many(store, job):
    with pytest.raises(UsageError, match="at most 20 tags, not 21"):
        store.set_tags(job, [str(number) for number in range(21)])
    assert len(store.set_tags(job, [str(number) for number in range(20)]).tags) == 20


@pytest.mark.parametrize("damaged", ['{"a": 1}', "[1]", '["a", ["b"]]', '"text"'])
@pytest.mark.usefixtures("job")
def test_tags_that_are_none_are_a_damaged_row(store, damaged):
    with store.write() as connection:
        connection.exec_driver_sql(f"UPDATE jobs SET tags = '{damaged}'")
    with pytest.raises(StoreError, match="tags in jobs"):
        store.jobs()


def test_an_older_store_gets_both_empty(tmp_path: Path):
    file = tmp_path / "nas.db"
    old_schema.make(file, "0007", tmp_path)
    old_schema.change(
        file,
        "INSERT INTO jobs (id, name, state, config, provenance, seed, created_at, stop_requested, attempt)"
        " VALUES (1, 'old', 'succeeded', '{}', '{}', 0, '2026-01-01 00:00:00', 0, 1)",
    )
    assert upgrade(f"sqlite:///{file}")[0] == "0007"
    with Store.open(f"sqlite:///{file}") as store:
        assert store.set_tags(store.job("old"), ["kept"]).note is None
        with store.read() as connection:
            assert connection.execute(sa.select(t.jobs.c.note, t.jobs.c.tags)).one() == (None, ["kept"])


def verb(capsys, *words: str) -> str:
    assert main([*words]) == 0
    return capsys.readouterr().out


def test_the_command_line_sets_and_shows_them(any_url, capsys):
    url = ("--store", any_url)
    with Store.open(any_url) as store:
        for name in ("one", "two"):
            store.create_job(name, config={}, seed=0, provenance={})
    assert verb(capsys, "note", "one", "a first\ntry", *url) == "a first\ntry\n"
    assert verb(capsys, "note", "one", *url) == "a first\ntry\n"
    assert verb(capsys, "tag", "one", "paper", "slow", *url) == "paper\nslow\n"
    assert verb(capsys, "tag", "one", "best", "--remove", "slow", *url) == "best\npaper\n"
    rows = json.loads(verb(capsys, "ls", "--json", *url))
    assert {row["name"]: row["tags"] for row in rows} == {"one": ["best", "paper"], "two": []}
    assert [row["name"] for row in json.loads(verb(capsys, "ls", "--tag", "best", "--json", *url))] == ["one"]
    assert "best, paper" in verb(capsys, "ls", *url)
    assert "a first try" in verb(capsys, "show", "one", *url)
    assert verb(capsys, "note", "one", "--clear", *url) == ""
    assert json.loads(verb(capsys, "note", "one", "--json", *url))["note"] is None
    assert main(["note", "one", "x", "--clear", *url]) == 2
    assert main(["tag", "one", "a b", *url]) == 2
    assert main(["note", "nobody", "x", *url]) == 3
