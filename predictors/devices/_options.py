"""What `build` of every backend asks of its options and of what is installed."""

import importlib
import os
from collections.abc import Sequence

from search_spaces._errors import UsageError


def check_options(name: str, *, threads: int, batch: int, precision: str, precisions: Sequence[str]) -> None:
    """Raises UsageError for threads, a batch or a precision that device `name` cannot have."""
    cores = len(os.sched_getaffinity(0))
    if not 1 <= threads <= cores:
        raise UsageError(f"Device '{name}' cannot use {threads} threads.", f"This process has {cores} cores.")
    if batch < 1:
        raise UsageError(f"Device '{name}' cannot use a batch of {batch}.", "The smallest batch is 1.")
    if precision not in precisions:
        raise UsageError(
            f"Device '{name}' has no precision '{precision}'.", f"Options: {', '.join(precisions)}."
        )


def required(name: str, package: str, *, extra: str, importing: str | None = None) -> None:
    """Imports the package, or the module `importing` that does so in its own way.

    Raises UsageError that says how device `name` gets the package.
    """
    try:
        importlib.import_module(importing or package)
    except ImportError as error:
        raise UsageError(
            f"Device '{name}' needs {package}: pip install 'elastiform[{extra}]'", f"Import failed: {error}."
        ) from error
