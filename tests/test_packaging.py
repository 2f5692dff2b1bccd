"""The import names are generic: the wheel holds exactly the five and nothing else claims any of them."""

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = {"nas", "search_spaces", "predictors", "supernet", "dashboards"}
LEFT_BEHIND = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "runs", "subnets")


def claims() -> dict[str, set[str]]:
    """For each of the five names, the installed distributions that bring a package of that name."""
    found = packages_distributions()
    return {name: set(found.get(name, ())) for name in NAMES}


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The paths in a wheel that is built, offline, from a copy of the whole tree."""
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(ROOT, folder / "source", ignore=LEFT_BEHIND)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    ran = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=source, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    (wheel,) = folder.glob("elastiform-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_wheel_holds_exactly_the_five_names(wheel_files: set[str]) -> None:
    top = {path.split("/")[0] for path in wheel_files}
    assert {name for name in top if not name.endswith(".dist-info")} == NAMES


def test_wheel_holds_every_file_of_the_five_packages(wheel_files: set[str]) -> None:
    here = {
        path.relative_to(ROOT).as_posix()
        for name in NAMES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert here - wheel_files == set()


def test_wheel_offers_the_command_and_the_licence(wheel_files: set[str]) -> None:
    names = {path.split(".dist-info/")[1] for path in wheel_files if ".dist-info/" in path}
    assert {"entry_points.txt", "licenses/LICENSE"} <= names


def test_no_other_distribution_claims_the_five_names() -> None:
    assert claims() == {name: {"elastiform"} for name in NAMES}


def test_a_second_claim_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    intruder = tmp_path / "intruder-1.0.dist-info"
    intruder.mkdir()
    (intruder / "METADATA").write_text("Metadata-Version: 2.1\nName: intruder\nVersion: 1.0\n")
    (intruder / "top_level.txt").write_text("predictors\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert claims()["predictors"] == {"elastiform", "intruder"}
