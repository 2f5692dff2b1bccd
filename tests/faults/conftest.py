"""One finished job that the tests of this folder copy, because it takes some seconds."""

from pathlib import Path

import pytest
from nas_process import Place, make_place


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A job that nothing disturbed; only to be read and copied."""
    place = make_place(tmp_path_factory.mktemp("finished"))
    ran = place.nas("run", "job.yaml")
    assert ran.code == 0, ran.err
    return place


@pytest.fixture
def copy(finished: Place, tmp_path: Path) -> Place:
    """The finished job, to be spoilt."""
    return finished.copied_to(tmp_path / "copy")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """The job file alone."""
    return make_place(tmp_path / "place")
