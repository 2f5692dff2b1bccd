"""`nas generate`: architectures for new constraints, from what a generative search has learned."""

from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli._options import AsJSON, JobName, StoreURL, Where, store_url
from nas.cli._output import amount, emit_json, emit_table, heading, note, with_error

if TYPE_CHECKING:
    from nas.generation import Emitted


def generate(
    ctx: typer.Context,
    job: JobName,
    where: Where = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many at most.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another one, other architectures.")] = 0,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Above 1 more different ones, below 1 safer ones.")
    ] = 1.0,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Emit architectures for constraints that the job was not searched for."""
    from nas.conditions import Condition

    conditions = [Condition.parse(text) for text in where or ()]
    from nas.store import Store

    with Store.open(store_url(store), read_only=True) as opened:
        found = opened.job(job)
        from nas import generation

        made = generation.generate(opened, found, conditions, count, seed=seed, temperature=temperature)
    if as_json:
        emit_json(made.to_dict())
        return
    columns = ("SUBNET", "PARAMS", "MACS", "PREDICTED MS", f"PREDICTED {heading(made.metric)}", "EVALUATED")
    emit_table(columns, map(_row, made.subnets), right=columns[1:])
    kept = f"{100 * made.feasible_rate:.0f} % of the raw samples keep what was asked for."
    if made.moved:
        kept = "No raw sample keeps what was asked for: these were moved there choice by choice."
    hint = f"--json prints the architectures; `nas extract {found.id} --arch JSON -o DIR` takes one out."
    note(f"\n{kept}\n{hint}", quiet=ctx.obj.quiet)


def _row(one: "Emitted") -> tuple[object, ...]:
    return (
        one.subnet,
        amount(one.params),
        amount(one.macs),
        with_error(one.latency_ms, one.latency_std_ms),
        with_error(one.quality, one.quality_std, percent=True),
        with_error(one.evaluated, None, percent=True),
    )
