"""The source of a plain module's class as one file that needs torch only."""

import ast
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path

from torch import nn

PLAIN = "supernet._plain"  # modules called so import torch and each other, and nothing else


def standalone_source(kind: type[nn.Module]) -> str:
    """The file that defines the class, behind the plain files that it imports."""
    main = Path(inspect.getfile(kind))
    title = ast.get_docstring(ast.parse(main.read_text()), clean=False) or kind.__name__
    bodies = [_body(path) for path in dict.fromkeys(_with_imports(main))]
    return "\n\n\n".join([f'"""{title}"""', *bodies]) + "\n"


def _with_imports(path: Path) -> Iterator[Path]:
    """The file behind the plain files that it imports; one may come twice."""
    for node in _plain_imports(ast.parse(path.read_text())):
        spec = importlib.util.find_spec(str(node.module))
        assert spec is not None
        assert spec.origin is not None
        yield from _with_imports(Path(spec.origin))
    yield path


def _body(path: Path) -> str:
    """The file without its docstring and its imports of plain files."""
    text = path.read_text()
    tree = ast.parse(text)
    left_out: list[ast.stmt] = [*_plain_imports(tree)]
    if ast.get_docstring(tree):
        left_out.append(tree.body[0])
    lines = text.splitlines()
    for node in sorted(left_out, key=lambda node: node.lineno, reverse=True):
        del lines[node.lineno - 1 : node.end_lineno]
    return "\n".join(lines).strip("\n")


def _plain_imports(tree: ast.Module) -> list[ast.ImportFrom]:
    return [
        node for node in tree.body if isinstance(node, ast.ImportFrom) and str(node.module).startswith(PLAIN)
    ]
