"""A registry is the listing of a package's folder: the file's name is the component's name."""

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

from search_spaces._errors import NotFoundError, UsageError, did_you_mean


def names(package: str) -> list[str]:
    """The components of `package` (an importable package name), sorted, without importing any of them.

    Public modules that are none are named in the package's `NO_COMPONENTS`.
    """
    folder = importlib.import_module(package)
    others = getattr(folder, "NO_COMPONENTS", ())
    found = [module.name for module in pkgutil.iter_modules(folder.__path__) if not module.ispkg]
    return sorted(name for name in found if not name.startswith("_") and name not in others)


def load(package: str, name: str) -> ModuleType:
    """The module of one component; a dotted `name` is somebody's own module.

    Raises NotFoundError when there is no such file or module.
    """
    if "." in name:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise NotFoundError(
                f"The module '{name}' cannot be imported: {error}.",
                "A dotted name is your own module: install it or set PYTHONPATH.",
            ) from error
    known = names(package)
    if name not in known:
        raise NotFoundError(f"There is no '{name}' in {package}.", did_you_mean(name, known))
    return importlib.import_module(f"{package}.{name}")


def call(package: str, component: str, /, *args: Any, **options: Any) -> Any:
    """What the `build` of a component makes of `args` and the user's `options`.

    Raises NotFoundError as `load` does, and UsageError for a module without `build` and for options that it
    does not take or lacks.
    """
    build = getattr(load(package, component), "build", None)
    if not callable(build):
        raise UsageError(
            f"The module '{component}' has no function 'build'.", f"Used as one of {package}, it needs one."
        )
    parameters = list(inspect.signature(build).parameters.values())[len(args) :]
    known = {p.name: p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    listed = f"Options: {', '.join(known)}." if known else "It takes no options."
    for name in options:
        if name not in known and not open_ended:
            raise UsageError(f"'{component}' in {package} has no option '{name}'.", listed)
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in options:
            raise UsageError(f"'{component}' in {package} needs the option '{name}'.", listed)
    return build(*args, **options)
