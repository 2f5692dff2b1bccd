"""`nas what-if`: what another question would find."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.options import AsJSON, JobName, StoreURL, store_url
from nas.cli.output import amount, emit, emit_json, emit_table, heading, is_share, note, with_error
from nas.cli.runs import run_config
from nas.cli.stored import names

if TYPE_CHECKING:
    from nas.analysis.what_if import Foretold, WhatIf


def what_if(
    ctx: typer.Context,
    job: JobName,
    limits: Annotated[
        list[str] | None,
        typer.Option(
            "--limits",
            metavar="COND",
            help="Such as 'latency_ms<=8'; several after commas, or given several times; '' is none. "
            "[default: the job's constraints]",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="NAME",
            help="One that the job was measured on. [default: its own]",
            autocompletion=names.devices,
        ),
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option("--objectives", metavar="NAMES", help="Such as accuracy,params. [default: the job's]"),
    ] = None,
    more: Annotated[
        int | None,
        typer.Option("--go", metavar="N", min=1, help="Make a job of it that evaluates N more."),
    ] = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Foretell the front of another question from what is stored. Evaluates nothing, unless --go says so.

    \b
    Examples:
      nas what-if JOB --limits 'latency_ms<=8,params<=1e6'
      nas what-if JOB --objectives accuracy,params --go 50
    """
    with _blas_of_one_thread() if more is None else nullcontext():
        from nas.analysis import what_if as asking
        from nas.store import Store

    given = None if limits is None else [one for text in limits for one in listed(text)]
    names = None if objectives is None else listed(objectives)
    url = store_url(store)
    with Store.open(url, read_only=True) as opened:
        stored = opened.job(job)
        foretold = asking.what_if(opened, stored, limits=given, objectives=names, device=device)
        if more is not None:
            asked = asking.question(opened, stored, given, names, device)
            config = asking.follow_up(opened, stored, asked, more)
    if more is None:
        emit_json(foretold.to_dict()) if as_json else _emit(foretold)
        return
    note(_gains(foretold), quiet=ctx.obj.quiet)
    run_config(config, base=f"{stored.name}-what-if", store=store, as_json=as_json, quiet=ctx.obj.quiet)


@contextmanager
def _blas_of_one_thread() -> Iterator[None]:
    """What is loaded inside starts no threads of OpenBLAS: none is used here, and each spins for a while."""
    name = "OPENBLAS_NUM_THREADS"
    before = os.environ.get(name)
    os.environ.setdefault(name, "1")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def listed(text: str) -> list[str]:
    """What stands between the commas of a text."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _emit(foretold: "WhatIf") -> None:
    costs = [name for name in foretold.objectives if name != foretold.metric]
    costs += [limit.name for limit in foretold.limits]
    costs += [name for member in foretold.members for name in member.cost_stds]
    names = list(dict.fromkeys(costs))
    columns = ["SUBNET", heading(foretold.metric), "EVALUATED", *map(heading, names)]
    rows = [_row(member, foretold.metric, names) for member in foretold.members]
    emit_table(columns, rows, right=columns[1:])
    only = sum(member.evaluated is None for member in foretold.members)
    of = f"{foretold.candidates:,}{' sampled' if foretold.sampled else ''} architectures"
    limits = " and ".join(map(str, foretold.limits))
    emit(f"\n{of} {f'within {limits}' if limits else 'without a limit'}; {only} of these are only predicted.")
    emit(
        f"{heading(foretold.metric).capitalize()} as believed after {foretold.learned:,} of "
        f"{foretold.evaluations:,} evaluations, latency as predicted for {', '.join(foretold.devices)}."
    )
    emit(_gains(foretold))


def _row(member: "Foretold", metric: str, names: list[str]) -> tuple[str | None, ...]:
    percent = is_share(metric)
    costs = [
        with_error(member.costs[name], member.cost_stds[name])
        if name in member.cost_stds
        else amount(member.costs[name])
        for name in names
    ]
    return (
        member.subnet,
        with_error(member.quality, member.quality_std, percent=percent),
        with_error(member.evaluated, member.evaluated_stderr, percent=percent),
        *costs,
    )


def _gains(foretold: "WhatIf") -> str:
    gains = " and ".join(
        f"{gain.gain:.4f} ± {gain.std:.4f} from {gain.evaluations} more" for gain in foretold.gains
    )
    return f"Hypervolume of what is evaluated: {foretold.hypervolume:.4f}; expected gain: {gains}."
