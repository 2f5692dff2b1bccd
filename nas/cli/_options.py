"""The options and arguments that several verbs share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer


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
JobName = Annotated[str, typer.Argument(metavar="JOB", help="A job's name or number.")]
JobFile = Annotated[Path, typer.Argument(metavar="FILE", help="The job file (YAML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=c", help="Set a value over the file's; may be given several times."),
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="COND", help="Such as 'latency_ms<=5'; may be given several times."),
]
Figure = Annotated[
    Path | None,
    typer.Option("--figure", "-o", metavar="PATH", help="Where the figure goes. [default: JOB-front.html]"),
]

Backend = Annotated[str, typer.Option("--backend", metavar="NAME", help="See `nas devices`.")]
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
    """What `nas.measuring.build_device` takes. Raises UsageError for an option that is no `k=v`."""
    from nas import _yaml
    from search_spaces._errors import UsageError

    options = {"backend": backend, "threads": threads or 1, "batch": batch or 64}
    options["precision"] = precision or "fp32"
    for text in more or ():
        key, equals, value = text.partition("=")
        if not key.strip() or not equals:
            raise UsageError(
                f"--option {text[:80]!r} is not of the form k=v.", "Example: --option graph=true"
            )
        options[key.strip()] = _yaml.read_text(value, where=f"--option {key.strip()}")
    return options


def store_url(url: str | None) -> str:
    """The URL that was given, or the default one."""
    from nas.store import default_url

    return url or default_url()
