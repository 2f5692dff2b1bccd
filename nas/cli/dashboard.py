"""`nas dashboard`."""

import ipaddress
from typing import Annotated

import typer

from nas.cli.options import StoreURL, store_url
from nas.cli.output import note


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
    app.serve(store_url(store), host=host, port=port)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
