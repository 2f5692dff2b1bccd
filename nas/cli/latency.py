"""`nas predict`, `nas measure`: how fast a subnet is."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli._options import AsJSON, JobName, StoreURL, store_url
from nas.cli._output import emit_json, emit_pairs, interruptible

if TYPE_CHECKING:
    from nas.store import Job, Store


def predict(
    job: JobName,
    arch: Annotated[str, typer.Argument(metavar="ARCH", help="An architecture as JSON, or a subnet's key.")],
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Predict the latency of an architecture with a job's predictor."""
    from nas.store import Store

    with Store.open(store_url(store), read_only=True) as opened:
        found = opened.job(job)
        architecture = _architecture(opened, found, arch)
        from nas import jobs

        _emit(jobs.predict(opened, found, architecture), as_json=as_json)


def measure(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `nas extract` wrote.")],
    backend: Annotated[
        str, typer.Option("--device", metavar="BACKEND", help="See `nas devices`.")
    ] = "torch_cpu",
    threads: Annotated[int, typer.Option("--threads", min=1)] = 1,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Samples in one forward pass.")] = 64,
    precision: Annotated[str, typer.Option("--precision", metavar="NAME")] = "fp32",
    as_json: AsJSON = False,
) -> None:
    """Measure the latency of an extracted subnet on this machine."""
    from search_spaces._errors import NotFoundError

    if not folder.is_dir():
        raise NotFoundError(f"There is no folder '{folder}'.", "`nas extract JOB --knee -o DIR` writes one.")
    from nas import jobs

    options = {"backend": backend, "threads": threads, "batch": batch, "precision": precision}
    with interruptible("Interrupted; nothing was measured."):
        data = jobs.measure(folder, options)
    _emit(data, as_json=as_json)


def parse_architecture(text: str) -> dict[str, Any]:
    """The JSON object in a text. Raises UsageError."""
    from search_spaces._errors import UsageError

    hint = 'Such as \'{"embed_dim": 64, "depth": 2, ...}\'; `nas spaces show SPACE` lists the choices.'
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error).partition(":")[0]
        raise UsageError(f"The architecture is not JSON: {reason}.", hint) from None
    if not isinstance(found, dict):
        raise UsageError("The architecture is not a JSON object.", hint)
    return found


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
