"""Progress on stderr: a bar in a terminal, now and then a line in a log."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from nas.cli._output import clean, note, seconds
from nas.pace import Pace
from nas.progress import Progress, Silent

LINE_SECONDS = 10.0


@contextmanager
def shown_progress(*, quiet: bool) -> Iterator[Progress]:
    """A `Progress` for as long as a job runs."""
    if quiet:
        yield Silent()
    elif sys.stderr.isatty():
        with _bars() as bars:
            yield bars
    else:
        lines = Lines()
        yield lines
        lines.end()


class Lines:
    """A line when a stage begins and when it ends, and at most one in ten seconds between."""

    def __init__(self) -> None:
        self._name = ""
        self._began = self._told = 0.0
        self._pace = Pace()
        self._info = ""

    def stage(self, name: str) -> None:
        """See `Progress`."""
        self.end()
        self._name, self._info = name, ""
        self._began = self._told = time.monotonic()
        self._pace = Pace()
        note(f"{name}: begins")

    def update(self, done: int, total: int, **info: object) -> None:
        """See `Progress`."""
        self._info = _words(info)
        now = time.monotonic()
        left = self._pace.left(now, done, total)
        if now - self._told < LINE_SECONDS:
            return
        self._told = now
        words = "" if left is None else f", about {seconds(left)} left"
        note(f"{self._name}: {done} of {total}{words}{self._info}")

    def warn(self, message: str) -> None:
        """See `Progress`."""
        note(f"Warning: {message}")

    def end(self) -> None:
        """The stage is over."""
        if self._name:
            note(f"{self._name}: done in {seconds(time.monotonic() - self._began)}{self._info}")
        self._name = ""


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as Display

    with Display(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        TextColumn("{task.fields[info]}", markup=False),
        console=Console(stderr=True),
    ) as display:

        class Bars:
            """One bar a stage; a finished stage keeps its own."""

            def __init__(self) -> None:
                self._pace = Pace()

            def stage(self, name: str) -> None:
                self._pace = Pace()
                for task in display.tasks:
                    display.stop_task(task.id)
                display.add_task(name, total=None, info="", left="")

            def update(self, done: int, total: int, **info: object) -> None:
                task = display.tasks[-1].id if display.tasks else display.add_task("", info="", left="")
                left = self._pace.left(time.monotonic(), done, total)
                display.update(
                    task,
                    completed=done,
                    total=total,
                    info=_words(info).removeprefix(", "),
                    left="" if left is None else f"about {seconds(left)} left",
                )

            def warn(self, message: str) -> None:
                display.console.print(clean(f"Warning: {message}"), markup=False, highlight=False)

        yield Bars()


def _words(info: Mapping[str, object]) -> str:
    shown = (
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in info.items()
    )
    return "".join(f", {text}" for text in shown)
