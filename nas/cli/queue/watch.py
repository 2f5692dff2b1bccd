"""`nas watch`: what runs and what waits, or how far one job is, again and again."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.options import AsJSON, StoreURL, store_url
from nas.cli.output import amount, clean, emit, emit_json, heading, is_share, seconds, with_error
from nas.cli.queue.turns import Turns, place
from nas.cli.queue.work import worker_rows
from nas.cli.stored import names

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nas.store import Job, Store

LOOK_SECONDS = 1.0
SAY_SECONDS = 10.0  # between two lines about the progress of one job, where nothing else has changed
ENDED = ("succeeded", "failed", "stopped")
TAIL = 12  # lines of a log that are shown
MOST_ROWS = 20  # of a table in a terminal
LONGEST_CELL = 100
OTHER_LINES = 8  # of what is shown of a job beside its front and its log
View = dict[str, Any]


def watch(
    ctx: typer.Context,
    job: Annotated[
        str | None,
        typer.Argument(
            metavar="JOB", show_default=False, help="A job's name or number.", autocompletion=names.jobs
        ),
    ] = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Watch the queue, or one job until it ends; Ctrl-C ends only this. --json prints this moment alone.

    \b
    Examples:
      nas watch
      nas watch JOB
    """
    from nas.errors import JobFailedError
    from nas.store import Store

    with Store.open(store_url(store), read_only=True) as opened:
        stored = None if job is None else opened.job(job)
        look = Overview(opened).look if stored is None else JobView(opened, stored.id).look
        if as_json:
            emit_json(look())
            return
        last = _live(look) if sys.stdout.isatty() else _lines(look)
    if last["state"] != "succeeded":
        error = f": {last['error'].rstrip('.')}" if last["error"] else ""
        raise JobFailedError(
            f"Job '{last['job']}' ({last['id']}) has {last['state']}{error}.",
            f"`nas logs {last['id']}` tells what it said.",
        )


class Overview:
    """All that runs and waits in a store."""

    def __init__(self, opened: "Store") -> None:
        self._opened = opened

    def look(self) -> View:
        """The moment as plain data; `ended` is never true."""
        opened, turns = self._opened, Turns.of(self._opened)
        jobs = [job for job in opened.jobs() if job.state == "running" or job.id in turns.positions]
        waiting = [job for job in jobs if job.id in turns.positions]
        return {
            "running": [_running(opened, job, turns) for job in jobs if job.state == "running"],
            "waiting": [
                {"id": job.id, "job": job.name, **place(job, turns)}
                for job in sorted(waiting, key=lambda job: turns.positions[job.id])
            ],
            "workers": worker_rows(opened),
            "ended": False,
        }


class JobView:
    """One job of a store."""

    def __init__(self, opened: "Store", job_id: int) -> None:
        self._opened, self._job_id = opened, job_id
        self._front_of: tuple[int, str] | None = None
        self._front: list[View] = []
        self._log: list[View] = []
        self._last_line = 0

    def look(self) -> View:
        """The moment as plain data. log: the last lines at first, and all since.  ended: that was all."""
        from nas.results.running.front_so_far import front_so_far

        opened, job = self._opened, self._opened.job(self._job_id)
        turns, count = Turns.of(opened), opened.evaluation_count(job)
        if self._front_of != (count, job.state):  # it is read anew only where it can be another one
            self._front_of, self._front = (count, job.state), front_so_far(opened, job)
        lines = opened.log(job, after=self._last_line)
        if not self._last_line:
            lines = lines[-TAIL:]
        self._last_line = lines[-1].id if lines else self._last_line
        self._log += [{"id": line.id, "attempt": line.attempt, "text": line.text} for line in lines]
        return {
            **_running(opened, job, turns),
            "state": job.state,
            "error": job.error,
            "queue": None if job.submitted_at is None else place(job, turns),
            "evaluations": count,
            "front": self._front,
            "log": self._log,
            "ended": job.state in ENDED and not job.paused,
        }


def _running(opened: "Store", job: "Job", turns: Turns) -> View:
    """How far a job is, as plain data."""
    from nas.results.running.stage_progress import stage_progress
    from nas.results.running.time_left import time_left
    from nas.store.leases import whose

    now = stage_progress(opened, job)
    return {
        "id": job.id,
        "job": job.name,
        "live": job.state == "running" and opened.is_live(job),
        "now": now and now.to_dict() | {"words": now.words},
        "seconds_left": time_left(opened, job),
        "worker": None if job.owner is None else whose(job.owner),
        "reason": turns.reasons.get(job.id),
    }


def _live(look: Callable[[], View]) -> View:
    """Shows what there is to see in a terminal until it has ended; the last of it."""
    from rich.console import Console
    from rich.live import Live

    console = Console(markup=False, highlight=False, emoji=False)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            view = look()
            live.update(_drawn(view, console.width, console.height), refresh=True)
            if view["ended"]:
                return view
            time.sleep(LOOK_SECONDS)


def _lines(look: Callable[[], View]) -> View:
    """Prints a line for whatever has changed until it has ended; the last of it."""
    said: dict[str, tuple[str, float]] = {}
    while True:
        view = look()
        for key, text, changing in _sayings(view):
            before, moment = said.get(key, ("", 0.0))
            is_due = changing is None or time.monotonic() - moment >= SAY_SECONDS
            if text != before and is_due:
                said[key] = (text, time.monotonic())
                emit(clean(text if changing is None else f"{text}{changing}", newlines=False))
        if view["ended"]:
            return view
        time.sleep(LOOK_SECONDS)


def _sayings(view: View) -> Iterator[tuple[str, str, str | None]]:
    """What can be said: about what, the words, and of what changes all the time the rest of them."""
    for row in view.get("running", [view]):
        name = f"Job '{row['job']}' ({row['id']})"
        about = f"now {row['id']} {row.get('state')} {(row['now'] or {}).get('stage')}"
        yield about, f"{name}: {_now_words(row)}", _left_words(row)
        if row["reason"]:
            yield f"reason {row['id']}", f"{name}: {row['reason']}", None
    for row in view.get("waiting", ()):
        reason = f": {row['reason']}" if row["reason"] else ""
        yield (
            f"waits {row['id']}",
            f"Job '{row['job']}' ({row['id']}) waits at position {row['position']}{reason}",
            None,
        )
    if "workers" in view:
        busy = sum(row["id"] is not None for row in view["workers"])
        idle = len(view["workers"]) - busy
        yield "workers", f"Jobs that workers run: {busy}; workers that run none: {idle}", None
    for line in view.get("log", ()):
        yield f"log {line['id']}", line["text"], None
    if view["ended"]:
        for number, row in enumerate(_front_rows(view)[1]):
            yield f"front {number}", "  ".join(map(str, row)), None
        yield "end", f"Job '{view['job']}' ({view['id']}) has {view['state']}.", None


def _now_words(row: View) -> str:
    if row.get("state", "running") != "running":
        queue = row.get("queue")
        where = f" at position {queue['position']}" if queue and queue["position"] else ""
        return "paused" if queue and queue["paused"] else f"{row['state']}{where}"
    words = row["now"]["words"] if row["now"] else "begins"
    return words if row["live"] else f"interrupted, {words}"


def _left_words(row: View) -> str:
    parts = [(row["now"] or {}).get("seconds_left"), row["seconds_left"]]
    stage, whole = (None if part is None else seconds(part) for part in parts)
    return (f", about {stage} left" if stage else "") + (f", the job {whole}" if whole else "")


def _front_rows(view: View) -> tuple[list[str], list[list[str]]]:
    """The front as a table: its heads, and its rows."""
    from nas.results.running.front_so_far import FACTS
    from nas.store.values import shortened

    front = view.get("front") or []
    costs = [name for name in (front[0] if front else ()) if name not in FACTS]
    heads = ["SUBNET", heading(front[0]["metric"]) if front else "QUALITY", *map(heading, costs)]
    rows = [
        [
            shortened(row["subnet"]),
            with_error(row["value"], row["stderr"], percent=is_share(row["metric"])) or "–",
        ]
        + [_cost(name, row[name]) for name in costs]
        for row in front
    ]
    return heads, rows


def _cost(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if name.endswith(("_ms", "_mj")) else str(amount(value))


def _drawn(view: View, width: int, height: int) -> "RenderableType":
    from rich.console import Group

    return Group(*(_job_parts(view, width, height) if "log" in view else _overview_parts(view)))


def _overview_parts(view: View) -> Iterator["RenderableType"]:
    heads = ["ID", "JOB", "NOW", "LEFT", "WORKER"]
    rows = [
        [row["id"], row["job"], _now_words(row), _left_words(row).removeprefix(", "), row["worker"]]
        for row in view["running"]
    ]
    if any(row["reason"] for row in view["running"]):
        heads, rows = (
            [*heads, "WAITS"],
            [[*cells, row["reason"]] for cells, row in zip(rows, view["running"], strict=True)],
        )
    yield _table("RUN", heads, rows)
    rows = [
        [row["position"], row["id"], row["job"], row["priority"], row["reason"]] for row in view["waiting"]
    ]
    yield _table("WAIT", ("POSITION", "ID", "JOB", "PRIORITY", "WAITS"), rows)
    rows = [
        [row["worker"], row["job"], row["attempt"], ", ".join(row["offers"] or ()), row["slots"]]
        for row in view["workers"]
    ]
    yield _table("WORKERS", ("WORKER", "JOB", "ATTEMPT", "OFFERS", "SLOTS"), rows)


def _job_parts(view: View, width: int, height: int) -> Iterator["RenderableType"]:
    from rich.padding import Padding
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    from nas.cli.terminal.picture import so_far

    words = f"Job '{view['job']}' ({view['id']}): {_now_words(view)}{_left_words(view)}"
    yield Text(clean(words, newlines=False), style="bold")
    now = view["now"] or {}
    if now.get("total"):
        yield Padding(ProgressBar(total=now["total"], completed=now["done"] or 0, width=60), 0)
    for text in filter(None, (view["reason"], view["error"], view["worker"])):
        yield Text(clean(text, newlines=False))
    heads, rows = _front_rows(view)
    split = view["front"][0]["split"] if view["front"] else "search"
    title = f"FRONT SO FAR, evaluations: {view['evaluations']}" if split == "search" else "FRONT"
    yield _table(title, heads, rows)
    # A picture has the lines that are left.
    drawn = so_far(view["front"] or [], width=width)
    if min(len(rows), MOST_ROWS) + len(drawn) + TAIL + OTHER_LINES <= height:
        yield Text("\n".join(drawn))
    yield Text("LOG", style="bold")
    yield Text(
        "\n".join(clean(line["text"], newlines=False) for line in view["log"][-TAIL:]),
        overflow="ellipsis",
        no_wrap=True,
    )


def _table(title: str, heads: "list[str] | tuple[str, ...]", rows: list[list[Any]]) -> "RenderableType":
    """A table of at most `MOST_ROWS`; where there are more it says how many."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from nas.store.values import shortened

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, overflow="ellipsis", no_wrap=True)
    for row in rows[:MOST_ROWS]:
        table.add_row(
            *(
                Text(clean(shortened(str(cell), LONGEST_CELL), newlines=False))
                if cell not in (None, "")
                else "–"
                for cell in row
            )
        )
    more = (
        f"{title} ({len(rows)})" if len(rows) <= MOST_ROWS else f"{title} ({MOST_ROWS} of {len(rows)} shown)"
    )
    return Group(Text(more, style="bold"), table if rows else Text("–"))
