"""Running `nas` inside the test's process, over stores that were filled through the store's own interface."""

import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from filled_store import failed_job, finished_job
from running import Nas, Ran

from nas.cli import main
from nas.store import Store


@pytest.fixture
def run_nas(capsys: pytest.CaptureFixture[str]) -> Nas:
    """Runs a command line; the streams are those of this run alone."""

    def run(*words: object) -> Ran:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def filled_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the finished job `first` and the failed job `second`, to be copied."""
    file = tmp_path_factory.mktemp("filled") / "store.sqlite"
    with Store.open(f"sqlite:///{file}") as store:
        finished_job(store, "first")
        failed_job(store, "second", "boom \x1b[31m")
    return file


@pytest.fixture
def filled(filled_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of the default store of this test, a copy of `filled_file`."""
    url = f"sqlite:///{shutil.copy(filled_file, tmp_path)}"
    monkeypatch.setenv("NAS_STORE", url)
    return url


@pytest.fixture
def unfinished(filled: str) -> str:
    """As `filled`, but the job `first` was stopped before its end."""
    with Store.open(filled) as store, store.acquire(store.job("first")) as lease:
        lease.finish("stopped")
    return filled


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., SimpleNamespace]:
    """Replaces a module of `nas` by the given functions."""

    def replace(name: str, **functions: object) -> SimpleNamespace:
        module = ModuleType(f"nas.{name}")
        module.__dict__.update(functions)
        package, _, leaf = module.__name__.rpartition(".")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(importlib.import_module(package), leaf, module, raising=False)
        return SimpleNamespace(**functions)

    return replace
