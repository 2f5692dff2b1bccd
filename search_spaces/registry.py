"""A registry is the listing of a package's folder: the file's name is the component's name.

A dotted name is somebody's own module, and importing it runs its code. Whoever names it in a job file, on the
command line or in Python may do so. A name that comes out of a store goes through `trusted` first.
"""

import ast
import importlib
import inspect
import os
import pkgutil
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from search_spaces.bounds import short
from search_spaces.errors import NotFoundError, UsageError, did_you_mean

ONLY_OURS = "NAS_ONLY_BUILTIN"  # set: no module of somebody's own is imported
ALLOWED = "NAS_COMPONENTS"  # names of modules, with commas between them, that stores may name


def names(package: str) -> list[str]:
    """The components of `package` (an importable package name), sorted, without importing any of them."""
    folder = importlib.import_module(package)
    return sorted(module.name for module in pkgutil.iter_modules(folder.__path__))


def load(package: str, name: str) -> ModuleType:
    """The module of one component; a dotted `name` is somebody's own module.

    Raises NotFoundError when there is no such file or module, UsageError for a module that fails.
    """
    if "." in name:
        return _own_module(name)
    components = names(package)
    if name not in components:
        raise NotFoundError(f"There is no '{name}' in {package}.", did_you_mean(name, components))
    return importlib.import_module(f"{package}.{name}")


def constant(package: str, name: str, word: str, default: Any) -> Any:
    """A constant at the top of a component's file, read without importing it; `default` where there is none.

    Somebody's own module is imported. Raises what `load` raises.
    """
    if "." in name or name not in names(package):
        return getattr(load(package, name), word, default)
    (folder,) = importlib.import_module(package).__path__
    for node in ast.parse((Path(folder) / f"{name}.py").read_bytes()).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [word]:
            return ast.literal_eval(node.value)
    return default


def call(package: str, component: str, /, *args: Any, **options: Any) -> Any:
    """What the `build` of a component makes of `args` and the user's `options`.

    Raises NotFoundError as `load` does, and UsageError for a module without `build` and for options that it
    does not take or lacks.
    """
    build = builder(package, component)
    for problem in option_problems(package, component, options, given=len(args)):
        raise problem
    return build(*args, **options)


def builder(package: str, component: str) -> Callable[..., Any]:
    """The `build` of a component. Raises what `load` raises, and UsageError for a module without one."""
    build = getattr(load(package, component), "build", None)
    if not callable(build):
        raise UsageError(
            f"The module '{component}' has no function 'build'.", f"Used as one of {package}, it needs one."
        )
    return cast(Callable[..., Any], build)


def option_problems(
    package: str, component: str, options: Iterable[str], *, given: int = 0
) -> list[UsageError]:
    """What is wrong with the names of these options: those that `build` does not take, those that it lacks.

    given: how many arguments the caller adds in front of the options.
    """
    parameters = list(inspect.signature(builder(package, component)).parameters.values())[given:]
    accepted = {p.name: p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    listed = f"Options: {', '.join(accepted)}." if accepted else "It takes no options."
    unknown = [name for name in options if name not in accepted and not open_ended]
    missing = [name for name, p in accepted.items() if p.default is p.empty and name not in options]
    return [
        *(UsageError(f"'{component}' in {package} has no option '{name[:60]}'.", listed) for name in unknown),
        *(UsageError(f"'{component}' in {package} needs the option '{name}'.", listed) for name in missing),
    ]


def allow(names: Iterable[str]) -> None:
    """From now on stores may name these modules; processes that this one starts know it, too."""
    allowed = _allowed() | {name for name in names if "." in name}
    if allowed:
        os.environ[ALLOWED] = ",".join(sorted(allowed))


def trusted(name: object, *, where: str) -> str:
    """A component's name out of a store. Raises UsageError for a module that nobody here has allowed."""
    if not isinstance(name, str):
        raise UsageError(f"{where} names no component.", "The store may be damaged: `nas doctor` tells.")
    if "." in name and name not in _allowed():
        raise UsageError(
            f"{where} names the module {short(name)}, which would run as code and was not allowed here.",
            f"If you know it and trust it, set {ALLOWED}={name} (several: with commas between them).",
        )
    return name


def forbid_modules() -> None:
    """From now on this process, and those that it starts, import no module of somebody's own, whoever names
    it.
    """
    os.environ[ONLY_OURS] = "1"


def _allowed() -> set[str]:
    return {name for name in os.environ.get(ALLOWED, "").split(",") if name}


def _own_module(name: str) -> ModuleType:
    hint = "A dotted name is your own module: install it or set PYTHONPATH."
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(
            f"{short(name)} is no name of a module.", "A module is named such as package.module."
        )
    if os.environ.get(ONLY_OURS):
        raise UsageError(
            f"The module {short(name)} would run as code, and here only what ships with Elastiform may.",
            "Name a component without a dot in its name.",
        )
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotFoundError(f"The module {short(name)} cannot be imported: {_line(error)}.", hint) from error
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {_line(error)}".removesuffix(": ")
        raise UsageError(f"The module {short(name)} fails when it is imported: {reason}.") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")
