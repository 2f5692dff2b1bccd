"""`nas devices`, `nas device-agent`: what can be measured on, by jobs here and elsewhere."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.options import (
    AsJSON,
    Backend,
    Batch,
    JobName,
    MoreOptions,
    Precision,
    Replace,
    StoreURL,
    Threads,
    device_options,
    store_url,
)
from nas.cli.output import emit, emit_json, emit_pairs, emit_table, end_process, heading, interruptible, note
from nas.cli.stored import names
from nas.cli.terminal.progress import shown_progress

if TYPE_CHECKING:
    from nas.store import Device as DeviceRow
    from nas.store import Store
    from predictors.devices import Device


INTERRUPTION = "Interrupted; what was measured is saved. The same command goes on."
DeviceName = Annotated[
    str,
    typer.Argument(metavar="NAME", help="What the device is called.", autocompletion=names.devices),
]

app = typer.Typer(help="What can be measured on.")


@app.callback(invoke_without_command=True)
def _devices(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        ls(ctx, store=None, as_json=False)


@app.command("ls")
def ls(ctx: typer.Context, store: StoreURL = None, as_json: AsJSON = False) -> None:
    """List the backends here, and the devices and agents that the store knows.

    \b
    Example:
      nas devices ls
    """
    from nas.measuring.devices import backends

    data = {"backends": backends()} | _stored(store_url(store), quiet=ctx.obj.quiet)
    if as_json:
        emit_json(data)
        return
    emit_table(
        ("BACKEND", "HERE"), [(b["name"], "yes" if b["available"] else b["reason"]) for b in data["backends"]]
    )
    if data["devices"]:
        shown = ["id", "device", "backend", "cpu", "threads", "batch", "precision", "reference_ms"]
        shown += ["measurements", "repeatability"]
        rows = [[_cell(name, device[name]) for name in shown] for device in data["devices"]]
        columns = [heading(name) for name in shown]
        right = ("ID", "THREADS", "BATCH", "REFERENCE MS", "MEASUREMENTS", "REPEATABILITY")
        emit("")
        emit_table(columns, rows, right=right)
    if data["agents"]:
        agents = [
            (a["agent"], a["device"], "live" if a["live"] else "gone", a["last_seen"] and _moment(a))
            for a in data["agents"]
        ]
        emit("")
        emit_table(("AGENT", "DEVICE", "STATE", "LAST SEEN (UTC)"), agents)


@app.command("add")
def add(
    name: DeviceName,
    backend: Backend = "torch_cpu",
    threads: Threads = None,
    batch: Batch = None,
    precision: Precision = None,
    option: MoreOptions = None,
    replace: Replace = False,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Register a device of this machine. Job files may then say `devices: [NAME]`.

    \b
    Example:
      nas devices add laptop --backend torch_cpu --batch 1
    """
    options = device_options(backend, threads, batch, precision, option)
    from nas.measuring import devices
    from nas.store import Store

    with Store.open(store_url(store)) as opened, interruptible(f"Interrupted; '{name}' is not registered."):
        row = devices.add(opened, name, options, replace=replace)
    data = {"id": row.id, "device": row.name, "reference_ms": row.reference_ms, "options": row.options}
    if as_json:
        emit_json(data | {"fingerprint": row.fingerprint})
    else:
        emit_pairs({"device": f"{row.name} ({row.id})", "calibrator": f"{row.reference_ms:.4f} ms"})


@app.command("check")
def check(
    name: Annotated[
        str, typer.Argument(metavar="BACKEND|NAME", autocompletion=names.measurable)
    ] = "torch_cpu",
    threads: Threads = None,
    batch: Batch = None,
    precision: Precision = None,
    option: MoreOptions = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Measure a small network twice. Prints how far the two latencies are apart, and what else is known.

    \b
    Examples:
      nas devices check onnxruntime_cpu --batch 1
      nas devices check laptop
    """
    given = any(value is not None for value in (threads, batch, precision, option))
    options = device_options(name, threads, batch, precision, option)
    with interruptible("Interrupted; nothing was checked."):
        device, row = _device_to_check(name, options, store_url(store), given=given)
        from nas.measuring.devices import check as check_device

        data = check_device(device, row)
    if as_json:
        emit_json(data)
        return
    lines = {
        key: f"{data[key]['latency_ms']:.4f} ms, spread {data[key]['spread_ms']:.4f} ms"
        for key in ("first", "second")
    }
    clean = f"{data['calibrator_ms']:.4f} ms"
    if data["stored_calibrator_ms"] is not None:
        clean += f", {100 * data['calibrator_change']:+.1f} % against when it was registered"
    words = {True: "yes", False: "not available"}
    emit_pairs(
        {"device": name}
        | lines
        | {"difference": f"{100 * data['difference']:.2f} %", "calibrator": clean}
        | {"contention": f"{data['contention']:.3f}{_shared(data['contention'])}"}
        | {"peak memory": words[data["peak_memory"]], "energy": words[data["energy"]]}
    )


@app.command("measure")
def measure(
    ctx: typer.Context,
    name: DeviceName,
    job: JobName,
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="[default: as many as the job's own]")
    ] = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Measure a finished job on another device. `nas front JOB --device NAME` then shows it there.

    \b
    Example:
      nas devices measure laptop JOB
    """
    from nas.measuring import further_device
    from nas.store import Store

    with Store.open(store_url(store)) as opened, interruptible(INTERRUPTION):
        stored = opened.job(job)
        with shown_progress(quiet=ctx.obj.quiet) as progress:
            end = partial(end_process, INTERRUPTION)
            data = further_device.measure_on(
                opened, name, stored, progress=progress, samples=samples, end=end
            )
    if as_json:
        emit_json(data)
        return
    score = {key: value for key, value in data["score"].items() if isinstance(value, float)}
    emit_pairs(
        {"device": data["device"], "measured": data["measured"], "finalists": data["finalists"]}
        | {"predictor": ", ".join(f"{key} {value:.3g}" for key, value in score.items())}
    )
    note(f"\nThe front there: nas front {stored.id} --device {data['device']}", quiet=ctx.obj.quiet)


@app.command("fit")
def fit(
    ctx: typer.Context,
    name: DeviceName,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--models",
            metavar="MODEL",
            help="timm:NAME,NAME,... (a * stands for any letters), a folder, or FILE.py:build, which is code "
            "and is run; may be given several times. [default: twenty of timm]",
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="NAME", help="A device whose predictor is a beginning.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=2, help="Fewest visits to each model.")] = 3,
    max_rounds: Annotated[int, typer.Option("--max-rounds", min=2, help="Most visits to each model.")] = 10,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Measure some models on a device, and keep a predictor of any other one with it.

    What was measured before is not measured again. `nas predict --device NAME MODEL` then answers.

    \b
    Examples:
      nas devices fit laptop
      nas devices fit laptop --models timm:resnet50,vit_small_patch16_224 --models my.py:build
    """
    from nas.measuring.models import fitted
    from nas.measuring.models.named import TIMM, listed
    from nas.store import Store

    names = listed(models) if models else [f"{TIMM}{model}" for model in fitted.TWENTY]
    with (
        Store.open(store_url(store)) as opened,
        interruptible(INTERRUPTION),
        shown_progress(quiet=ctx.obj.quiet) as progress,
    ):
        most = max(rounds, max_rounds)
        data = fitted.fit(
            opened, name, names, progress=progress, rounds=rounds, max_rounds=most, source=source
        )
    if as_json:
        emit_json(data)
        return
    rows = [(one["model"], f"{one['measured_ms']:.4g}", f"{one['spread_ms']:.2g}") for one in data["models"]]
    emit_table(("MODEL", "MEASURED MS", "SPREAD MS"), rows, right=("MEASURED MS", "SPREAD MS"))
    emit("")
    emit_pairs(
        {
            "error on left-out models": f"{100 * data['left_out_error']:.1f} %",
            "90 % interval": f"+-{100 * data['interval']:.1f} % for models like these",
            "chosen": data["why"],
        }
    )
    note(f"\nAny model there: nas predict --device {data['device']} MODEL", quiet=ctx.obj.quiet)


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
    """Measure on this machine what jobs elsewhere ask for. Until Ctrl-C.

    \b
    Example:
      nas device-agent pi --backend onnxruntime_cpu --batch 1 --store postgresql://nas@db.example/nas
    """
    options = device_options(backend, threads, batch, precision, option)
    from nas.measuring.agent import serve
    from nas.store import Store

    def tell(text: str) -> None:
        note(text, quiet=ctx.obj.quiet)

    with Store.open(store_url(store)) as opened, interruptible(f"Agent '{name}' has left."):
        end = partial(end_process, f"Agent '{name}' has left in the middle of a measurement.")
        measured = serve(opened, name, options, once=once, replace=replace, tell=tell, end=end)
    if as_json:
        emit_json({"agent": name, "measured": measured})


def _device_to_check(
    name: str, options: dict[str, Any], url: str, *, given: bool
) -> "tuple[Device, DeviceRow | None]":
    """A backend with these options, or else a registered device and its row."""
    from nas.errors import StoreError
    from nas.measuring.remote import RemoteDevice
    from nas.measuring.requests import build_device
    from nas.measuring.targets import registered
    from nas.store import Store
    from search_spaces.errors import NotFoundError, UsageError, did_you_mean
    from search_spaces.registry import names

    choices = names("predictors.devices")
    if name in choices or "." in name:
        return build_device(name, options), None
    try:
        with Store.open(url, read_only=True) as opened:
            choices += [row.name for row in opened.devices() if row.options is not None]
            device = registered(opened, name)
            if isinstance(device, RemoteDevice):
                hint = "Run `nas devices check` with its backend on its machine."
                raise UsageError(f"'{name}' is the device of an agent elsewhere.", hint)
            row = opened.device(name)
    except (NotFoundError, StoreError) as error:
        hint = did_you_mean(name, set(choices))
        raise NotFoundError(f"There is no '{name}' among the backends and the devices.", hint) from error
    if given:
        raise UsageError(
            f"Device '{name}' has the options that it was registered with.",
            "Name a backend to try others.",
        )
    return device, row


def _stored(url: str, *, quiet: bool) -> dict[str, Any]:
    from nas.errors import StoreError
    from nas.store import Store

    try:
        with Store.open(url, read_only=True) as opened:
            return stored_devices(opened)
    except StoreError as error:
        note(f"No devices from the store: {error.message}", quiet=quiet)
        return {"devices": [], "agents": []}


def stored_devices(opened: "Store") -> dict[str, Any]:
    """The devices and agents that a store knows, as plain data: those of the JSON of `nas devices`."""
    from nas.results import frames

    agents = [
        {"agent": a.name, "device": a.device.name, "live": a.live, "last_seen": a.last_seen}
        for a in opened.agents()
    ]
    return {"devices": frames.devices(opened).to_dict("records"), "agents": agents}


def _cell(name: str, value: Any) -> object:
    if name == "repeatability" and value is not None:
        return f"{100 * value:.2f} %"
    return f"{value:.4f}" if isinstance(value, float) else value


def _moment(agent: dict[str, Any]) -> str:
    return f"{agent['last_seen']:%Y-%m-%d %H:%M:%S}"


def _shared(contention: float) -> str:
    return " (above 1.05: the machine is shared with other work)" if contention > 1.05 else ""
