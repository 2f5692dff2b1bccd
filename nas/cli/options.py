"""The options and arguments that several verbs share, and what their values mean."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from nas.cli.stored import names


@dataclass(frozen=True, slots=True)
class Flags:
    """What may stand anywhere on the command line; verbs find it in `ctx.obj`."""

    quiet: bool = False
    debug: bool = False


StoreURL = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="NAS_STORE",
        metavar="URL",
        show_default=False,
        help="The store: sqlite:///FILE or postgresql://... [default: a file in your data folder]",
    ),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
JobName = Annotated[
    str, typer.Argument(metavar="JOB", help="A job's name or number.", autocompletion=names.jobs)
]
JobNames = Annotated[
    list[str],
    typer.Argument(metavar="JOB...", help="Names or numbers of jobs.", autocompletion=names.jobs),
]
JobFile = Annotated[Path, typer.Argument(metavar="FILE", help="The job file (YAML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=c", help="Set a value over the file's; may be given several times."),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="COND",
        help="Such as 'latency_ms<=5' or 'memory_bytes<=200MB'; may be given several times.",
    ),
]
Figure = Annotated[
    Path | None,
    typer.Option("--figure", "-o", metavar="PATH", help="Where the figure goes. [default: JOB-front.html]"),
]

OtherFigure = Annotated[
    Path | None,
    typer.Option("--figure", "-o", metavar="PATH", help="Where a figure goes. [default: none is drawn]"),
]
ShownDevice = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME", help="Latencies on this device.", autocompletion=names.devices),
]

Backend = Annotated[
    str,
    typer.Option("--backend", metavar="NAME", help="See `nas devices`.", autocompletion=names.backends),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="[default: 1]")]
Batch = Annotated[
    int | None, typer.Option("--batch", min=1, help="Samples in one forward pass. [default: 64]")
]
Precision = Annotated[str | None, typer.Option("--precision", metavar="NAME", help="[default: fp32]")]
MoreOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option", metavar="k=v", help="Another option of the backend; may be given several times."
    ),
]

Replace = Annotated[bool, typer.Option("--replace", help="The name may have stood for another device.")]


def device_options(
    backend: str, threads: int | None, batch: int | None, precision: str | None, more: list[str] | None
) -> dict[str, Any]:
    """What `nas.measuring.requests.build_device` takes. Raises UsageError for an option that is no `k=v`."""
    options = {"backend": backend, "threads": threads or 1, "batch": batch or 64}
    return options | {"precision": precision or "fp32"} | more_options(more)


def more_options(more: list[str] | None) -> dict[str, Any]:
    """The values of `k=v` by name. Raises UsageError for another form."""
    from nas.config import yaml
    from search_spaces.errors import UsageError

    options: dict[str, Any] = {}
    for text in more or ():
        key, equals, value = text.partition("=")
        if not key.strip() or not equals:
            raise UsageError(
                f"--option {text[:80]!r} is not of the form k=v.", "Example: --option graph=true"
            )
        options[key.strip()] = yaml.read_text(value, where=f"--option {key.strip()}")
    return options


def parse_architecture(text: str) -> dict[str, Any]:
    """The JSON object in a text. Raises UsageError."""
    from search_spaces.errors import UsageError

    hint = 'Such as \'{"embed_dim": 64, "depth": 2, ...}\'; `nas spaces show SPACE` lists the choices.'
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error).partition(":")[0]
        raise UsageError(f"The architecture is not JSON: {reason}.", hint) from None
    if not isinstance(parsed, dict):
        raise UsageError("The architecture is not a JSON object.", hint)
    return parsed


def named_numbers(option: str, texts: list[str] | None) -> dict[str, str]:
    """The texts of NAME=VALUE by name; what the values may be says `nas.limits.Limit`.

    Raises UsageError for another form, and for a name that is given twice.
    """
    from search_spaces.errors import UsageError

    values: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = (part.strip() for part in text.partition("="))
        if not name or not equals or not value:
            raise UsageError(
                f"{option} {text[:80]!r} is not of the form NAME=VALUE.", f"Example: {option} latency_ms=12"
            )
        if name in values:
            raise UsageError(f"{option} names {name[:40]!r} twice.", "Give each quantity once.")
        values[name] = value
    return values


def store_url(url: str | None) -> str:
    """The URL that was given, or the default one."""
    from nas.store import default_url

    return url or default_url()
