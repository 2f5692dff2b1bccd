"""`nas finetune`: subnets of a front trained by themselves."""

from functools import partial
from typing import Annotated

import typer

from nas.cli.fronts import check_figure, default_figure, show_front
from nas.cli.options import AsJSON, Figure, JobName, StoreURL, store_url
from nas.cli.output import INTERRUPTED, end_process, note
from nas.cli.stored import names
from nas.cli.terminal.progress import shown_progress

FAILED = 1
INTERRUPTION = "Interrupted; every training that was finished is saved. The same command does the others."


def finetune(
    ctx: typer.Context,
    job: JobName,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="KEY", help="Further subnets.", autocompletion=names.subnets)
    ] = None,
    subnet: Annotated[
        list[str] | None,
        typer.Option(
            "--subnet",
            metavar="KEY",
            help="The beginning of a key; further ones may follow.",
            autocompletion=names.subnets,
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--front", help="All subnets of the front.")] = False,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Begin with fresh weights instead of the inherited ones.")
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="NAME",
            help="Begin with inherited or specialised ones. [default: those that the front reports]",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="[default: the job's from scratch, else a quarter of them]"),
    ] = None,
    lr: Annotated[
        list[float] | None,
        typer.Option("--lr", help="Of several the best counts. [default: the job's, or 0.3 of it]"),
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help="local: one by one; ray: in parallel.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="With ray: trainings at a time. [default: 2]")
    ] = None,
    asha: Annotated[
        bool | None,
        typer.Option("--asha/--no-asha", help="With ray: stop learning rates of a subnet that fall behind."),
    ] = None,
    figure: Figure = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Train subnets of a front by themselves. Prints the front with what they have become.

    \b
    Examples:
      nas finetune JOB --front
      nas finetune JOB --subnet KEY --steps 500 --lr 1e-3
      nas finetune JOB --front --from-scratch --engine ray --workers 4
    """
    from search_spaces.errors import UsageError

    subnets = [*(subnet or ()), *(more or ())]
    if bool(subnets) == everything:
        raise UsageError("Say which subnets: --subnet KEY..., or --front for all of them.")
    check_figure(figure)
    from nas.store import Store
    from nas.training import finetuning

    with Store.open(store_url(store)) as opened:
        stored = opened.job(job)
        try:
            with shown_progress(quiet=ctx.obj.quiet) as progress:
                outcome = finetuning.finetune(
                    opened,
                    stored,
                    subnets or None,
                    progress=progress,
                    from_scratch=from_scratch,
                    weights=weights,
                    steps=steps,
                    lrs=lr or (),
                    engine=engine,
                    workers=workers,
                    asha=asha,
                    end=partial(end_process, INTERRUPTION),
                )
        except KeyboardInterrupt:
            note(INTERRUPTION)
            raise typer.Exit(INTERRUPTED) from None
        for key, reason in outcome.left_out.items():
            note(f"Subnet {key} is not retrained: {reason}.")
        path = figure or default_figure(stored)
        show_front(opened, stored, figure=path, as_json=as_json, quiet=ctx.obj.quiet)
        if outcome.left_out:
            raise typer.Exit(FAILED)
