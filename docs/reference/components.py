"""The page of components: every one with the first sentence of its file, and the options that it takes."""

import ast
import re

from docs.reference.tables import code, table
from nas.config.described.options import PASSED, Option, components, options

BEGINNING = """# Components

What a job file, a verb or another component can name: the names of files in some folders. A dotted name
(`mypackage.mymodule`) is a module of your own with the same function ([contributing](../CONTRIBUTING.md)).
Options are arguments of that function, as a job file gives them; editors complete them by `nas schema`. A
search space also takes the fixed sizes of its networks, such as `image_size`.
"""
# By folder: the kind, and what names one.
KINDS = {
    "supernet/families": ("Families", "supernet.family"),
    "search_spaces/families": ("Search spaces", "supernet.space has the options"),
    "nas/datasets": ("Data sets", "data.name"),
    "supernet/tasks": ("Tasks", "that of the data"),
    "predictors/devices": ("Device backends", "devices.NAME.backend"),
    "predictors/latency": ("Latency predictors", "predictor.name"),
    "nas/searchers": ("Searchers", "search.searcher"),
    "nas/exporters": ("Export formats", "nas extract --format"),
}


def page() -> str:
    """The page in Markdown."""
    return "\n".join([BEGINNING, *(entry(folder) for folder in KINDS)])


def entry(folder: str) -> str:
    """All components of a folder, then the options of each that has some."""
    title, where = KINDS[folder]
    rows, tables = [], []
    for path in components(folder):
        tree = ast.parse(path.read_text("utf-8"))
        rows.append((code(path.stem), first_sentence(ast.get_docstring(tree) or "")))
        taken = options(path, PASSED[folder]) if folder in PASSED else []
        if taken:
            tables.append(f"### Options of `{path.stem}`\n\n{_options(taken)}\n")
    listed = (
        f"## {title}\n\nNamed by {code(where)}; they lie in `{folder}/`.\n\n{table(('name', 'is'), rows)}\n"
    )
    return "\n".join([listed, *tables])


def _options(taken: list[Option]) -> str:
    first = {one.meaning: one.name for one in reversed(taken)}
    rows = [
        (
            code(one.name),
            code(one.type),
            code(one.default) if one.default else "has to be given",
            one.meaning if first[one.meaning] == one.name else f"see {code(first[one.meaning])}",
        )
        for one in taken
    ]
    return table(("option", "type", "default", "meaning"), rows)


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    words = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[^.]\.)(?<!et al\.)\s", words)[0]
