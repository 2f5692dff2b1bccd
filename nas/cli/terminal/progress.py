"""Progress on stderr: a bar in a terminal, now and then a line in a log."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nas.cli.output import clean, note, seconds
from nas.progress import Pace, Progress, Silent

if TYPE_CHECKING:
    from rich.progress import Progress as Display

LINE_SECONDS = 10.0
Whole = Callable[[float | None], float | None]


@contextmanager
def shown_progress(*, quiet: bool, whole: Whole = lambda _: None) -> Iterator[Progress]:
    """A `Progress` for as long as a job runs. whole: its seconds left, from those of the stage."""
    if quiet:
        yield Silent()
    elif sys.stderr.isatty():
        with _bars(whole) as bars:
            yield bars
    else:
        lines = Lines(whole)
        yield lines
        lines.end()


class Lines:
    """A line when a stage begins and when it ends, and at most one in ten seconds between."""

    def __init__(self, whole: Whole = lambda _: None) -> None:
        self._whole = whole
        self._name = ""
        self._began = self._printed = 0.0
        self._pace = Pace()
        self._info = ""

    def stage(self, name: str) -> None:
        """See `Progress`."""
        self.end()
        self._name, self._info = name, ""
        self._began = self._printed = time.monotonic()
        self._pace = Pace()
        note(f"{name}: begins")

    def update(self, done: int, total: int, **info: object) -> None:
        """See `Progress`."""
        self._info = _words(info)
        now = time.monotonic()
        left = self._pace.left(now, done, total)
        if now - self._printed < LINE_SECONDS:
            return
        self._printed = now
        words = ("" if left is None else f", about {seconds(left)} left") + _of_job(self._whole(left))
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
def _bars(whole: Whole) -> Iterator[Progress]:
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
        yield _Bars(display, whole)


class _Bars:
    """One bar a stage; a finished stage keeps its own."""

    def __init__(self, display: "Display", whole: Whole) -> None:
        self._display, self._pace, self._whole = display, Pace(), whole
        self._of_job, self._asked = "", -LINE_SECONDS

    def stage(self, name: str) -> None:
        self._pace = Pace()
        for task in self._display.tasks:
            self._display.stop_task(task.id)
        self._display.add_task(name, total=None, info="", left="")

    def update(self, done: int, total: int, **info: object) -> None:
        tasks = self._display.tasks
        task = tasks[-1].id if tasks else self._display.add_task("", info="", left="")
        now = time.monotonic()
        left = self._pace.left(now, done, total)
        if now - self._asked >= LINE_SECONDS:
            self._of_job, self._asked = _of_job(self._whole(left)), now
        self._display.update(
            task,
            completed=done,
            total=total,
            info=_words(info).removeprefix(", "),
            left=(("" if left is None else f", about {seconds(left)} left") + self._of_job).removeprefix(
                ", "
            ),
        )

    def warn(self, message: str) -> None:
        self._display.console.print(clean(f"Warning: {message}"), markup=False, highlight=False)


def _of_job(left: float | None) -> str:
    return "" if left is None else f", the job {seconds(left)}"


def _words(info: Mapping[str, object]) -> str:
    shown = (
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in info.items()
    )
    return "".join(f", {text}" for text in shown)
