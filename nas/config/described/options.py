"""The options of components: types, defaults and meanings, read off the files without importing them.

They are the arguments of a component's `build` that the program does not pass itself. What one means stands
in the docstring, `name: meaning` or `name, other: meaning`. A dataclass among the arguments is its fields.
"""

import ast
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[3]
_LATER = r"(?=\s*\bRaises [A-Z]|\n\n|\Z)"
_MOST_IMPORTS = 4  # that are followed for a constant

# What the program passes, or what is a field of the job file's section, by the folder of components.
PASSED = {
    "nas/datasets": (),
    "nas/searchers": ("problem",),
    "predictors/devices": ("name", "threads", "batch", "precision"),
    "predictors/latency": ("space", "batch", "element_bytes", "seed"),
    "search_spaces/families": ("name",),
    "supernet/families": ("space", "seed"),
    "supernet/tasks": (),
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    type: as Python writes it.  default: likewise, a constant by its value; None: it has to be given.
    value: of the default, where `has_value`.  meaning: "" where nothing is said.
    """

    name: str
    type: str
    default: str | None
    value: object
    has_value: bool
    meaning: str


def components(folder: str) -> list[Path]:
    """The files of the components in a folder of this program, by name."""
    return sorted(path for path in (ROOT / folder).glob("*.py") if path.stem != "__init__")


def options(path: Path, passed: Collection[str] = ()) -> list[Option]:
    """Those of the component in a file, in their order."""
    tree = _tree(path)
    build = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "build")
    return list(_of_function(build, path, passed))


def _of_function(build: ast.FunctionDef, path: Path, passed: Collection[str]) -> Iterator[Option]:
    arguments = build.args
    plain = [*arguments.posonlyargs, *arguments.args]
    missing = [None] * (len(plain) - len(arguments.defaults))
    defaults = [*missing, *arguments.defaults, *arguments.kw_defaults]
    given = zip([*plain, *arguments.kwonlyargs], defaults, strict=True)
    taken = [(one, default) for one, default in given if one.arg not in passed]
    further = (
        [arguments.kwarg.arg] if arguments.kwarg else []
    )  # fields of a config, which is said after the options
    meanings = _meanings(ast.get_docstring(build) or "", [*(one.arg for one, _ in taken), *further])
    for one, default in taken:
        section = _dataclass(one.annotation, path)
        if section is None:
            yield _option(one.arg, one.annotation, default, path, meanings.get(one.arg, ""))
        else:
            yield from _of_class(*section)


def _of_class(section: ast.ClassDef, path: Path) -> Iterator[Option]:
    fields = [node for node in section.body if isinstance(node, ast.AnnAssign)]
    names = [node.target.id for node in fields if isinstance(node.target, ast.Name)]
    meanings = _meanings(ast.get_docstring(section) or "", names)
    for name, node in zip(names, fields, strict=True):
        yield _option(name, node.annotation, node.value, path, meanings.get(name, ""))


def _option(
    name: str, annotation: ast.expr | None, default: ast.expr | None, path: Path, meaning: str
) -> Option:
    written = "Any" if annotation is None else ast.unparse(annotation)
    if default is None:
        return Option(name, written, None, None, False, meaning)
    has_value, value = _value(default, path)
    return Option(
        name, written, repr(value) if has_value else ast.unparse(default), value, has_value, meaning
    )


def _meanings(text: str, names: Collection[str]) -> dict[str, str]:
    """What a docstring says of names, up to the next entry, an empty line or what is raised."""
    one = "|".join(map(re.escape, names)) or r"(?!)"
    entry = rf"(?:^|[.\n;])\s*((?:{one})(?:, (?:{one}))*): "
    said: dict[str, str] = {}
    places = list(re.finditer(entry, text))
    ends = [*(place.start() + 1 for place in places[1:]), len(text)]
    for place, end in zip(places, ends, strict=False):
        words = " ".join(re.split(_LATER, text[place.end() : end])[0].split()).removesuffix(";")
        said |= dict.fromkeys(place[1].split(", "), words)
    return said


# Constants and classes of the files


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _value(node: ast.expr, path: Path) -> tuple[bool, object]:
    """Whether a default is plain data or a constant that is, and what it is."""
    try:
        return True, ast.literal_eval(node)
    except ValueError:
        pass
    if isinstance(node, ast.Subscript):
        (has_all, sequence), (has_index, index) = _value(node.value, path), _value(node.slice, path)
        if has_all and has_index and isinstance(sequence, tuple) and isinstance(index, int):
            return True, sequence[index]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        (has_base, base), (has_power, power) = _value(node.left, path), _value(node.right, path)
        if has_base and has_power and isinstance(base, int) and isinstance(power, int):
            return True, base**power
    if isinstance(node, ast.Name):
        for statement, where in _defined(node.id, path):
            if isinstance(statement, ast.Assign):
                return _assigned(statement, node.id, where)
    return False, None


def _assigned(statement: ast.Assign, name: str, path: Path) -> tuple[bool, object]:
    """What a name gets, of `A = 1` or `A, B = 1, 2`."""
    target, value = statement.targets[0], statement.value
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        names = [one.id if isinstance(one, ast.Name) else "" for one in target.elts]
        value = value.elts[names.index(name)]
    return _value(value, path)


def _dataclass(annotation: ast.expr | None, path: Path) -> tuple[ast.ClassDef, Path] | None:
    if isinstance(annotation, ast.Name):
        for statement, where in _defined(annotation.id, path):
            if isinstance(statement, ast.ClassDef):
                return statement, where
    return None


def _defined(name: str, path: Path) -> Iterator[tuple[ast.stmt, Path]]:
    """The statement that makes a name at the top of a file, or of one of ours from which it is imported."""
    for _ in range(_MOST_IMPORTS):
        after = None
        for node in _tree(path).body:
            if name in _names(node):
                yield node, path
            elif isinstance(node, ast.ImportFrom) and name in [one.name for one in node.names]:
                after = (ROOT / (node.module or "").replace(".", "/")).with_suffix(".py")
        if after is None or not after.is_file():
            return
        path = after


def _names(node: ast.stmt) -> list[str]:
    """The names of a class or of what is assigned."""
    if isinstance(node, ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]
