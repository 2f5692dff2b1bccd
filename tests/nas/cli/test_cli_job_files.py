"""`nas init` and `nas schema`: a first job file that validates, whatever it is about."""

import io
import json
import sys
from pathlib import Path

import pytest
from image_trees import make_tree, save
from running import Nas

from nas.config import JobConfig, load_config
from nas.config.described.json_schema import FILE

LINE = f"# yaml-language-server: $schema={FILE}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images, texts and models below the current folder."""
    monkeypatch.chdir(tmp_path)
    make_tree(tmp_path / "images", per_class=12)
    (tmp_path / "texts").mkdir()
    for number in range(40):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"The text of number {number}. " * 100)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "config.json").write_text(json.dumps({"elastiform": {}}))
    return tmp_path


def written(folder: Path, name: str = "job.yaml") -> JobConfig:
    assert (folder / name).read_text("utf-8").startswith(LINE)
    return load_config(folder / name, environment={})


def test_a_job_file_about_images_validates(folder: Path, run_nas: Nas) -> None:
    ran = run_nas("init", "images", "--yes")
    assert (ran.code, ran.out) == (0, "job.yaml\n")
    assert "36 images of 3 classes in 'images'" in ran.err
    config = written(folder)
    assert (config.name, config.data.name, config.budget) == ("images", "image_folder", 1800.0)
    assert config.data.options == {"root": str(folder / "images"), "image_size": 32}
    assert "root: ./images" in (folder / "job.yaml").read_text("utf-8")
    assert run_nas("validate", "job.yaml").code == 0


def test_a_job_file_about_texts_validates(folder: Path, run_nas: Nas) -> None:
    assert run_nas("init", "texts", "--yes", "-o", "texts.yaml").code == 0
    config = written(folder, "texts.yaml")
    assert (config.supernet.family, config.quality) == ("matlm", "bits_per_byte")
    assert run_nas("validate", "texts.yaml").code == 0


def test_without_anything_it_is_about_digits(folder: Path, run_nas: Nas) -> None:
    assert run_nas("init", "--yes").code == 0
    assert written(folder).data.name == "digit_pairs"


@pytest.mark.parametrize(
    ("words", "init"),
    [
        (("model.gguf",), {"gguf": "model.gguf"}),
        (("llama",), {"hf": "llama"}),
        (("llama", "--data", "texts"), {"hf": "llama"}),
        (("ours", "--data", "images"), {"checkpoint": "ours"}),
    ],
)
def test_it_begins_with_a_model(
    folder: Path, run_nas: Nas, words: tuple[str, ...], init: dict[str, str]
) -> None:
    assert run_nas("init", *words, "--yes").code == 0
    config = written(folder)
    kind, place = next(iter(init.items()))
    assert getattr(config.supernet.init, kind) == str(folder / place)
    is_language = config.supernet.family == "matlm"
    assert (config.train.steps == 0) == is_language
    assert (config.budget is None) == is_language


def test_it_begins_with_a_model_of_timm(folder: Path, run_nas: Nas) -> None:
    assert run_nas("init", "vit_tiny_patch16_224", "--data", "images", "--yes").code == 0
    assert written(folder).supernet.init.timm == "vit_tiny_patch16_224"


def test_it_asks_five_questions_and_again_where_the_answer_is_none(
    folder: Path, run_nas: Nas, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ["yes", "nowhere", "onnxruntime_cpu", "0", "4", "fast", "20", "soon", "10min"]
    stdin = io.StringIO("\n".join(answers) + "\n")
    stdin.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", stdin)
    ran = run_nas("init", "images")
    assert (ran.code, ran.out, stdin.read()) == (0, "job.yaml\n", "")
    config = written(folder)
    assert config.supernet.init.timm == "vit_tiny_patch16_224"
    assert config.devices["target"].backend == "onnxruntime_cpu"
    assert config.devices["target"].batch == 4
    assert (config.constraints, config.budget) == (("latency_ms<=20",), 600.0)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("nix",), 2, "no file, no folder and no model of timm"),
        (("./nix",), 2, "There is no file or folder './nix'"),
        (("vit_tiny_patch16_224",), 2, "Give a folder of them: --data FOLDER"),
        (("vit_tiny_patch16_224", "--data", "texts"), 2, "is a model for images"),
        (("llama", "--data", "images"), 2, "is a language model"),
        (("images", "--data", "images"), 2, "is no model"),
        (("empty",), 2, "holds no images"),
        (("images", "-o", "none/job.yaml"), 2, "cannot be written"),
        (("images", "-o", "texts/1.txt"), 4, "is there already"),
    ],
)
def test_what_no_job_can_begin_with(
    folder: Path, run_nas: Nas, words: tuple[str, ...], code: int, says: str
) -> None:
    (folder / "empty").mkdir()
    ran = run_nas("init", *words, "--yes")
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err
    assert not (folder / "job.yaml").exists()


def test_nobody_is_asked_who_cannot_answer(folder: Path, run_nas: Nas) -> None:
    ran = run_nas("init", "images")
    assert ran.code == 2
    assert "--yes" in ran.err


def test_names_that_yaml_reads_otherwise_are_kept(folder: Path, run_nas: Nas) -> None:
    for name in ("yes", "it's: #1"):
        save(folder / name / "a" / "1.png", seed=1)
        save(folder / name / "b" / "1.png", seed=2)
        assert run_nas("init", name, "--yes", "-o", f"{len(name)}.yaml").code == 0
        config = written(folder, f"{len(name)}.yaml")
        assert (config.name, config.data.options["root"]) == (name, str(folder / name))


def test_the_schema_is_printed_and_its_place(run_nas: Nas) -> None:
    assert run_nas("schema").out == FILE.read_text("utf-8")
    assert run_nas("schema", "--path").out == f"{FILE}\n"
