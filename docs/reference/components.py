"""The page of components: every one with the first sentence of its file and the options that it takes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from docs.reference.tables import code, table

ROOT = Path(__file__).parents[2]
BEGINNING = """# Components

What a job file, a verb or another component can name: the names of files in some folders. A dotted name
(`mypackage.mymodule`) is a module of your own with the same function ([contributing](../CONTRIBUTING.md)).
Options are arguments of that function, as a job file gives them.
"""
# By folder: the kind, what names one, the function, and what the program itself passes.
KINDS = {
    "supernet/families": ("Families", "supernet.family", "build", ("space", "seed")),
    "search_spaces/families": ("Search spaces", "supernet.space has the options", "build", ()),
    "nas/datasets": ("Data sets", "data.name", "build", ("images",)),
    "supernet/tasks": ("Tasks", "that of the data", "build", ()),
    "predictors/devices": ("Device backends", "devices.NAME.backend", "build", ("name",)),
    "predictors/latency": (
        "Latency predictors",
        "predictor.name",
        "build",
        ("space", "batch", "element_bytes", "seed"),
    ),
    "nas/searchers": ("Searchers", "search.searcher", "build", ("problem",)),
    "nas/exporters": ("Export formats", "nas extract --format", "write", None),
}


def page() -> str:
    """The page in Markdown."""
    return "\n".join([BEGINNING, *(entry(folder) for folder in KINDS)])


def entry(folder: str) -> str:
    """All components of a folder."""
    title, where, function, passed = KINDS[folder]
    rows = []
    for path in files(folder):
        tree = ast.parse(path.read_text("utf-8"))
        made = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function)
        options = "" if passed is None else ", ".join(code(one) for one in _options(made, passed))
        rows.append((code(path.stem), first_sentence(ast.get_docstring(tree) or ""), options))
    columns = ("name", "is") if passed is None else ("name", "is", "options")
    shown = [row[: len(columns)] for row in rows]
    return f"## {title}\n\nNamed by {code(where)}; they lie in `{folder}/`.\n\n{table(columns, shown)}\n"


def files(folder: str) -> list[Path]:
    """The files of the components in a folder, by name."""
    return sorted(path for path in (ROOT / folder).glob("*.py") if path.stem != "__init__")


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    words = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[^.]\.)\s", words)[0]


def _options(function: ast.FunctionDef, passed: tuple[str, ...]) -> Iterator[str]:
    """The arguments that a person may give, with their defaults."""
    arguments = function.args
    plain = [*arguments.posonlyargs, *arguments.args]
    first = len(plain) - len(arguments.defaults)
    defaults = [*([None] * first), *arguments.defaults, *arguments.kw_defaults]
    for argument, default in zip([*plain, *arguments.kwonlyargs], defaults, strict=True):
        if argument.arg not in passed:
            yield argument.arg if default is None else f"{argument.arg}={ast.unparse(default)}"
