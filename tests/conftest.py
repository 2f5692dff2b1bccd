"""What every test gets: one thread, repeatable examples, and a home of its own."""

import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from benchmarks.postgresql_server import Server
    from nas import JobHandle

# Before anything imports torch, and inherited by the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

settings.register_profile("elastiform", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("elastiform")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Says how a worker of pytest-xdist died, which does so itself only that it did."""
    if error:
        code = node.gateway._io.popen.wait(60)
        free = psutil.virtual_memory().available // 2**20
        line = f"{node.gateway.id} ended with code {code} (less than 0: the signal); {free} MiB are free"
        node.config.pluginmanager.get_plugin("terminalreporter").write_line(f"\n{line}")


def _move_home(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Point every place that the user's files are looked for at `folder`, and forget the user's settings."""
    for name in [name for name in os.environ if name.startswith("NAS_")]:
        patch.delenv(name)
    patch.setenv("HOME", str(folder))
    for name in ("CACHE", "CONFIG", "DATA", "STATE"):
        patch.setenv(f"XDG_{name}_HOME", str(folder / name.lower()))


@pytest.fixture(scope="session", autouse=True)
def _session_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For the fixtures that outlive one test: a home that is not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        _move_home(patch, tmp_path_factory.mktemp("session-home"))
        yield


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A fresh, empty home for each test, outside its `tmp_path`."""
    _move_home(monkeypatch, tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Undo a change of torch's threads by an earlier test; a test that needs no torch does not import it."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    """The URL of a SQLite store that does not exist yet."""
    return f"sqlite:///{tmp_path / 'store.sqlite'}"


@pytest.fixture(scope="session")
def postgresql() -> Iterator["Server"]:
    """A PostgreSQL server of this session's own; skips where none is installed."""
    pytest.importorskip("psycopg", reason="the extra 'postgres' is not installed")
    from benchmarks.postgresql_server import binaries, new_server  # noqa: PLC0415 - imports psycopg

    programs = binaries()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed (initdb and pg_ctl)")
    folder = Path(tempfile.mkdtemp(prefix="nas-pg-"))  # not below pytest's folder, which is root's alone
    server = new_server(folder, programs)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture
def postgresql_url(postgresql: "Server") -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    name = f"test_{uuid.uuid4().hex}"
    yield postgresql.create(name)
    postgresql.drop(name)


@pytest.fixture(scope="session")
def empty_file(_session_home: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with nothing in it; only to be copied, which spares the migrations."""
    from nas.store import Store  # noqa: PLC0415

    file = tmp_path_factory.mktemp("empty") / "store.sqlite"
    Store.open(f"sqlite:///{file}").close()
    return file


@pytest.fixture(scope="session")
def postgresql_template(postgresql: "Server") -> str:
    """The name of a PostgreSQL database with an empty store, to be copied."""
    from nas.store import Store  # noqa: PLC0415

    Store.open(postgresql.create("template_store")).close()
    return "template_store"


@pytest.fixture(params=["sqlite", "postgresql"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path, empty_file: Path) -> Iterator[str]:
    """The URL of an empty store of each kind of database."""
    yield from _empty_store(request, tmp_path, empty_file)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def any_url_slowly(request: pytest.FixtureRequest, tmp_path: Path, empty_file: Path) -> Iterator[str]:
    """The same; with PostgreSQL the test is a slow one."""
    yield from _empty_store(request, tmp_path, empty_file)


def _empty_store(request: pytest.FixtureRequest, tmp_path: Path, empty_file: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{shutil.copyfile(empty_file, tmp_path / 'nas.db')}"
        return
    server, template = map(request.getfixturevalue, ("postgresql", "postgresql_template"))
    name = f"test_{uuid.uuid4().hex}"
    yield server.create(name, template)
    server.drop(name)


@pytest.fixture(scope="session")
def tiny_job(_session_home: None, tmp_path_factory: pytest.TempPathFactory) -> "JobHandle":
    """A real job that ran to its front, once for all tests; they only read it."""
    from tiny_job import run_tiny  # noqa: PLC0415 - imports torch

    return run_tiny(f"sqlite:///{tmp_path_factory.mktemp('tiny-job') / 'store.sqlite'}")


@pytest.fixture(scope="session")
def begun_generative(_session_home: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of the store of a generative job that was stopped when its search began; only to be copied."""
    from tiny_job import begin_generative  # noqa: PLC0415 - imports torch

    url = f"sqlite:///{tmp_path_factory.mktemp('begun') / 'store.sqlite'}"
    begin_generative(url)
    return url


@pytest.fixture(scope="session")
def generative_url(begun_generative: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of the store of the same job when it is finished; tests only read it."""
    from tiny_job import copied  # noqa: PLC0415 - imports torch

    from nas import pipeline  # noqa: PLC0415
    from nas.progress import Silent  # noqa: PLC0415
    from nas.store import Store  # noqa: PLC0415

    url = copied(begun_generative, tmp_path_factory.mktemp("finished") / "job")
    with Store.open(url) as store:
        pipeline.run(store, store.job("generative"), progress=Silent())
    return url


@pytest.fixture
def tiny_copy(tiny_job: "JobHandle", tmp_path: Path) -> str:
    """The URL of a copy of the tiny job's store, files included, that a test may change."""
    tiny_job.store.close()
    original = Path(tiny_job.store.url.removeprefix("sqlite:///")).parent
    return f"sqlite:///{shutil.copytree(original, tmp_path / 'copy') / 'store.sqlite'}"
