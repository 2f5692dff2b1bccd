"""`nas explain`: what the choices of a subnet are worth."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.fronts import check_figure, write_figure
from nas.cli.options import AsJSON, JobName, OtherFigure, ShownDevice, StoreURL, parse_architecture, store_url
from nas.cli.output import emit, emit_json, emit_pairs, emit_table, heading, is_share, with_error
from nas.cli.stored import names

if TYPE_CHECKING:
    from nas.analysis.explanation import Change, Explanation, Subnet

SUBNET = "The beginning of a subnet's key, or an architecture as JSON."


def explain(
    ctx: typer.Context,
    job: JobName,
    subnet: Annotated[str, typer.Argument(metavar="SUBNET", help=SUBNET, autocompletion=names.subnets)],
    other: Annotated[
        str | None,
        typer.Argument(
            metavar="[OTHER]", help="Another one, to be told their difference.", autocompletion=names.subnets
        ),
    ] = None,
    device: ShownDevice = None,
    figure: OtherFigure = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Tell what each choice of a subnet is worth, in quality and in ms. Of two subnets: their difference.

    \b
    Examples:
      nas explain JOB SUBNET
      nas explain JOB SUBNET OTHER --figure changes.html
    """
    from nas.store import Store

    one, another = asked(subnet), None if other is None else asked(other)
    check_figure(figure)
    with Store.open(store_url(store), read_only=True) as opened:
        stored = opened.job(job)
        from nas.analysis import explanation

        explained = explanation.explain(opened, stored, one, another, device=device)
    if as_json:
        emit_json(explained.to_dict())
    else:
        _emit(explained)
    if figure is not None:
        from dashboards.figures import changes_figure

        ends = (explained.subnet, explained.other)
        drawn = changes_figure(
            explained.to_pandas(),
            metric=explained.metric,
            device=explained.device,
            subnet=" and ".join(end.key for end in ends if end is not None),
        )
        write_figure(figure, drawn, quiet=ctx.obj.quiet)


def asked(subnet: str) -> str | Mapping[str, Any]:
    """The beginning of a key as it stands, an architecture as its values. Raises UsageError."""
    return parse_architecture(subnet) if subnet.lstrip().startswith("{") else subnet


def _emit(explained: "Explanation") -> None:
    metric = explained.metric
    ends = {"subnet": explained.subnet} | ({"other": explained.other} if explained.other else {})
    emit_pairs({name: _subnet(subnet, metric) for name, subnet in ends.items()})
    emit("")
    columns = ["CHOICE", "FROM", "TO", heading(metric), "MS", "PREDICTED MS", "SUBNET"]
    rows = [_row(change, metric) for change in explained.changes]
    emit_table(columns, rows, right=columns[1:-1])
    emit("")
    if explained.other is None:
        cheap = _neighbour(explained.cheapest, metric)
        best = _neighbour(explained.best, metric)
        emit(f"Cheapest neighbour within one standard error: {cheap or 'none is faster'}")
        emit(f"Best neighbour within 5 % of its latency: {best or 'none is better'}")
    learned = f"{explained.evaluations} evaluations on the search split"
    emit(f"Quality is predicted from {learned}, latency for {explained.device}.")


def _subnet(subnet: "Subnet", metric: str) -> str:
    quality = with_error(subnet.quality, subnet.quality_std, percent=is_share(metric))
    value = with_error(subnet.evaluated, None, percent=is_share(metric))
    evaluated = "not evaluated" if value is None else f"evaluated: {value}"
    latency = with_error(subnet.latency_ms, subnet.latency_std_ms)
    return f"{subnet.key}, {metric} {quality} ({evaluated}), {latency} ms"


def _row(change: "Change", metric: str) -> tuple[object, ...]:
    to = change.to
    return (
        change.choice,
        change.before,
        change.after,
        _gain(change, metric),
        None if change.latency_ms is None else f"{change.latency_ms:+.3f}",
        None if to is None else with_error(to.latency_ms, to.latency_std_ms),
        None if to is None else to.key,
    )


def _gain(change: "Change", metric: str) -> str | None:
    """A difference of qualities and its error; of shares in points."""
    if change.quality is None or change.quality_std is None:
        return None
    if is_share(metric):
        return f"{100 * change.quality:+.2f} ± {100 * change.quality_std:.2f} points"
    return f"{change.quality:+.4f} ± {change.quality_std:.4f}"


def _neighbour(change: "Change | None", metric: str) -> str | None:
    if change is None or change.to is None:
        return None
    return f"{change.to.key} ({change.words}: {_gain(change, metric)}, {change.latency_ms:+.3f} ms)"
