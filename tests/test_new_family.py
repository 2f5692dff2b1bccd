"""A family is its files: a copy of one under a new name passes all contracts, with no other file changed."""

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_contracts as contracts

import search_spaces
from search_spaces.registry import load, names

ROOT = Path(__file__).parents[1]
ORIGINAL, COPY = "matformer", "newformer"
FOLDERS = ("search_spaces.families", "supernet.families")
PACKAGES = ("dashboards", "nas", "predictors", "search_spaces", "supernet")
# Contracts of all families together, beside those of the copy alone.
OF_ALL = ("every_family", "folders_with_components", "two_networks")
JOB = f"""
import nas
from tiny_job import CONFIG

if __name__ == "__main__":  # processes that evaluate import this file
    section = CONFIG["supernet"] | {{"family": "{COPY}"}}
    job = nas.run(CONFIG | {{"supernet": section, "constraints": []}}, store="sqlite:///store.sqlite")
    print(job.extract(job.front().members[0].subnet).config)
"""


def copied(package: str) -> str:
    """The file of the original as a file of the copy."""
    source = load(package, ORIGINAL).__file__
    assert source is not None
    return Path(source).read_text(encoding="utf-8").replace(ORIGINAL, COPY)


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The copy in the listings of both folders, while the test runs."""
    for package in FOLDERS:
        folder = importlib.import_module(package)
        added = tmp_path / package
        added.mkdir()
        (added / f"{COPY}.py").write_text(copied(package), encoding="utf-8")
        monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(added)])
    yield
    contracts.built.cache_clear()
    for package in FOLDERS:
        del sys.modules[f"{package}.{COPY}"]
        delattr(importlib.import_module(package), COPY)


@pytest.mark.usefixtures("listed")
def test_two_files_are_a_family(tmp_path: Path) -> None:
    assert all(COPY in names(package) for package in FOLDERS)
    assert {COPY, f"{COPY}_vit_b16"} <= set(search_spaces.names())
    for package in FOLDERS:
        contracts.test_a_component_offers_one_documented_function(package, COPY)
    contracts.test_a_family_refuses_a_network_that_it_cannot_nest_or_join(COPY)
    laws = (
        contracts.test_an_exported_folder_loads_and_gives_the_same_outputs,
        contracts.test_a_subnet_is_what_another_job_begins_with,
    )
    for number, law in enumerate(laws):
        (tmp_path / f"law{number}").mkdir()
        law(COPY, tmp_path / f"law{number}")


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages and of the tests that contracts need, with the two files of the new family."""
    root = tmp_path_factory.mktemp("overlay")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "tests" / "search_spaces").mkdir(parents=True)
    for file in ("conftest.py", "tiny_job.py", "made_spaces.py", "test_contracts.py"):
        shutil.copy(ROOT / "tests" / file, root / "tests")
    shutil.copy(ROOT / "tests" / "search_spaces" / "test_spaces.py", root / "tests" / "search_spaces")
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, root)
    for package in FOLDERS:
        (root / package.replace(".", "/") / f"{COPY}.py").write_text(copied(package), encoding="utf-8")
    return root


def run(root: Path, *command: str) -> str:
    """What the command writes, in the copy of the packages."""
    paths = os.pathsep.join([str(root), str(root / "tests")])
    done = subprocess.run(
        [sys.executable, *command],
        cwd=root,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_copy_passes_all_contracts(overlay: Path) -> None:
    tests = ("tests/test_contracts.py", "tests/search_spaces/test_spaces.py")
    words = " or ".join((COPY, *OF_ALL))
    listing = run(overlay, "-m", "pytest", "-v", "-p", "no:cacheprovider", *tests, "-k", words)
    passed = [line for line in listing.splitlines() if "PASSED" in line]
    assert len([line for line in passed if COPY in line]) >= 30
    assert all(any(word in line for line in passed) for word in OF_ALL)
    assert "FAILED" not in listing


@pytest.mark.slow
def test_a_job_of_a_copy_reaches_its_front(overlay: Path) -> None:
    (overlay / "job.py").write_text(JOB, encoding="utf-8")
    assert "embed_dim" in run(overlay, "job.py")
