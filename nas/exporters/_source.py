"""The source of a plain module's class as one file that needs torch only."""

import ast
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from search_spaces._errors import UsageError

PLAIN = "supernet._plain"  # modules called so import torch and each other, and nothing else


def standalone_source(kind: type[nn.Module]) -> str:
    """The file that defines the class, behind the plain files that it imports.

    Raises UsageError for a file that takes something from a plain one under another name.
    """
    main = Path(inspect.getfile(kind))
    title = ast.get_docstring(ast.parse(main.read_text()), clean=False) or kind.__name__
    files = list(dict.fromkeys(_with_imports(main)))
    future = dict.fromkeys(
        ast.unparse(node) for file in files for node in _tree(file).body if _is_future(node)
    )
    return "\n\n\n".join([f'"""{title}"""', *future, *map(_body, files)]) + "\n"


def _with_imports(path: Path) -> Iterator[Path]:
    """The file behind the plain files that it imports; one may come twice."""
    for node in _tree(path).body:
        if not _is_plain(node):
            continue
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            if alias.asname not in (None, alias.name):
                raise UsageError(
                    f"'{path.name}' imports {alias.name} as {alias.asname}, which an exported file cannot.",
                    "Import it under its own name.",
                )
        spec = importlib.util.find_spec(str(node.module))
        assert spec is not None
        assert spec.origin is not None
        yield from _with_imports(Path(spec.origin))
    yield path


def _body(path: Path) -> str:
    """The file without its docstring and without what stands elsewhere."""
    tree, lines = _tree(path), path.read_text().splitlines()
    left_out = [node for node in tree.body if _is_plain(node) or _is_future(node)]
    if ast.get_docstring(tree):
        left_out.append(tree.body[0])
    for node in sorted(left_out, key=lambda node: node.lineno, reverse=True):
        del lines[node.lineno - 1 : node.end_lineno]
    return "\n".join(lines).strip("\n")


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _is_plain(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and str(node.module).startswith(PLAIN)


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"
