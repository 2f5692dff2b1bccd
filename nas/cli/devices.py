"""`nas devices`: what can be measured on, and how well timings repeat here."""

from typing import Annotated, Any

import typer

from nas.cli._options import AsJSON, StoreURL, store_url
from nas.cli._output import emit_json, emit_pairs, emit_table, note

WIDTH = 256  # of the network that `check` measures
ROUNDS = 8

app = typer.Typer(help="What can be measured on.")


@app.callback(invoke_without_command=True)
def _devices(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        ls(ctx, store=None, as_json=False)


@app.command("ls")
def ls(ctx: typer.Context, store: StoreURL = None, as_json: AsJSON = False) -> None:
    """List the backends here and the devices that the store knows."""
    from search_spaces._registry import names

    backends = names("predictors.devices")
    devices = _stored(store_url(store), quiet=ctx.obj.quiet)
    if as_json:
        emit_json({"backends": backends, "devices": devices})
        return
    emit_pairs({"backends": ", ".join(backends)})
    shown = ("backend", "cpu", "threads", "batch", "precision")
    rows = [(d["id"], d["name"], *(d["fingerprint"].get(key) for key in shown)) for d in devices]
    if rows:
        emit_table(("ID", "DEVICE", *map(str.upper, shown)), rows, right=("ID", "THREADS", "BATCH"))


@app.command("check")
def check(
    backend: Annotated[str, typer.Argument(metavar="BACKEND")] = "torch_cpu",
    threads: Annotated[int, typer.Option("--threads", min=1)] = 1,
    batch: Annotated[int, typer.Option("--batch", min=1)] = 64,
    precision: Annotated[str, typer.Option("--precision", metavar="NAME")] = "fp32",
    as_json: AsJSON = False,
) -> None:
    """Measure a small network twice. Prints how far the two latencies are apart."""
    from search_spaces._errors import JobFailedError
    from search_spaces._registry import load

    device = load("predictors.devices", backend).build(
        name=backend, threads=threads, batch=batch, precision=precision
    )
    import torch
    from torch import nn

    from predictors._measurement import Failure, measure

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    example = torch.randn(batch, WIDTH, generator=torch.Generator().manual_seed(0))
    twice = {"first": network, "second": network}
    found = measure(device, twice, example, seed=0, rounds=ROUNDS, max_rounds=ROUNDS, extras=False)
    timed = []
    for result in found.values():
        if isinstance(result, Failure):
            raise JobFailedError(f"The backend '{backend}' cannot time a network: {result.reason}.")
        timed.append({"latency_ms": result.latency_ms, "spread_ms": result.spread_ms})
    first, second = timed
    apart = abs(first["latency_ms"] - second["latency_ms"]) / first["latency_ms"]
    data: dict[str, Any] = {"fingerprint": device.fingerprint(), "first": first, "second": second}
    if as_json:
        emit_json(data | {"difference": apart})
        return
    lines = {
        name: f"{m['latency_ms']:.4f} ms, spread {m['spread_ms']:.4f} ms"
        for name, m in (("first", first), ("second", second))
    }
    emit_pairs({"device": backend} | lines | {"difference": f"{100 * apart:.2f} %"})


def _stored(url: str, *, quiet: bool) -> list[dict[str, Any]]:
    from nas.store import Store
    from search_spaces._errors import StoreError

    try:
        with Store.open(url, read_only=True) as opened:
            found = opened.devices()
    except StoreError as error:
        note(f"No devices from the store: {error.message}", quiet=quiet)
        return []
    return [
        {"id": d.id, "name": d.name, "fingerprint": d.fingerprint, "created_at": d.created_at} for d in found
    ]
