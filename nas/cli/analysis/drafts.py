"""`nas drafts`: which part of a subnet drafts best for it."""

from functools import partial
from typing import Annotated, Any

import typer

from nas.cli.options import AsJSON, JobName, StoreURL, store_url
from nas.cli.output import (
    amount,
    emit,
    emit_json,
    emit_table,
    end_process,
    interruptible,
    with_error,
)
from nas.cli.terminal.progress import shown_progress

INTERRUPTION = "Interrupted: no draft is chosen."
COLUMNS = ("DRAFT", "PARAMS", "COST", "AHEAD", "ACCEPTED", "TOKENS A CALL", "SPEED-UP")


def drafts(
    ctx: typer.Context,
    job: JobName,
    subnet: Annotated[
        str, typer.Option("--subnet", metavar="KEY", help="The beginning of the target's key.")
    ],
    draft: Annotated[
        str | None, typer.Option("--draft", metavar="KEY", help="The only draft that is looked at.")
    ] = None,
    new: Annotated[
        bool,
        typer.Option("--new", help="Also widths that the job has not looked at: uniform, and by layer."),
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="NAME",
            help="Whose steps of decoding count. [default: the job's first that runs such; without one MACs]",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="NAME",
            help="inherited or specialised. [default: those that the front reports]",
            show_default=False,
        ),
    ] = None,
    texts: Annotated[int, typer.Option("--texts", min=1, help="Of each split, at most.")] = 32,
    prompt: Annotated[
        int | None,
        typer.Option("--prompt", min=1, help="Tokens read of each. [default: a quarter of the context]"),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", min=1, help="That are drafted for. [default: the rest, at most 64]"),
    ] = None,
    ahead: Annotated[int, typer.Option("--ahead", min=1, help="Proposed at a time, at most.")] = 8,
    separate: Annotated[
        bool, typer.Option("--separate-cache", help="The draft remembers keys and values of its own.")
    ] = False,
    further: Annotated[
        float,
        typer.Option(
            "--further", min=0.0, help="What each further token costs a call of the target, in calls."
        ),
    ] = 0.0,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Choose a draft for a subnet of a language model, and how many tokens it proposes at a time.

    \b
    Examples:
      nas drafts JOB --subnet K
      nas drafts JOB --subnet K --new --ahead 4 --json
    """
    from nas.store import Store

    with Store.open(store_url(store)) as opened, interruptible(INTERRUPTION):
        from nas.analysis import drafts as drafting

        asked = drafting.Asked(
            draft=draft,
            new=new,
            device=device,
            weights=weights,
            texts=texts,
            prompt=prompt,
            tokens=tokens,
            ahead=ahead,
            shared=not separate,
            further=further,
        )
        with shown_progress(quiet=ctx.obj.quiet) as progress:
            end = partial(end_process, INTERRUPTION)
            answer = drafting.drafts(opened, opened.job(job), subnet, asked, progress=progress, end=end)
    emit_json(answer) if as_json else _emit(answer)


def _emit(answer: dict[str, Any]) -> None:
    emit_table(COLUMNS, map(_row, answer["candidates"]), right=COLUMNS[1:])
    best, cost, texts, further = (answer[name] for name in ("best", "cost", "texts", "further"))
    if cost["device"] is None:
        counted = f"in exact MACs at {cost['context']} tokens, since no device of the job decodes"
    else:
        counted = f"as predicted on {cost['device']}"
    calls = f"and {further:g} of one for each further token in it" if further else "whatever it reads"
    emit(
        f"\nChosen on {texts['search']} texts of the search split, of {answer['tried']} drafts. COST is that "
        f"of a step in steps of {answer['subnet']}, {counted}; a call of that counts as one step, {calls}."
    )
    measured = f" (its cost was measured: {best['cost']:.3f})" if best["measured"] else ""
    emit(
        f"On {texts['report']} texts of the report split, {best['ahead']} at a time: "
        f"{with_error(best['acceptance'], best['acceptance_stderr'], percent=True)} of the tokens of "
        f"{best['draft']} are accepted, {best['tokens_a_call']:.2f} tokens a call; expected to be "
        f"{with_error(best['speed_up'], best['speed_up_stderr'])} times as fast as without it{measured}."
    )


def _row(one: dict[str, Any]) -> tuple[str | None, ...]:
    return (
        one["draft"],
        amount(one["params"]),
        f"{one['cost']:.3f}",
        str(one["ahead"]),
        with_error(one["acceptance"], one["acceptance_stderr"], percent=True),
        f"{one['tokens_a_call']:.2f}",
        with_error(one["speed_up"], one["speed_up_stderr"]),
    )
