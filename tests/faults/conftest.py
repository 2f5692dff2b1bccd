"""A finished job to be read and copied, and places for others."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from nas_process import (
    SERVER,
    SQLITE,
    Database,
    Here,
    Place,
    Ran,
    broken_stores,
    end_what_was_started,
    make_place,
)

from nas.cli import main
from nas.store import move

if TYPE_CHECKING:
    from benchmarks.postgresql_server import Server


@pytest.fixture(autouse=True)
def _nothing_outlives_a_test_and_no_store_is_broken(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test kills: the invariant checker finds nothing. A test that damages a store says so."""
    yield
    end_what_was_started()
    broken = broken_stores()
    if request.node.get_closest_marker("spoils") is None:
        assert broken == []
    else:
        assert broken != [], "the test is marked as one that damages a store"


@pytest.fixture
def postgresql_url(postgresql_url: str) -> Iterator[str]:
    """As everywhere, and at the end the invariant checker finds nothing in it."""
    yield postgresql_url
    end_what_was_started()
    assert broken_stores(postgresql_url) == []


@pytest.fixture(scope="session")
def finished(_session_home: None, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A job that nothing disturbed; only to be read and copied."""
    place = make_place(tmp_path_factory.mktemp("finished"))
    ran = place.nas("run", "job.yaml")
    assert ran.code == 0, ran.err
    return place


@pytest.fixture(scope="session")
def finished_on_server(
    finished: Place, postgresql: "Server", tmp_path_factory: pytest.TempPathFactory
) -> Place:
    """The same job in a database of a server; only to be copied."""
    place = Place(tmp_path_factory.mktemp("finished-on-server"), Database.new(postgresql))
    shutil.copy(finished.folder / "job.yaml", place.folder)
    with place.entered():
        move(finished.url, place.url)
    return place


@pytest.fixture(scope="session")
def subnet(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the smallest subnet of that job; only to be copied."""
    folder = tmp_path_factory.mktemp("extracted") / "subnet"
    ((key,),) = finished.query("SELECT key FROM subnets ORDER BY params LIMIT 1")
    words = ("extract", "job", "--subnet", key, "-o", str(folder), "--store", finished.url)
    assert main(words) == 0
    return folder


@pytest.fixture
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """The finished job, to be spoilt. A parameter says on which database."""
    kept = {SQLITE: "finished", SERVER: "finished_on_server"}[getattr(request, "param", SQLITE)]
    return request.getfixturevalue(kept).copied_to(tmp_path / "copy")


@pytest.fixture
def server(request: pytest.FixtureRequest) -> "Server | None":
    """Where the test's stores are to be, None for files. A parameter says on which database."""
    return None if getattr(request, "param", SQLITE) == SQLITE else request.getfixturevalue("postgresql")


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """The job file alone. A parameter says on which database the store is to be."""
    on = getattr(request, "param", SQLITE)
    return make_place(
        tmp_path / "place", server=None if on == SQLITE else request.getfixturevalue("postgresql")
    )


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """As `Place.nas`, in the test's own process, which knows torch already."""

    def run(place: Place, *words: str) -> Ran:
        capsys.readouterr()
        with monkeypatch.context() as patch, place.entered():
            patch.chdir(place.folder)
            code = main([*words, "--store", place.url])
        return Ran(code, *capsys.readouterr())

    return run
