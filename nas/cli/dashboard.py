"""`nas dashboard`."""

import ipaddress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.options import StoreURL, store_url
from nas.cli.output import note

if TYPE_CHECKING:
    from dashboards.asks import Asks, Subnet


def dashboard(
    ctx: typer.Context,
    host: Annotated[str, typer.Option("--host", help="An address of this machine's own loop.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535)] = 8050,
    store: StoreURL = None,
) -> None:
    """Serve the dashboard on this machine until Ctrl-C.

    \b
    Examples:
      nas dashboard
      nas dashboard --port 8051
    """
    from search_spaces.errors import UsageError

    if not _is_loopback(host):
        raise UsageError(
            f"The dashboard does not listen on '{host}': it has no log-in.",
            f"Use 127.0.0.1; from afar: ssh -L {port}:127.0.0.1:{port} HOST; for a team: `nas serve`",
        )
    from dashboards import app

    note(f"The dashboard is at http://{host}:{port}/ (Ctrl-C ends it)", quiet=ctx.obj.quiet)
    url = store_url(store)
    app.serve(url, host=host, port=port, asks=_asks(url))


def _asks(url: str) -> "Asks":
    """What pages ask, answered in this process; what that takes is loaded when somebody asks."""
    from dashboards.asks import Asks
    from nas.store import Store

    def what_if(job_id: int, *, limits: list[str], device: str | None) -> dict[str, Any]:
        from nas.analysis import what_if as asking

        with Store.open(url, read_only=True) as opened:
            job = opened.job(job_id)
            return asking.what_if(opened, job, limits=limits, device=device).to_dict()

    def explain(
        job_id: int, subnet: "Subnet", *, other: "Subnet | None", device: str | None
    ) -> dict[str, Any]:
        from nas.analysis import explanation

        with Store.open(url, read_only=True) as opened:
            job = opened.job(job_id)
            return explanation.explain(opened, job, subnet, other, device=device).to_dict()

    return Asks(what_if, explain)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
