"""`nas compare`: two fronts against each other."""

from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.fronts import check_figure, write_figure
from nas.cli.options import AsJSON, OtherFigure, ShownDevice, StoreURL, named_numbers, store_url
from nas.cli.output import emit, emit_json, emit_table
from nas.cli.stored import names

if TYPE_CHECKING:
    from nas.analysis.comparison import Comparison
    from nas.results.comparing.box import Estimate


def compare(
    ctx: typer.Context,
    first: Annotated[
        str, typer.Argument(metavar="JOB", help="A job's name or number.", autocompletion=names.jobs)
    ],
    second: Annotated[str, typer.Argument(metavar="OTHER", help="Another job's.", autocompletion=names.jobs)],
    device: ShownDevice = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            metavar="NAME=VALUE",
            help="The worst that counts; may be given several times. "
            "[default: the worst quality, and 1.1 times the greatest cost of either front]",
        ),
    ] = None,
    figure: OtherFigure = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Compare the fronts of two jobs. Hypervolume, and which share of one the other beats.

    \b
    Examples:
      nas compare JOB OTHER
      nas compare JOB OTHER --reference latency_ms=20 --figure both.html
    """
    from nas.limits import Limit
    from nas.store import Store

    limits = [Limit.parse(f"{n}=={value}") for n, value in named_numbers("--reference", reference).items()]
    check_figure(figure)
    with Store.open(store_url(store), read_only=True) as opened:
        from nas.analysis import comparison

        corner = {limit.name: limit.value for limit in limits}
        jobs = opened.job(first), opened.job(second)
        compared = comparison.compare(opened, *jobs, device=device, reference=corner)
    if as_json:
        emit_json(compared.to_dict())
    else:
        _emit(compared)
    if figure is not None:
        from dashboards.figures import fronts_figure

        drawn = fronts_figure(compared.to_pandas(), metric=compared.metric, cost=compared.costs[0])
        write_figure(figure, drawn, quiet=ctx.obj.quiet)


def _emit(compared: "Comparison") -> None:
    rows: list[tuple[str | None, ...]] = [
        (one.job, f"{len(one.members)}", _number(one.hypervolume), _percent(one.beaten))
        for one in compared.fronts
    ]
    emit_table(
        ("JOB", "SUBNETS", "HYPERVOLUME", "BEATEN BY THE OTHER"),
        [*rows, ("both together", None, _number(compared.together), None)],
        right=("SUBNETS", "HYPERVOLUME", "BEATEN BY THE OTHER"),
    )
    first, second = (one.job for one in compared.fronts)
    emit(f"\nHypervolume of '{first}' less that of '{second}': {_number(compared.difference, sign='+')}")
    worst = " and ".join(f"{name} {value:.4g}" for name, value in compared.reference.items())
    on = "" if compared.latency is None else f", latency {compared.latency} on {compared.device}"
    from nas.limits import kind_of

    best = f"{kind_of(compared.metric).best:g}"
    emit(f"Share of the box from {compared.metric} {best} at no cost to {worst}, linear{on}.")
    emit("Errors: what the standard errors of the qualities leave open.")


def _number(estimate: "Estimate", *, sign: str = "") -> str:
    return f"{estimate.value:{sign}.4f} ± {estimate.stderr:.4f}"


def _percent(estimate: "Estimate") -> str:
    return f"{100 * estimate.value:.0f} ± {100 * estimate.stderr:.0f} %"
