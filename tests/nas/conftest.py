"""What the tests of the service share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import search_spaces
from nas.store import Lease, Store
from search_spaces import SearchSpace


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
