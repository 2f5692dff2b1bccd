"""`nas extract`: a subnet as a folder that runs elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.fronts import chosen_key
from nas.cli.options import AsJSON, JobName, StoreURL, Where, parse_architecture, store_url
from nas.cli.output import emit, emit_json, note
from nas.cli.stored import names

if TYPE_CHECKING:
    from nas.exported.forms import Timer

OPSET = 18
AS_USUAL = ("safetensors", "fp32", 0, OPSET, False)


def extract(
    ctx: typer.Context,
    job: JobName,
    folder: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="A new or empty folder.")],
    subnet: Annotated[
        str | None,
        typer.Option(
            "--subnet", metavar="KEY", help="The beginning of a subnet's key.", autocompletion=names.subnets
        ),
    ] = None,
    arch: Annotated[
        str | None, typer.Option("--arch", metavar="JSON", help="Any architecture of the job's space.")
    ] = None,
    where: Where = None,
    knee: Annotated[bool, typer.Option("--knee", help="The best compromise on the front.")] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="NAME",
            help="inherited, specialised, finetuned or scratch. [default: those that the front reports]",
            show_default=False,
        ),
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            autocompletion=names.formats,
            metavar="NAME,...",
            help="safetensors, torch_export, onnx, openvino, hf or gguf; of several each in its own folder.",
        ),
    ] = "safetensors",
    precision: Annotated[
        str,
        typer.Option(
            "--precision", metavar="NAME", help="fp32, fp16, bf16, int8, q8_0 or q4_0, as the format has it."
        ),
    ] = "fp32",
    calibration: Annotated[
        int,
        typer.Option(
            "--calibration",
            metavar="N",
            min=0,
            help="Training examples that fix the ranges of int8; 0: they are found in every forward pass.",
        ),
    ] = 0,
    opset: Annotated[int, typer.Option("--opset", help="Of ONNX.")] = OPSET,
    timed: Annotated[
        bool,
        typer.Option("--measure", help="Time the file on the front's device, here, for the card."),
    ] = False,
    elastic: Annotated[
        bool, typer.Option("--elastic", help="The whole front on one set of weights, with elastic.py.")
    ] = False,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Write a subnet as a stand-alone checkpoint. Prints the files.

    \b
    Examples:
      nas extract JOB --knee -o subnet
      nas extract JOB --where 'latency_ms<=5' --format onnx,hf -o subnet
      nas extract JOB --elastic -o nets
    """
    from nas.errors import ConflictError
    from search_spaces.errors import UsageError

    named = (subnet is not None) + (arch is not None) + bool(where) + knee
    if named != 1 and not elastic:
        hint = "Try --knee."
        raise UsageError("Say which subnet: exactly one of --subnet, --arch, --where and --knee.", hint)
    if elastic and (named or weights or (formats, precision, calibration, opset, timed) != AS_USUAL):
        raise UsageError("--elastic takes the whole front, in one format.", "Leave the other options out.")
    architecture = None if arch is None else parse_architecture(arch)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(f"'{folder}' exists and is not an empty folder.", "Name another one with -o.")
    from nas.store import Store

    with Store.open(store_url(store), read_only=True) as opened:
        stored = opened.job(job)
        from nas.exported.forms import Packing, listed_formats
        from nas.results import extraction
        from nas.spaces.job_space import space_of

        if elastic:
            key, files = None, extraction.export_front(opened, stored, folder)
        else:
            if architecture is None:
                key = chosen_key(opened, stored, subnet=subnet, where=where, knee=knee)
            else:
                key = space_of(opened, stored).architecture(architecture).key
            chosen: Any = key if architecture is None else architecture
            names = listed_formats(formats)
            packing = Packing(names, precision, opset, calibration, _timer(timed=timed))
            files = extraction.export(opened, stored, chosen, folder, weights=weights, packing=packing)
    what = "The front" if key is None else f"Subnet {key}"
    if as_json:
        emit_json({"job": stored.name, "subnet": key, "files": [str(file) for file in files]})
    else:
        emit("\n".join(map(str, files)))
        note(f"{what} of job '{stored.name}' is in {folder}", quiet=ctx.obj.quiet)


def _timer(*, timed: bool) -> "Timer | None":
    if not timed:
        return None
    from nas.measuring.folders.timed import card_figures

    return card_figures
