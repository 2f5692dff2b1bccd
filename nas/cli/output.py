"""What verbs print: data on stdout, everything else on stderr."""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from search_spaces.errors import NASError

INTERRUPTED = 130
# Columns of names, which are as long as whoever chose them liked; JSON and CSV have them whole.
NAMES = frozenset({"AGENT", "CPU", "DEVICE", "JOB", "STAGE", "SUBNET"})
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def emit(text: str) -> None:
    """Data for stdout; a reader who has gone away (`| head`) ends the program quietly."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


def emit_json(data: object) -> None:
    """One JSON document on stdout; moments become ISO 8601."""
    emit(json_text(data))


def json_text(data: object) -> str:
    """A JSON document as verbs print it and the server answers."""
    return json.dumps(data, indent=2, allow_nan=False, default=_moment)


def note(text: str, *, quiet: bool = False) -> None:
    """A line for the person in front of the terminal."""
    if not quiet:
        print(clean(text), file=sys.stderr, flush=True)


def note_error(message: str, hint: str) -> None:
    """What went wrong and what to do, on stderr."""
    note(f"Error: {message}")
    if hint:
        note(f"Hint: {hint}")


def end_process(stopped: str, error: "NASError | None") -> NoReturn:
    """Ends this process at once, whatever it is at. stopped: what is said when there is no error."""
    if error is None:
        note(stopped)
    else:
        note_error(error.message, error.hint)
    sys.stdout.flush()
    os._exit(INTERRUPTED if error is None else error.exit_code)


@contextmanager
def interruptible(stopped: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end what is inside, with all that it started, whatever it is at."""
    from nas.watchdog import graceful_stop

    with graceful_stop(end=partial(end_process, stopped), at_once=True):
        try:
            yield
        except KeyboardInterrupt:
            note(stopped)
            raise


def emit_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()
) -> None:
    """Rows under a header line; `right` names the columns that are aligned to the right.

    Names are cut in the middle to what a table can hold.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    from nas.store.values import shortened

    for row in rows:
        texts = [clean("–" if cell is None else str(cell), newlines=False) for cell in row]
        pairs = zip(columns, texts, strict=True)
        table.add_row(*(shortened(text) if column in NAMES else text for column, text in pairs))
    # Data that goes into a pipe must not be cut to the width of a terminal.
    console = Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 1000)
    with console.capture() as capture:
        console.print(table)
    emit("\n".join(line.rstrip() for line in capture.get().splitlines()))


def heading(name: str) -> str:
    """The name of a quantity or a field above its column."""
    return name.upper().replace("_", " ")


def emit_pairs(pairs: Mapping[str, object]) -> None:
    """`key: value` lines, the values aligned."""
    width = max(map(len, pairs), default=0) + 2
    lines = (
        f"{key + ':':<{width}}{clean('–' if value is None else str(value), newlines=False)}"
        for key, value in pairs.items()
    )
    emit("\n".join(lines))


def clean(text: str, *, newlines: bool = True) -> str:
    """The text without the characters that steer a terminal."""
    text = CONTROL.sub("?", text)
    return text if newlines else " ".join(text.split("\n"))


def amount(count: float | None) -> str | None:
    """A count in three digits: 86.6 M."""
    if count is None:
        return None
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(count) >= 0.9995 * size:
            return f"{count / size:.3g} {unit}" if count < 999.5 * size else f"{count / size:,.0f} {unit}"
    return f"{count:,.0f}"


def with_error(value: float | None, error: float | None, *, percent: bool = False) -> str | None:
    """A value and its uncertainty in as many digits: `91.3 ± 0.4 %`, `1.87 ± 0.04`."""
    if value is None:
        return None
    if percent:
        return f"{100 * value:.1f} %" if error is None else f"{100 * value:.1f} ± {100 * error:.1f} %"
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def is_share(metric: str) -> bool:
    """Whether a metric is shown in percent."""
    return metric.endswith("accuracy")


def seconds(value: float | None) -> str | None:
    """A duration: 4.2 s, 3 min 20 s, 2 h 05 min."""
    if value is None:
        return None
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _moment(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
