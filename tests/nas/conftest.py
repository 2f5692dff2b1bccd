"""What the tests of the service share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas.store import Lease, Store


@pytest.fixture(scope="session")
def empty_file(_session_home: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with nothing in it; only to be copied, which spares the migrations."""
    file = tmp_path_factory.mktemp("empty") / "store.sqlite"
    Store.open(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def store(empty_file: Path, store_url: str) -> Iterator[Store]:
    """An open store of the test's own."""
    shutil.copyfile(empty_file, store_url.removeprefix("sqlite:///"))
    with Store.open(store_url) as opened:
        yield opened


@pytest.fixture
def lease(store: Store) -> Iterator[Lease]:
    """The right to write to an empty job of that store."""
    with store.acquire(store.create_job("job", config={}, seed=0, provenance={})) as held:
        yield held
