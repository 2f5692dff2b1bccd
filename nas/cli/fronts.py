"""`nas front`, `nas export-optuna`: what a job has found."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.options import (
    AsJSON,
    JobName,
    JobNames,
    OtherFigure,
    ShownDevice,
    StoreURL,
    Where,
    store_url,
)
from nas.cli.output import amount, emit, emit_json, emit_table, heading, is_share, note, with_error

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from nas.results.columns import Column, Row
    from nas.results.front import ParetoFront
    from nas.store import Job, Store


MARK = "*"  # before the names of reference networks
LONGEST_STEM = 60  # of a file's name, which may have 255 bytes: four a character, and an ending


def front(
    ctx: typer.Context,
    jobs: JobNames,
    device: ShownDevice = None,
    where: Where = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    plot: Annotated[bool, typer.Option("--plot", help="Draw it below the table, with characters.")] = False,
    figure: OtherFigure = None,
) -> None:
    """Print the Pareto front of a job. Of several jobs: what no other beats.

    \b
    Examples:
      nas front JOB --plot
      nas front JOB --where 'latency_ms<=5' --csv
      nas front JOB OTHER --figure both.html
    """
    from nas.limits import Limit
    from nas.results.front import front as read_front
    from nas.store import Store
    from search_spaces.errors import UsageError

    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other.")
    if plot and (as_json or as_csv):
        raise UsageError("--plot goes with neither --json nor --csv.", "They are for programs to read.")
    limits = [Limit.parse(text) for text in where or ()]
    check_figure(figure)
    with Store.open(store_url(store), read_only=True) as opened:
        stored = list({job.id: job for job in map(opened.job, jobs)}.values())
        pareto = read_front(opened, stored, device=device, where=limits)
        drawn = None if figure is None else _drawn(opened, stored, pareto, device)
    if as_csv:
        emit(pareto.to_csv().rstrip("\n"))
    else:
        emit_front(pareto, as_json=as_json)
    if plot:
        _emit_picture(pareto, quiet=ctx.obj.quiet)
    if not as_json:
        _note_remarks(pareto, quiet=ctx.obj.quiet)
    if not pareto.members:
        empty = "The front is empty: `nas show JOB` tells how far a job is."
        note(pareto.unmet or empty, quiet=ctx.obj.quiet)
    if figure is not None and drawn is not None:
        write_figure(figure, drawn, quiet=ctx.obj.quiet)


def export_optuna(
    ctx: typer.Context,
    job: JobName,
    storage: Annotated[
        str,
        typer.Option(
            "--storage",
            metavar="PLACE",
            help="An Optuna storage: FILE.log (a journal, fast), sqlite:///FILE.db or a server's URL.",
        ),
    ],
    study: Annotated[
        str | None,
        typer.Option(
            "--study", metavar="NAME", help="Its name there. [default: the job's]", show_default=False
        ),
    ] = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Write a job's search as an Optuna study. Prints the study's name.

    \b
    Example:
      nas export-optuna JOB --storage studies.log
    """
    from nas.store import Store

    with Store.open(store_url(store), read_only=True) as opened:
        stored = opened.job(job)
        from nas.results import optuna_study

        made = optuna_study.export(opened, stored, storage, study=study)
    if as_json:
        emit_json({"job": stored.name, "study": made.study, "trials": made.trials})
        return
    emit(made.study)
    note(f"{made.trials} trials of job '{stored.name}' are in the storage.", quiet=ctx.obj.quiet)


def emit_front(pareto: "ParetoFront", *, as_json: bool) -> None:
    """The front on stdout, as a table or as JSON."""
    if as_json:
        emit_json(pareto.to_dict())
        return
    from nas.results.columns import View, columns_of

    marked = [one.row | {"subnet": f"{MARK} {one.name}"} for one in pareto.baselines]
    rows, choice = [member.row for member in pareto.members] + marked, _single_choice(pareto)
    # What is optimised is shown, of the columns that are not shown always.
    chosen = {part.partition("@")[0] for part in (*pareto.objectives, *pareto.decided_by)}
    chosen |= {"job"} if len(pareto.jobs) > 1 else set()
    chosen |= {"architecture"} if choice else set()
    columns = columns_of(View.TABLE, rows, chosen=chosen)
    names = [
        heading(column.called(View.TABLE, metric=pareto.metric, choice=choice or "")) for column in columns
    ]
    emit_table(
        names,
        [[cell(column, row, choice) for column in columns] for row in rows],
        right=[name for name, column in zip(names, columns, strict=True) if column.kind.is_number],
    )
    _emit_remarks(pareto)


def _emit_remarks(pareto: "ParetoFront") -> None:
    """What the table does not say by itself."""
    from nas.results.frames import SPECIALISED, TRAINED

    devices = [str(one.device) for one in pareto.members[0].on_devices] if pareto.members else []
    if len(devices) > 1 and pareto.members[0].precision is None:
        emit(f"\nLatency on {pareto.device}; --device chooses another one of {', '.join(devices)}.")
    _emit_computed(pareto)
    if pareto.baselines:
        quality = pareto.metric.replace("_", " ")
        named = "reference network, as job files name them in `baselines`"
        emit(f"\n{MARK} {named}; {quality} on the same examples.")
        for one in pareto.baselines:
            reasons = [("not evaluated", one.unfit), ("not measured", one.unmeasured)]
            emit(
                "".join(f"{MARK} {one.name} is {what}: {why}.\n" for what, why in reasons if why).rstrip("\n")
            )
    if len(pareto.objectives) == 1 and pareto.members:
        emit(f"\nThe best on the report split comes first: {pareto.members[0].subnet}")
    specialised = [member.subnet for member in pareto.members if member.weights == SPECIALISED]
    if specialised:
        which = "" if len(specialised) == len(pareto.members) else f" of {', '.join(specialised)}"
        emit(
            f"\nThe {pareto.metric}{which} is with {SPECIALISED} weights, after a training of the finalists."
        )
    outside = [member.subnet for member in pareto.members if member.as_predicted is False]
    if outside:
        emit(f"\nMeasured outside the 90 % interval of the prediction: {', '.join(outside)}")
    for weights, agreement in pareto.agreements().items():
        emit(f"\nKendall's tau of the {pareto.metric}, inherited and {TRAINED[weights]}: {agreement}")


def _emit_computed(pareto: "ParetoFront") -> None:
    """What the columns tell that a device has computed."""
    from nas.results.columns import CLEAR

    one = next((member for member in pareto.members if member.device_quality is not None), None)
    if one is not None:
        quality = pareto.metric.replace("_", " ").capitalize()
        who = one.device if one.precision is None else "the device, in the precision of the row,"
        emit(
            f"\n{quality} on device: as {who} computes it, on {one.device_examples:,.0f} examples of the "
            "report split. Difference: less that of the supernet on the same examples, with the standard "
            f"error of paired differences; {CLEAR} is behind those of more than two."
        )


def _note_remarks(pareto: "ParetoFront", *, quiet: bool) -> None:
    """By what rows are there, and what speaks against believing them."""
    for line in (*_pruning(pareto), *(f"Caution: {caution}" for caution in pareto.cautions)):
        note(f"\n{line}", quiet=quiet)


def _pruning(pareto: "ParetoFront") -> list[str]:
    """By what rows are left out, of several jobs; which are there although another one beats them, of one."""
    lines = []
    if len(pareto.jobs) > 1:
        measured = " (measured where both are, else predicted)" if "latency_ms" in pareto.decided_by else ""
        by = " and ".join([f"{pareto.metric} on the report split", *pareto.decided_by])
        lines.append(f"Left out is what another row beats in {by}{measured}.")
        lines += [f"Job '{name}' has no finalists here yet." for name in pareto.without]
    elif any(member.precision is not None for member in pareto.members):
        by = f"{pareto.metric} on device and latency"
        lines.append(f"A row is a finalist in one precision; left out is what another row beats in {by}.")
    beaten = [f"{member.subnet} (by {member.beaten_by})" for member in pareto.members if member.beaten_by]
    if beaten:
        lines.append(
            f"Chosen on the search split, beaten by another row as reported here: {', '.join(beaten)}"
        )
    return lines


def _emit_picture(pareto: "ParetoFront", *, quiet: bool) -> None:
    """The front as wide as the terminal; or why it is not drawn."""
    from nas.cli.terminal.picture import NARROWEST, of_front

    width = get_terminal_size().columns
    if width < NARROWEST:
        need = f"A picture takes {NARROWEST} columns, and the terminal has {width}."
        note(f"\n{need} `nas front JOB --figure PATH` draws one for a browser.", quiet=quiet)
        return
    lines, lacking = of_front(pareto, width=width)
    if lines:
        emit("\n" + "\n".join(lines))
    if lacking:
        what = "of which the quality or the cost is not known"
        note(f"\nNot in the picture: {lacking} {what}.", quiet=quiet)


def show_front(opened: "Store", job: "Job", *, figure: Path | None, as_json: bool, quiet: bool) -> None:
    """The front on stdout; then its figure, which may fail: the front is there already."""
    from nas.results.front import front

    pareto = front(opened, job)
    emit_front(pareto, as_json=as_json)
    if not as_json:
        _note_remarks(pareto, quiet=quiet)
    if figure is not None:
        write_figure(figure, _drawn(opened, [job], pareto, None), quiet=quiet)


def _drawn(opened: "Store", jobs: Sequence["Job"], pareto: "ParetoFront", device: str | None) -> "Figure":
    """The figure of a front as it is printed, of one job or of several."""
    import pandas as pd

    from dashboards.figures import front_figure, fronts_figure
    from nas.results import frames
    from nas.results.baselines import frame
    from nas.results.front import points_frame, shown_devices

    if len(jobs) > 1:
        cost, columns = pareto.decided_by[0], ("job", "subnet", "quality", "stderr")
        rows = [{n: m.row[n] for n in columns} | {cost: m.told(cost)} for m in pareto.members]
        stars = frame(pareto.baselines, cost)
        members = pd.DataFrame(rows, columns=[*columns, cost])
        return fronts_figure(members, metric=pareto.metric, cost=cost, baselines=stars)
    (job,) = jobs
    shown = shown_devices(opened, jobs, device)[job.id]
    points = points_frame(opened, job) if device is None else None
    finalists = frames.finalists(opened, job, shown) if points is None else points
    kept = finalists["subnet"].isin([member.subnet for member in pareto.members])
    return front_figure(
        finalists[kept],
        frames.evaluations(opened, job, shown),
        job=job.name,
        baselines=frame(pareto.baselines),
    )


def write_figure(figure: Path, drawn: "Figure", *, quiet: bool) -> None:
    """All of the file or nothing. Raises JobFailedError when it cannot be written."""
    from dashboards.figures import write_html

    _write_whole(figure, lambda path: write_html(drawn, path))
    note(f"\nThe figure is in {figure}", quiet=quiet)


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """All of a file or nothing of it, where it is a file. Raises JobFailedError when it cannot be written."""
    from nas.artifacts import write_atomic
    from nas.errors import JobFailedError

    try:
        if path.is_file() or not path.exists():
            write_atomic(path.resolve(), write)
        else:
            write(path)
    except OSError as error:
        raise JobFailedError(
            f"The figure '{path}' cannot be written: {error.strerror or error}.",
            "Nothing else is touched by that: `nas front JOB --figure PATH` draws a front again.",
        ) from error


def default_figure(job: "Job") -> Path:
    """Where the figure of a job's front goes."""
    stem = re.sub(r"[^-.\w]+", "-", job.name)[:LONGEST_STEM].strip("-.") or str(job.id)
    return Path(f"{stem}-front.html")


def check_figure(figure: Path | None) -> None:
    """Raises UsageError for a place where no file can be."""
    from search_spaces.errors import UsageError

    # A wrong path must not come to light after an hour.
    if figure is not None and (figure.is_dir() or not figure.absolute().parent.is_dir()):
        raise UsageError(f"The figure '{figure}' cannot be written.", "Name a file in a folder that exists.")


def cell(column: "Column", row: "Row", choice: str | None) -> str | None:
    """A value in the table; choice: which one stands for the architecture."""
    from nas.results.columns import Kind, difference_words

    value, error = column.value(row), column.uncertainty(row)
    if value is None:
        return None
    match column.kind:
        case Kind.TEXT | Kind.SUBNET | Kind.DEVICE:
            return str(value)
        case Kind.ARCHITECTURE:
            return str(value if choice is None else value[choice])
        case Kind.COUNT | Kind.BYTES:
            return amount(value)
        case Kind.NUMBER:
            return f"{value:.3g}"
        case Kind.QUALITY:
            return with_error(value, error, percent=is_share(row["metric"]))
        case Kind.SHARE:
            return with_error(value, error, percent=True)
        case Kind.DIFFERENCE:
            return difference_words(row["metric"], value, error)
        case Kind.LATENCY | Kind.PREDICTION:
            return with_error(value, error)
        case Kind.INTERVAL:
            return f"{value[0]:.3f} to {value[1]:.3f}"


def _single_choice(pareto: "ParetoFront") -> str | None:
    """The choice that tells a subnet in full, as a stitch does, if the spaces have no other."""
    names = {name for member in pareto.members for name in member.architecture}
    choices = {len(member.architecture) for member in pareto.members}
    single = len(names) == 1 and choices == {1}
    return next(iter(names)) if single else None


def chosen_key(
    opened: "Store", job: "Job", *, subnet: str | None, where: list[str] | None, knee: bool
) -> str:
    """The key of the subnet that is asked for: by the beginning of its key, by limits, or the knee."""
    from nas.limits import Limit
    from nas.results.front import front as read_front

    if subnet is not None:
        return opened.subnet(job, subnet).key
    limits = [Limit.parse(text) for text in where or ()]
    pareto = read_front(opened, job)
    return (pareto.knee() if knee else pareto.select(*limits)).subnet
