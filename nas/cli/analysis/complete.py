"""`nas complete`: a text, continued by a subnet of a language model."""

from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.options import AsJSON, JobName, StoreURL, store_url
from nas.cli.output import emit, emit_json, note
from nas.cli.stored import names

if TYPE_CHECKING:
    from nas.analysis.completion import Completed


def complete(
    ctx: typer.Context,
    job: JobName,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What is continued.")],
    subnet: Annotated[
        str,
        typer.Option(
            "--subnet", metavar="KEY", help="The beginning of its key.", autocompletion=names.subnets
        ),
    ],
    draft: Annotated[
        str | None,
        typer.Option(
            "--draft",
            metavar="KEY",
            help="A subnet with narrower FFNs, which proposes tokens.",
            autocompletion=names.subnets,
        ),
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="How many follow.")] = 40,
    ahead: Annotated[int, typer.Option("--ahead", min=1, help="How many the draft proposes at once.")] = 4,
    separate: Annotated[
        bool, typer.Option("--separate-cache", help="The draft remembers keys and values of its own.")
    ] = False,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Continue a text with the most probable tokens of a subnet, perhaps with a part of it as draft.

    \b
    Examples:
      nas complete JOB 'Once upon a time' --subnet KEY
      nas complete JOB 'Once upon a time' --subnet KEY --draft OTHER --tokens 100
    """
    from nas.store import Store

    with Store.open(store_url(store), read_only=True) as opened:
        from nas.analysis import completion

        made = completion.complete(
            opened,
            opened.job(job),
            subnet,
            text,
            draft=draft,
            count=tokens,
            ahead=ahead,
            shared=not separate,
        )
    if as_json:
        emit_json(made.to_dict())
        return
    emit(made.text)
    note(_in_words(made), quiet=ctx.obj.quiet)


def _in_words(made: "Completed") -> str:
    per_token = 1e3 * made.plain_seconds / made.tokens
    if made.draft is None:
        return f"{made.tokens} tokens by {made.subnet}, {per_token:.3g} ms each."
    acceptance = "nothing drafted" if made.acceptance is None else f"{made.acceptance:.0%} of drafts accepted"
    same = "the same tokens" if made.same else "other tokens, where rounding decided"
    return (
        f"{made.tokens} tokens in {made.calls} calls of {made.subnet} ({made.tokens_a_call:.2f} a "
        f"call, {acceptance}): {made.seconds:.3g} s, and {made.plain_seconds:.3g} s without the draft "
        f"({same})."
    )
