"""A store with a finished job, one with a generator, one on two devices, a failed one with a hostile name,
and one that waits.
"""

from pathlib import Path

import pytest
from filled_store import HOSTILE, failed_job, finished_job, generative_job, measured_job

from nas.store import Store


@pytest.fixture(scope="module")
def filled_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of that store; nobody may change it."""
    path: Path = tmp_path_factory.mktemp("store") / "store.sqlite"
    url = f"sqlite:///{path}"
    with Store.open(url) as store:
        finished_job(store, "digit-pairs", count=40)
        generative_job(store, "generated")
        measured_job(store, "on-two")
        failed_job(store, HOSTILE, "The loss became <b>NaN</b> at step 120.")
        store.create_job("waiting", config={}, seed=0, provenance={})
    return url
