"""What the tests of the service share."""

from collections.abc import Iterator

import pytest

from nas.store import Lease, Store


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """An open store that was made for the test."""
    with Store.open(store_url) as opened:
        yield opened


@pytest.fixture
def lease(store: Store) -> Iterator[Lease]:
    """The right to write to an empty job of that store."""
    with store.acquire(store.create_job("job", config={}, seed=0, provenance={})) as held:
        yield held
