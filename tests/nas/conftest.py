"""What the tests of the service share."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import search_spaces
from nas.store import Lease, Store
from search_spaces import SearchSpace

if TYPE_CHECKING:
    from benchmarks.postgresql_server import Server


@pytest.fixture(scope="session")
def empty_file(_session_home: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with nothing in it; only to be copied, which spares the migrations."""
    file = tmp_path_factory.mktemp("empty") / "store.sqlite"
    Store.open(f"sqlite:///{file}").close()
    return file


@pytest.fixture(scope="session")
def postgresql_template(postgresql: "Server") -> str:
    """The name of a PostgreSQL database with an empty store, to be copied."""
    Store.open(postgresql.create("template_store")).close()
    return "template_store"


@pytest.fixture(params=["sqlite", "postgresql"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path, empty_file: Path) -> Iterator[str]:
    """The URL of an empty store of each kind of database."""
    if request.param == "sqlite":
        yield f"sqlite:///{shutil.copyfile(empty_file, tmp_path / 'nas.db')}"
        return
    server, template = map(request.getfixturevalue, ("postgresql", "postgresql_template"))
    name = f"test_{uuid.uuid4().hex}"
    yield server.create(name, template)
    server.drop(name)


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


@pytest.fixture(scope="session")
def wide() -> SearchSpace:
    """The embedded space, 3060 architectures."""
    return search_spaces.get("matformer")


@pytest.fixture(scope="session")
def tiny() -> SearchSpace:
    """12 architectures."""
    return search_spaces.get("matformer", embed_dim=(16, 32), num_heads=(2,), depth=(1, 2), mlp_ratio=(1, 2))
