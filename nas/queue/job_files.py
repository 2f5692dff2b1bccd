"""What a job file may say that somebody sends to a server: components of ours, and files where they may be.

A job file is code for who runs it himself. One that comes over the network is none: it names no module, no
address, and no path but below the folders that the server was given.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nas.config import JobConfig, merged
from nas.config.components import named
from nas.config.paths import LOCAL
from search_spaces.errors import UsageError

# Texts that are looked up in the store, parsed, or shown, and open no file whatever stands in them.
NO_FILES = frozenset({"constraints", "name", "objectives", "separator", "source", "use"})
# What a job file has when it is sent; what comes later has to be judged before it may be in one.
SECTIONS = frozenset(
    {
        *("name", "seed", "reuse", "budget", "data", "supernet", "supernets", "train", "devices"),
        *(
            "objectives",
            "quality",
            "quality_on",
            "constraints",
            "baselines",
            "predictor",
            "search",
            "finalists",
        ),
        *("execution", "store"),
    }
)
# What would send something from a worker's machine, or run a program there.
NOT_SENT = frozenset({"notify"})
AT_HAND = ("local", "auto")  # Ray clusters of whoever runs the worker
PACKAGE = "package:"


def check_accepted(config: JobConfig, folders: Sequence[str]) -> None:
    """Raises UsageError for a job that names modules, addresses, or files outside of the folders."""
    for field, name in named(config).items():
        if "." in name:
            raise UsageError(
                f"{field} names the module '{name[:60]}', which would run as code.",
                "This server takes components that ship with Elastiform; `nas submit` takes any.",
            )
    if config.execution.address not in AT_HAND:
        raise UsageError(
            "execution.address names a Ray cluster, which would run the job's code.",
            f"This server takes {' and '.join(AT_HAND)}.",
        )
    for section in sorted(config.model_fields_set - SECTIONS):
        if getattr(config, section) != JobConfig.model_fields[section].get_default(call_default_factory=True):
            raise UsageError(
                f"{section} cannot be set in a job file that is sent to a server.",
                "It would act on the machine of whoever runs the job; `nas submit` takes it.",
            )
    allowed = [Path(folder).resolve() for folder in folders]
    for field, text in _texts(merged(config)):
        _check_text(field, text, allowed)


def _texts(tree: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """Every text that may name a file, with its dotted field."""
    if isinstance(tree, str):
        yield field, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            if key not in NO_FILES:
                yield from _texts(value, f"{field}.{key}" if field else str(key))
    elif isinstance(tree, list):
        for place, value in enumerate(tree):
            yield from _texts(value, f"{field}.{place}")


def _check_text(field: str, text: str, allowed: Sequence[Path]) -> None:
    if text.startswith(PACKAGE) and text.removeprefix(PACKAGE).isidentifier():
        return
    path = text.removeprefix(LOCAL)
    if path == text and ":" in text:
        raise UsageError(
            f"{field} is '{text[:80]}', which is to be had elsewhere.",
            "This server takes names of timm's models and files in its own folders.",
        )
    is_path = path != text or "/" in text or "\\" in text or text.startswith((".", "~"))
    if is_path and not _is_inside(path, allowed):
        places = ", ".join(f"'{folder}'" for folder in allowed)
        raise UsageError(
            f"{field} names '{text[:80]}', which is in no folder that this server may read.",
            f"Files may be in {places}." if allowed else "It was started without --files FOLDER.",
        )


def _is_inside(path: str, allowed: Sequence[Path]) -> bool:
    try:
        real = Path(path).resolve()
    except (OSError, ValueError, RuntimeError):  # a loop of links, a NUL
        return False
    return Path(path).is_absolute() and any(real.is_relative_to(folder) for folder in allowed)
