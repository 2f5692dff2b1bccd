"""`nas gate`: fails a build when no subnet is good enough."""

from typing import Annotated

import typer

from nas.cli.fronts import emit_front
from nas.cli.options import AsJSON, JobName, ShownDevice, StoreURL, named_numbers, store_url
from nas.cli.output import emit_json, note_error

FAILED = 1


def gate(
    ctx: typer.Context,
    job: JobName,
    least: Annotated[
        list[str] | None,
        typer.Option(
            "--min", metavar="NAME=VALUE", help="Such as accuracy=0.8 or 80%; may be given several times."
        ),
    ] = None,
    most: Annotated[
        list[str] | None,
        typer.Option(
            "--max", metavar="NAME=VALUE", help="Such as latency_ms=12; may be given several times."
        ),
    ] = None,
    device: ShownDevice = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Exit with 0 if a measured subnet keeps the limits, and print the best; else with 1. For builds.

    \b
    Example:
      nas gate JOB --min accuracy=0.9 --max latency_ms=12
    """
    from nas.limits import Limit
    from nas.store import Store

    limits = [Limit.parse(f"{name}>={value}") for name, value in named_numbers("--min", least).items()]
    limits += [Limit.parse(f"{name}<={value}") for name, value in named_numbers("--max", most).items()]
    with Store.open(store_url(store), read_only=True) as opened:
        from nas.analysis import gate as gates

        judged = gates.gate(opened, opened.job(job), limits, device=device)
    if as_json:
        emit_json(judged.to_dict())
    elif judged.passed:
        emit_front(judged.front, as_json=False)
    if not judged.passed:
        note_error(judged.sentence, "")
        raise typer.Exit(FAILED)
