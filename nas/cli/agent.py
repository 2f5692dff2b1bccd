"""`nas device-agent`: measures on this machine for jobs that run elsewhere."""

from functools import partial
from typing import Annotated

import typer

from nas.cli._options import (
    AsJSON,
    Backend,
    Batch,
    MoreOptions,
    Precision,
    Replace,
    StoreURL,
    Threads,
    device_options,
    store_url,
)
from nas.cli._output import emit_json, end_process, interruptible, note


def device_agent(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What job files call this machine's device.")],
    backend: Backend = "torch_cpu",
    threads: Threads = None,
    batch: Batch = None,
    precision: Precision = None,
    option: MoreOptions = None,
    once: Annotated[bool, typer.Option("--once", help="Leave when nothing is queued.")] = False,
    replace: Replace = False,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Measure on this machine what jobs elsewhere ask for. Until Ctrl-C."""
    options = device_options(backend, threads, batch, precision, option)
    from nas.agent import serve
    from nas.store import Store

    def tell(text: str) -> None:
        note(text, quiet=ctx.obj.quiet)

    with Store.open(store_url(store)) as opened, interruptible(f"Agent '{name}' has left."):
        end = partial(end_process, f"Agent '{name}' has left in the middle of a measurement.")
        measured = serve(opened, name, options, once=once, replace=replace, tell=tell, end=end)
    if as_json:
        emit_json({"agent": name, "measured": measured})
