"""What a shell completes, and what `nas` says where nothing has run."""

from pathlib import Path

import pytest
from running import Nas

BEGINS = "Nothing has run here yet. To begin:"


def completed(
    capsys: pytest.CaptureFixture[str], run_nas: Nas, monkeypatch: pytest.MonkeyPatch, line: str
) -> list[str]:
    """What bash is offered for the last word of a command line, which may be empty."""
    monkeypatch.setenv("_NAS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    with pytest.raises(SystemExit):
        run_nas()
    monkeypatch.delenv("_NAS_COMPLETE")
    return capsys.readouterr().out.split()


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("nas show ", ["second", "first"]),
        ("nas front fi", ["first"]),
        ("nas compare first se", ["second"]),
        ("nas submit a.yaml --after s", ["second"]),
        ("nas front first --device ", ["cpu-1-thread"]),
        ("nas devices measure cpu", ["cpu-1-thread"]),
        ("nas explain second ", []),
        ("nas explain nobody ", []),
        ("nas device-agent pi --backend torch_cp", ["torch_cpu"]),
        ("nas extract first --format onnx,op", ["onnx,openvino"]),
        ("nas spaces show matformer_vit_b", ["matformer_vit_b16"]),
        ("nas val", ["validate"]),
    ],
)
def test_a_shell_completes(
    capsys: pytest.CaptureFixture[str],
    run_nas: Nas,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    offered: list[str],
) -> None:
    assert completed(capsys, run_nas, monkeypatch, line) == offered


@pytest.mark.usefixtures("filled")
def test_a_shell_completes_the_subnets_of_the_job(
    capsys: pytest.CaptureFixture[str], run_nas: Nas, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = {row.split()[0] for row in run_nas("front", "first").out.splitlines()[1:] if row}
    offered = completed(capsys, run_nas, monkeypatch, "nas extract first --subnet ")
    assert len(front & set(offered)) > 5


def test_a_store_that_cannot_be_read_disturbs_no_shell(
    capsys: pytest.CaptureFixture[str], run_nas: Nas, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken.db").write_text("no database")
    monkeypatch.setenv("NAS_STORE", f"sqlite:///{tmp_path / 'broken.db'}")
    assert completed(capsys, run_nas, monkeypatch, "nas show ") == []
    assert BEGINS not in run_nas().out


def test_nas_alone_says_how_to_begin_where_nothing_has_run(
    run_nas: Nas, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NAS_STORE", f"sqlite:///{tmp_path / 'none.db'}")
    ran = run_nas()
    assert ran.out.startswith(BEGINS)
    assert "nas init" in ran.out
    assert not (tmp_path / "none.db").exists()


@pytest.mark.usefixtures("filled")
def test_nas_alone_says_no_more_than_help_where_jobs_are(run_nas: Nas) -> None:
    assert run_nas().out == run_nas("--help").out
