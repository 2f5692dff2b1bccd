"""Several files of ours as one that stands alone: the files that one imports from us, and then itself."""

import ast
import importlib.util
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import nn

from search_spaces.errors import UsageError

OURS = ("supernet", "nas", "search_spaces", "predictors")


def of_class(kind: type[nn.Module]) -> str:
    """The source of a plain module as one file that needs torch only: behind the files that it imports.

    Raises UsageError for a file that takes something from one of ours under another name.
    """
    return _alone(path_of_class(kind), kind.__name__)


def module_alone(name: str) -> str:
    """One of our modules as one file: behind those of ours that it imports."""
    return _alone(path_of_module(name), name)


def _alone(main: Path, name: str) -> str:
    return one_file(ast.get_docstring(_tree(main), clean=False) or name, [main])


def path_of_class(kind: type) -> Path:
    """The file in which a class is defined."""
    return Path(inspect.getfile(kind))


def path_of_module(name: str) -> Path:
    """The file of one of our modules, which is not imported."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def one_file(title: str, files: Sequence[Path], *more: str) -> str:
    """A file with this docstring: all that these import from us, themselves, then more pieces of source."""
    every = list(dict.fromkeys(path for file in files for path in _with_imports(file)))
    future = dict.fromkeys(
        ast.unparse(node) for file in every for node in _tree(file).body if _is_future(node)
    )
    return "\n\n\n".join([f'"""{title}"""', *future, *map(_body, every), *more]) + "\n"


def _with_imports(path: Path) -> Iterator[Path]:
    """The file behind those of ours that it imports; one may come twice."""
    for node in _tree(path).body:
        if not _is_ours(node):
            continue
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            if alias.asname not in (None, alias.name):
                raise UsageError(
                    f"'{path.name}' imports {alias.name} as {alias.asname}, which an exported file cannot.",
                    "Import it under its own name.",
                )
        yield from _with_imports(path_of_module(str(node.module)))
    yield path


def _body(path: Path) -> str:
    """The file without its docstring and without what stands elsewhere."""
    tree, lines = _tree(path), path.read_text().splitlines()
    left_out = [node for node in tree.body if _is_ours(node) or _is_future(node)]
    if ast.get_docstring(tree):
        left_out.append(tree.body[0])
    for node in sorted(left_out, key=lambda node: node.lineno, reverse=True):
        del lines[node.lineno - 1 : node.end_lineno]
    return "\n".join(lines).strip("\n")


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _is_ours(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in OURS


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"
