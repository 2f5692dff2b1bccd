"""Paths in a job: absolute from the time when it is made."""

from pathlib import Path

import pytest

from nas import jobs
from nas.config import checked_config, load_config, merged
from nas.config.paths import located, with_absolute_paths
from search_spaces.errors import UsageError

FILE = """
data: {name: image_folder, root: images}
supernet: {family: stitching, init: {anchors: [{checkpoint: small}, {timm: "local-dir:large"}, {timm: vit}]}}
train: {teacher: {timm: "local-dir:teacher"}}
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def test_paths_of_a_file_are_taken_from_its_folder(tmp_path, elsewhere) -> None:
    (tmp_path / "job.yaml").write_text(FILE)
    told = merged(load_config(Path("../job.yaml"), environment={}))
    base = Path("../job.yaml").absolute().parent
    assert told["data"]["root"] == str(base / "images")
    small, large, hub = told["supernet"]["init"]["anchors"]
    assert small["checkpoint"] == str(base / "small")
    assert large["timm"] == f"local-dir:{base / 'large'}"
    assert hub["timm"] == "vit"
    assert told["train"]["teacher"]["timm"] == f"local-dir:{base / 'teacher'}"


@pytest.mark.parametrize(("key", "text"), [("hf", "model"), ("gguf", "model.gguf"), ("checkpoint", "net")])
def test_weights_to_begin_with_are_taken_from_the_folder_of_the_file(key, text, tmp_path) -> None:
    tree = {"supernet": {"init": {key: text}}}
    assert with_absolute_paths(tree, tmp_path)["supernet"]["init"] == {key: str(tmp_path / text)}


def test_a_package_is_no_path(tmp_path) -> None:
    tree = {"supernet": {"init": {"gguf": "package:model"}}}
    assert with_absolute_paths(tree, tmp_path) == tree


def test_paths_of_the_command_line_are_taken_from_here(tmp_path, elsewhere) -> None:
    (tmp_path / "job.yaml").write_text(FILE)
    config = load_config(tmp_path / "job.yaml", ["data.root=mine"], environment={})
    assert config.data.options["root"] == str(elsewhere / "mine")


def test_a_job_made_of_a_tree_keeps_absolute_paths(store, elsewhere, monkeypatch) -> None:
    config = checked_config({"data": {"name": "image_folder", "root": "images"}}, where="The config")
    assert config.data.options["root"] == "images"
    monkeypatch.setattr(jobs, "provenance", dict)
    job = jobs.create(store, config, name="job")
    assert job.config["data"]["root"] == str(elsewhere / "images")


def test_an_old_job_is_looked_for_from_here(elsewhere) -> None:
    tree = {"data": {"name": "image_folder", "root": "./images"}, "supernet": {"init": {"checkpoint": "a"}}}
    config = located(checked_config(tree, where="The config"))
    assert config.data.options["root"] == str(elsewhere / "images")
    assert config.supernet.init.checkpoint == "a"  # its stages know what they were made from by it


@pytest.mark.parametrize(
    "tree", [{"data": 3}, {"data": {"root": 3}}, {"supernet": {"init": {"anchors": 1}}}, {}]
)
def test_what_is_no_path_is_left_for_others_to_judge(tree: dict[str, object]) -> None:
    assert with_absolute_paths(tree, Path("/base")) == tree


def test_home_and_absolute_paths_stay_what_they_are(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for given, expected in {"~/images": "/home/me/images", "/a/b": "/a/b", "": ""}.items():
        assert with_absolute_paths({"data": {"root": given}}, tmp_path)["data"]["root"] == expected


def test_a_job_file_that_is_a_pipe_is_not_waited_for(tmp_path) -> None:
    import os  # noqa: PLC0415 - for this alone

    os.mkfifo(tmp_path / "job.yaml")
    with pytest.raises(UsageError, match="named pipe"):
        load_config(tmp_path / "job.yaml", environment={})
