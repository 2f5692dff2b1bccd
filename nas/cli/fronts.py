"""`nas front`, `nas extract`: what a job has found, and how to take it away."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli._options import AsJSON, JobName, StoreURL, Where, store_url
from nas.cli._output import amount, emit, emit_json, emit_table, heading, is_share, note, with_error
from nas.cli.latency import parse_architecture

if TYPE_CHECKING:
    from nas._members import Member
    from nas.front import ParetoFront
    from nas.store import Job, Store

MEMORY = ("memory_bytes", "peak_memory_bytes")  # shown where a job optimises it
LONGEST_STEM = 60  # of a file's name, which may have 255 bytes: four a character, and an ending


def front(
    ctx: typer.Context,
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="Names or numbers of jobs.")],
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="Latencies on this device.")
    ] = None,
    where: Where = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Print the Pareto front of a job. Of several jobs: what no other beats."""
    from nas.conditions import Condition
    from nas.front import front as read_front
    from nas.store import Store
    from search_spaces._errors import UsageError

    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other.")
    conditions = [Condition.parse(text) for text in where or ()]
    with Store.open(store_url(store), read_only=True) as opened:
        found = read_front(opened, [opened.job(job) for job in jobs], device=device, where=conditions)
    if as_csv:
        emit(found.to_csv().rstrip("\n"))
    else:
        emit_front(found, as_json=as_json)
    if not as_json:
        _note_remarks(found, quiet=ctx.obj.quiet)
    if not found.members:
        empty = "The front is empty: `nas show JOB` tells how far a job is."
        note(found.unmet or empty, quiet=ctx.obj.quiet)


def extract(
    ctx: typer.Context,
    job: JobName,
    folder: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="A new or empty folder.")],
    subnet: Annotated[
        str | None, typer.Option("--subnet", metavar="KEY", help="The beginning of a subnet's key.")
    ] = None,
    arch: Annotated[
        str | None, typer.Option("--arch", metavar="JSON", help="Any architecture of the job's space.")
    ] = None,
    where: Where = None,
    knee: Annotated[bool, typer.Option("--knee", help="The best compromise on the front.")] = False,
    weights: Annotated[
        str, typer.Option("--weights", metavar="NAME", help="inherited, finetuned or scratch.")
    ] = "inherited",
    file_format: Annotated[
        str, typer.Option("--format", metavar="NAME", help="How it is written.")
    ] = "safetensors",
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Write a subnet as a stand-alone checkpoint. Prints the files."""
    from search_spaces._errors import ConflictError, UsageError

    if (subnet is not None) + (arch is not None) + bool(where) + knee != 1:
        hint = "Try --knee."
        raise UsageError("Say which subnet: exactly one of --subnet, --arch, --where and --knee.", hint)
    architecture = None if arch is None else parse_architecture(arch)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(f"'{folder}' exists and is not an empty folder.", "Name another one with -o.")
    from nas.store import Store

    with Store.open(store_url(store), read_only=True) as opened:
        found = opened.job(job)
        from nas import extraction

        if architecture is None:
            key = _chosen(opened, found, subnet=subnet, where=where, knee=knee)
        else:
            key = extraction.space_of(opened, found).architecture(architecture).key
        chosen = key if architecture is None else architecture
        files = extraction.export(opened, found, chosen, folder, format=file_format, weights=weights)
    if as_json:
        emit_json({"job": found.name, "subnet": key, "files": [str(file) for file in files]})
    else:
        emit("\n".join(map(str, files)))
        note(f"Subnet {key} of job '{found.name}' is in {folder}", quiet=ctx.obj.quiet)


def emit_front(found: "ParetoFront", *, as_json: bool) -> None:
    """The front on stdout, as a table or as JSON."""
    if as_json:
        emit_json(found.to_dict())
        return
    several = len(found.jobs) > 1
    from nas.store.frames import RETRAINED

    told = _single_choice(found)
    memory = [
        name
        for name in MEMORY
        if name in {part.partition("@")[0] for part in (*found.objectives, *found.decided_by)}
    ]
    again = [weights for weights in RETRAINED if any(weights in m.retrained for m in found.members)]
    metric = found.metric
    rows = [
        (
            *((member.job,) if several else ()),
            member.subnet,
            amount(member.params),
            amount(member.macs),
            with_error(member.quality, member.stderr, percent=is_share(member.metric)),
            *(_retrained(member, weights) for weights in again),
            _predicted(member),
            with_error(member.measured_ms, member.spread_ms),
            *(amount(member.told(name)) for name in memory),
            *((str(member.architecture[told]),) if told else ()),
        )
        for member in found.members
    ]
    retrained = tuple(RETRAINED[weights].upper() for weights in again)
    columns = ("SUBNET", "PARAMS", "MACS", heading(metric), *retrained, "PREDICTED MS", "MEASURED MS")
    columns = (*columns, *map(heading, memory))
    names = (*(("JOB",) if several else ()), *columns, *((told.upper(),) if told else ()))
    emit_table(names, rows, right=columns[1:])
    _emit_remarks(found)


def _emit_remarks(found: "ParetoFront") -> None:
    """What the table does not say by itself."""
    from nas.store.frames import RETRAINED

    devices = [str(one.device) for one in found.members[0].on_devices] if found.members else []
    if len(devices) > 1:
        emit(f"\nLatency on {found.device}; --device chooses another one of {', '.join(devices)}.")
    if len(found.objectives) == 1 and found.members:
        emit(f"\nThe best on the report split comes first: {found.members[0].subnet}")
    outside = [member.subnet for member in found.members if member.as_predicted is False]
    if outside:
        emit(f"\nMeasured outside the 90 % interval of the prediction: {', '.join(outside)}")
    for weights, agreement in found.agreements().items():
        emit(f"\nKendall's tau of the {found.metric}, inherited and {RETRAINED[weights]}: {agreement}")


def _note_remarks(found: "ParetoFront", *, quiet: bool) -> None:
    """By what rows are there, and what speaks against believing them."""
    for line in (*_pruning(found), *(f"Caution: {caution}" for caution in found.cautions)):
        note(f"\n{line}", quiet=quiet)


def _pruning(found: "ParetoFront") -> list[str]:
    """By what rows are left out, of several jobs; which are there although another one beats them, of one."""
    lines = []
    if len(found.jobs) > 1:
        measured = " (measured where both are, else predicted)" if "latency_ms" in found.decided_by else ""
        by = " and ".join([f"{found.metric} on the report split", *found.decided_by])
        lines.append(f"Left out is what another row beats in {by}{measured}.")
        lines += [f"Job '{name}' has no finalists here yet." for name in found.without]
    beaten = [f"{member.subnet} (by {member.beaten_by})" for member in found.members if member.beaten_by]
    if beaten:
        lines.append(
            f"Chosen on the search split, beaten by another row as reported here: {', '.join(beaten)}"
        )
    return lines


def show_front(opened: "Store", job: "Job", *, figure: Path | None, as_json: bool, quiet: bool) -> None:
    """The front on stdout; then its figure, which may fail: the front is there already."""
    from dashboards.figures import front_figure, write_html
    from nas.front import front
    from nas.store import frames

    found = front(opened, job)
    emit_front(found, as_json=as_json)
    if not as_json:
        _note_remarks(found, quiet=quiet)
    if figure is not None:
        drawn = front_figure(frames.finalists(opened, job), frames.evaluations(opened, job), job=job.name)
        _write_whole(figure, lambda path: write_html(drawn, path))
        note(f"\nThe figure is in {figure}", quiet=quiet)


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """All of a file or nothing of it, where it is a file. Raises JobFailedError when it cannot be written."""
    from nas.artifacts import write_atomic
    from search_spaces._errors import JobFailedError

    try:
        if path.is_file() or not path.exists():
            write_atomic(path.resolve(), write)
        else:
            write(path)
    except OSError as error:
        raise JobFailedError(
            f"The figure '{path}' cannot be written: {error.strerror or error}.",
            "The job is not touched by that: `nas front JOB --figure PATH` draws it again.",
        ) from error


def default_figure(job: "Job") -> Path:
    """Where the figure of a job's front goes."""
    stem = re.sub(r"[^-.\w]+", "-", job.name)[:LONGEST_STEM].strip("-.") or str(job.id)
    return Path(f"{stem}-front.html")


def check_figure(figure: Path | None) -> None:
    """Raises UsageError for a place where no file can be."""
    from search_spaces._errors import UsageError

    # A wrong path must not come to light after an hour.
    if figure is not None and (figure.is_dir() or not figure.absolute().parent.is_dir()):
        raise UsageError(f"The figure '{figure}' cannot be written.", "Name a file in a folder that exists.")


def _predicted(member: "Member") -> str | None:
    """The prediction with half of its 90 % interval."""
    ends = member.interval_ms
    return with_error(member.predicted_ms, None if ends is None else (ends[1] - ends[0]) / 2)


def _retrained(member: "Member", weights: str) -> str | None:
    if weights not in member.retrained:
        return None
    found = member.retrained[weights]
    return with_error(found["value"], found["stderr"], percent=is_share(member.metric))


def _single_choice(found: "ParetoFront") -> str | None:
    """The choice that tells a subnet in full, as a stitch does, if the spaces have no other."""
    names = {name for member in found.members for name in member.architecture}
    choices = {len(member.architecture) for member in found.members}
    single = len(names) == 1 and choices == {1}
    return next(iter(names)) if single else None


def _chosen(opened: "Store", job: "Job", *, subnet: str | None, where: list[str] | None, knee: bool) -> str:
    from nas.conditions import Condition
    from nas.front import front as read_front

    if subnet is not None:
        return opened.subnet(job, subnet).key
    conditions = [Condition.parse(text) for text in where or ()]
    found = read_front(opened, job)
    return (found.knee() if knee else found.select(*conditions)).subnet
