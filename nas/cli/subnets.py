"""`nas generate`, `nas predict`, `nas measure`: subnets for new limits, and how fast one is."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.options import (
    AsJSON,
    Batch,
    JobName,
    MoreOptions,
    Precision,
    StoreURL,
    Threads,
    Where,
    device_options,
    more_options,
    parse_architecture,
    store_url,
)
from nas.cli.output import (
    amount,
    emit_json,
    emit_pairs,
    emit_table,
    heading,
    interruptible,
    is_share,
    note,
    with_error,
)
from nas.cli.stored import names

NOTHING = "Interrupted; nothing was measured."

if TYPE_CHECKING:
    from nas.generation import Emitted
    from nas.store import Job, Store


def generate(
    ctx: typer.Context,
    job: JobName,
    where: Where = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many at most.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another one, other architectures.")] = 0,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Above 1 more different ones, below 1 safer ones.")
    ] = 1.0,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Emit architectures for constraints that the job was not searched for.

    \b
    Example:
      nas generate JOB --where 'latency_ms<=6' -n 5
    """
    from nas.limits import Limit

    limits = [Limit.parse(text) for text in where or ()]
    from nas.store import Store

    with Store.open(store_url(store), read_only=True) as opened:
        stored = opened.job(job)
        from nas import generation

        made = generation.generate(opened, stored, limits, count, seed=seed, temperature=temperature)
    if as_json:
        emit_json(made.to_dict())
        return
    columns = ("SUBNET", "PARAMS", "MACS", "PREDICTED MS", f"PREDICTED {heading(made.metric)}", "EVALUATED")
    emit_table(columns, [_row(one, made.metric) for one in made.subnets], right=columns[1:])
    kept = f"{100 * made.feasible_rate:.0f} % of the raw samples keep what was asked for."
    if made.moved:
        kept = "No raw sample keeps what was asked for: these were moved there choice by choice."
    hint = f"--json prints the architectures; `nas extract {stored.id} --arch JSON -o DIR` takes one out."
    note(f"\n{kept}\n{hint}", quiet=ctx.obj.quiet)


SubnetOrArchitecture = Annotated[
    str | None,
    typer.Argument(
        metavar="ARCH", help="An architecture as JSON, or a subnet's key.", autocompletion=names.subnets
    ),
]


def predict(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="JOB|MODEL",
            autocompletion=names.jobs,
            help="A job's name or number; with --device timm:MODEL, a folder, or FILE.py:build, which is "
            "code and is run.",
        ),
    ],
    arch: SubnetOrArchitecture = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="NAME", help="A device that `nas devices fit` has fitted."),
    ] = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Predict the latency of an architecture with a job's predictor, or of any model on a fitted device.

    \b
    Examples:
      nas predict JOB SUBNET
      nas predict --device laptop timm:swin_tiny_patch4_window7_224
    """
    from nas.store import Store
    from search_spaces.errors import UsageError

    if device is None and arch is None:
        raise UsageError(
            "`nas predict JOB` lacks an architecture.", "Of any model: nas predict --device NAME MODEL"
        )
    if device is not None and arch is not None:
        raise UsageError("--device predicts a model, which has no ARCH.", "nas predict --device NAME MODEL")
    with Store.open(store_url(store), read_only=True) as opened:
        if device is not None:
            from nas.measuring.models import fitted

            _emit(fitted.predict(opened, device, subject), as_json=as_json)
            return
        stored = opened.job(subject)
        architecture = _architecture(opened, stored, arch or "")
        from nas import jobs

        _emit(jobs.predict(opened, stored, architecture), as_json=as_json)


def measure(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `nas extract` wrote.")],
    backend: Annotated[
        str | None,
        typer.Option("--device", metavar="BACKEND", help="See `nas devices`. [default: torch_cpu]"),
    ] = None,
    threads: Threads = None,
    batch: Batch = None,
    precision: Precision = None,
    option: MoreOptions = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            autocompletion=names.formats,
            metavar="NAME",
            help="Time the file in that format as it stands; defaults are those of the front's device.",
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load a file that may run code of whoever wrote it.")
    ] = False,
    as_json: AsJSON = False,
) -> None:
    """Measure the latency of an extracted subnet on this machine: our own network, or the file itself.

    \b
    Examples:
      nas measure subnet
      nas measure subnet --format onnx
    """
    from search_spaces.errors import NotFoundError, UsageError

    if not folder.is_dir():
        raise NotFoundError(f"There is no folder '{folder}'.", "`nas extract JOB --knee -o DIR` writes one.")
    if trust and format is None:
        raise UsageError("--trust is for a file that is timed as it stands.", "Name its format: --format.")
    if format is not None:
        given = {"backend": backend, "threads": threads, "batch": batch, "precision": precision}
        asked = {key: value for key, value in given.items() if value is not None} | more_options(option)
        _measure_file(folder, format, asked, trust=trust, as_json=as_json)
        return
    from nas import jobs

    options = device_options(backend or "torch_cpu", threads, batch, precision, option)
    with interruptible(NOTHING):
        data = jobs.measure(folder, options)
    _emit(data, as_json=as_json)
    if not as_json:
        note("\nOur own network with the folder's weights; --format times the file.", quiet=ctx.obj.quiet)


def _measure_file(folder: Path, format: str, asked: dict[str, Any], *, trust: bool, as_json: bool) -> None:
    from nas.measuring.folders.timed import compared_line, measure_file

    with interruptible(NOTHING):
        data = measure_file(folder, format, asked, trust=trust)
    if as_json:
        emit_json(data)
        return
    front = data.pop("front")
    line = "it tells no latency" if front is None else compared_line(front)
    emit_pairs({key: _cell(value) for key, value in data.items()} | {"front": line})


def _row(one: "Emitted", metric: str) -> tuple[object, ...]:
    return (
        one.subnet,
        amount(one.params),
        amount(one.macs),
        with_error(one.latency_ms, one.latency_std_ms),
        with_error(one.quality, one.quality_std, percent=is_share(metric)),
        with_error(one.evaluated, None, percent=is_share(metric)),
    )


def _architecture(opened: "Store", job: "Job", text: str) -> dict[str, Any]:
    if text.lstrip().startswith(("{", "[", '"')):
        return parse_architecture(text)
    return opened.subnet(job, text).architecture


def _emit(data: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        emit_json(data)
    else:
        emit_pairs({key: _cell(value) for key, value in data.items()})


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value) if isinstance(value, dict | list) else value
