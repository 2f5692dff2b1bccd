"""Servers over a store that looks like a used one."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from filled_store import HOSTILE, failed_job, finished_job, generative_job, measured_job
from serving import READ, WRITE, Served, served, submit

from nas.cli.server.tokens import Tokens
from nas.store import Store


@pytest.fixture(scope="session")
def used_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with finished jobs, a failed one with a hostile name, and submitted ones; only to be copied."""
    file = tmp_path_factory.mktemp("used") / "store.sqlite"
    with Store.open(f"sqlite:///{file}") as store:
        finished_job(store, "digit-pairs", count=30)
        generative_job(store, "generated")
        measured_job(store, "on-two")
        failed_job(store, HOSTILE, "The loss became <b>NaN</b> at step 120.")
        submit(store, "first", "second", priority=2)
        store.add_log(store.job("first"), ["one", "two <b>", "three"])
    return file


@pytest.fixture
def used_url(used_file: Path, tmp_path: Path) -> str:
    """The URL of a copy that a test may change."""
    return f"sqlite:///{shutil.copyfile(used_file, tmp_path / 'store.sqlite')}"


@pytest.fixture
def team(used_url: str) -> Iterator[Served]:
    """A server with both tokens, over a store of the test's own."""
    with served(used_url, Tokens(READ, WRITE)) as one:
        yield one


@pytest.fixture(scope="module")
def quiet_team(used_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The same for tests that change nothing."""
    copy = shutil.copyfile(used_file, tmp_path_factory.mktemp("quiet") / "store.sqlite")
    with served(f"sqlite:///{copy}", Tokens(READ, WRITE)) as one:
        yield one
