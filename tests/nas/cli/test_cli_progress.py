"""Progress on stderr: lines in a log, bars in a terminal, nothing when quiet."""

import io
import sys

import pytest

from nas.cli.output import amount, clean, seconds, with_error
from nas.cli.terminal import progress as cli_progress
from nas.cli.terminal.progress import shown_progress
from nas.progress import Silent


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_lines_are_few(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(cli_progress.time, "monotonic", lambda: clock[0])
    with shown_progress(quiet=False) as progress:
        progress.stage("train")
        for step in range(1, 101):
            clock[0] += 0.25
            progress.update(step, 200, loss=1 / step)
        progress.stage("search")
        progress.warn("odd")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "train: begins",
        "train: 40 of 200, about 40.0 s left, loss 0.025",
        "train: 80 of 200, about 30.0 s left, loss 0.0125",
        "train: done in 25.0 s, loss 0.01",
        "search: begins",
        "Warning: odd",
        "search: done in 0.0 s",
    ]


def test_a_stage_that_breaks_is_not_done(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        with shown_progress(quiet=False) as progress:
            progress.stage("train")
            progress.update(0, 0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert capsys.readouterr().err == "train: begins\n"


def test_bars_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with shown_progress(quiet=False) as progress:
        progress.update(1, 3)
        progress.stage("train[/]")
        progress.update(5, 10, loss=0.5)
        progress.stage("search")
        progress.update(2, 4, hypervolume=0.875)
        progress.warn("[odd]")
    shown = terminal.getvalue()
    assert all(
        words in shown
        for words in ("train[/]", "5/10", "loss 0.5", "2/4", "hypervolume 0.875", "Warning: [odd]")
    )


def test_quiet_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress(quiet=True) as progress:
        assert isinstance(progress, Silent)
        progress.stage("train")
        progress.update(1, 2, loss=1.0)
        progress.warn("odd")
    assert capsys.readouterr() == ("", "")


def test_numbers_in_words() -> None:
    assert [amount(n) for n in (None, 0, 999, 1000, 86_567_656, 17_563_828_224)] == [
        *(None, "0", "999", "1 k", "86.6 M", "17.6 G"),
    ]
    assert [seconds(s) for s in (None, 4.21, 200, 7500)] == [None, "4.2 s", "3 min 20 s", "2 h 05 min"]
    assert with_error(0.9134, 0.0041, percent=True) == "91.3 ± 0.4 %"
    assert with_error(1.8712, None) == "1.871"
    assert clean("a\x1b[31m\r\nb\tc", newlines=False) == "a?[31m? b\tc"
