"""The rules of the house that no tool knows: what is private, what lies where, how long functions are.

Each rule is a function of a tree of source files, so that a small made tree shows that it can fail.
"""

import ast
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCTION = ("nas", "supernet", "predictors", "search_spaces", "dashboards")
TOP = (*PRODUCTION, "benchmarks", "examples", "tests")
OFFERED = {  # by folder of components: the function that each module in it offers
    "nas/datasets": "build",
    "nas/exporters": "write",
    "nas/searchers": "build",
    "predictors/devices": "build",
    "predictors/latency": "build",
    "search_spaces/families": "build",
    "supernet/families": "build",
    "supernet/tasks": "build",
}
COMPONENTS = {folder: function for folder, function in OFFERED.items() if (ROOT / folder).is_dir()}
MOST_MODULES = {"nas": 15}
MOST_MODULES_ELSEWHERE = 12
MOST_LINES = 40
MOST_ARGUMENTS = 8

# Names that say how one came by a value and not what it is; nothing in these folders is called so. A folder
# joins when its variables are named after what they hold.
VAGUE = frozenset({"found", "known", "own", "there", "told"})
WELL_NAMED = ("search_spaces", "supernet", "predictors", "nas", "dashboards")

# Exceptions: a test fails for one that is no longer needed.
WITH_MANY_SETTINGS = frozenset(
    {
        # What they take are the settings of a user: of a job file's section, of `nas finetune`.
        "nas/searchers/generative.py: planned",
        "nas/training/finetuning.py: finetune",
        "predictors/measurement/rounds.py: measure",
    }
)


def modules(root: Path, *folders: str) -> Iterator[tuple[Path, ast.Module]]:
    """The parsed source files below these folders, by their path relative to `root`."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            yield path.relative_to(root), parsed(path)


@lru_cache(maxsize=1000)
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def package_of(path: Path) -> str:
    """The dotted package that a source file lies in."""
    return ".".join(path.parent.parts)


def imported_names(tree: ast.Module) -> Iterator[str]:
    """What the imports of a file name, in full: `from a.b import c` names a.b.c."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def attributes_of_modules(tree: ast.Module) -> Iterator[str]:
    """What a file takes from what it has imported by `module.name`, in full."""
    by_alias: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            by_alias |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            by_alias |= {alias.asname: alias.name for alias in node.names if alias.asname}
            by_alias |= {first: first for first in (alias.name.split(".")[0] for alias in node.names)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            names, holder = [node.attr], node.value
            while isinstance(holder, ast.Attribute):
                names, holder = [holder.attr, *names], holder.value
            if isinstance(holder, ast.Name) and holder.id in by_alias:
                yield ".".join([by_alias[holder.id], *names])


@lru_cache
def reaches_into(root: Path) -> list[str]:
    """Private names that a file outside of the package that holds them uses: "file: name".

    The package that holds `a.b._c` is `a.b`, or `a` where `a.b` is a module. Tests lie in no package of ours:
    they import public names, and may replace a private one for their own length (`monkeypatch`).
    """
    reached = set()
    for path, tree in modules(root, *TOP):
        names = set(imported_names(tree))
        if path.parts[0] != "tests":
            names |= set(attributes_of_modules(tree))
        for name in names:
            parts = name.split(".")
            private = [number for number, part in enumerate(parts) if is_private(part)]
            if parts[0] not in TOP or not private:
                continue
            holder = Path(*parts[: private[0]])
            package = (
                package_of(holder) if (root / holder).with_suffix(".py").exists() else ".".join(holder.parts)
            )
            if not f"{package_of(path)}.".startswith(f"{package}."):
                reached.add(f"{path}: {name}")
    return sorted(reached)


def no_components(root: Path, folders: Mapping[str, str]) -> list[str]:
    """What lies in a component folder and is no component: a sub-package, a module that is private or that
    lacks the function of its kind.
    """
    wrong = []
    for folder, function in folders.items():
        for path in sorted((root / folder).iterdir()):
            if path.name in ("__init__.py", "__pycache__"):
                continue
            if path.suffix != ".py" or is_private(path.name):
                wrong.append(str(path.relative_to(root)))
                continue
            defined = {
                node.name
                for node in ast.parse(path.read_text(encoding="utf-8")).body
                if isinstance(node, ast.FunctionDef)
            }
            if function not in defined:
                wrong.append(f"{path.relative_to(root)} without {function}")
    return wrong


def crowded(root: Path) -> list[str]:
    """Folders of production with more modules than a reader keeps in mind: "folder: modules"."""
    counts: dict[str, int] = {}
    for path, _ in modules(root, *PRODUCTION):
        if path.name != "__init__.py":
            counts[path.parent.as_posix()] = counts.get(path.parent.as_posix(), 0) + 1
    return [
        f"{folder}: {count}"
        for folder, count in sorted(counts.items())
        if folder not in COMPONENTS and count > MOST_MODULES.get(folder, MOST_MODULES_ELSEWHERE)
    ]


def functions(
    tree: ast.AST, prefix: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """All functions and methods with their qualified names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}{node.name}", node
            yield from functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        else:
            yield from functions(node, prefix)


def is_declaration(path: Path, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether its arguments are what a user writes: of a constructor, a verb, or a component's `build`."""
    first = [ast.unparse(argument.annotation) for argument in function.args.args[:1] if argument.annotation]
    calls = [decorator.func for decorator in function.decorator_list if isinstance(decorator, ast.Call)]
    is_command = first == ["typer.Context"] or "app.command" in map(ast.unparse, calls)
    is_verb = path.parts[:2] == ("nas", "cli") and is_command
    is_build = COMPONENTS.get(path.parent.as_posix()) == function.name
    return function.name == "__init__" or is_verb or is_build


def docstring_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many lines its docstring takes."""
    first = function.body[0]
    is_there = ast.get_docstring(function, clean=False) is not None
    return (first.end_lineno or first.lineno) - first.lineno + 1 if is_there else 0


@lru_cache
def too_long(root: Path) -> list[str]:
    """Functions of more than 40 lines or 8 arguments: "file: function".

    Lines count from `def` to the end, without the docstring; a declaration's count from its first line after
    the signature, and its arguments do not.
    """
    broken = []
    for path, tree in modules(root, *TOP):
        for name, function in functions(tree):
            given = function.args
            arguments = len([*given.posonlyargs, *given.args, *given.kwonlyargs])
            begin = function.lineno
            if is_declaration(path, function):
                arguments, begin = 0, function.body[0].lineno
            lines = (function.end_lineno or begin) - begin + 1 - docstring_lines(function)
            if lines > MOST_LINES or arguments > MOST_ARGUMENTS:
                broken.append(f"{path.as_posix()}: {name}")
    return broken


def vague_names(root: Path, *folders: str) -> list[str]:
    """Variables, arguments and attributes with such a name: "file:line: name"."""
    vague = []
    for path, tree in modules(root, *folders):
        for node in ast.walk(tree):
            name = ""
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                name = node.id
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                name = node.attr.lstrip("_")
            elif isinstance(node, ast.arg):
                name = node.arg
            if name in VAGUE:
                vague.append(f"{path.as_posix()}:{getattr(node, 'lineno', 0)}: {name}")
    return vague


def made(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_a_private_name_stays_in_its_package() -> None:
    assert sorted(set(reaches_into(ROOT))) == []


@pytest.mark.parametrize(
    ("name", "text", "reached"),
    [
        ("nas/rooms/other.py", "from nas.rooms.one import _inside", []),
        ("nas/rooms/other.py", "from nas.rooms import _hidden", []),
        ("nas/rooms/deeper/other.py", "from nas.rooms._hidden import thing", []),
        ("nas/other.py", "from nas.rooms.one import __version__", []),
        ("nas/other.py", "from torch import _dynamo", []),
        ("nas/other.py", "from nas.rooms.one import _inside", ["nas.rooms.one._inside"]),
        ("nas/other.py", "from nas.rooms import _hidden", ["nas.rooms._hidden"]),
        ("nas/other.py", "import nas.rooms._hidden", ["nas.rooms._hidden"]),
        ("nas/other.py", "def late():\n    from nas.rooms._hidden import x", ["nas.rooms._hidden.x"]),
        ("nas/other.py", "from nas.rooms import one\none._inside()", ["nas.rooms.one._inside"]),
        ("nas/other.py", "import nas.rooms.one\nnas.rooms.one._inside()", ["nas.rooms.one._inside"]),
        ("tests/nas/rooms/test_one.py", "from nas.rooms.one import _inside", ["nas.rooms.one._inside"]),
    ],
)
def test_who_reaches_into_a_package_is_named(
    tmp_path: Path, name: str, text: str, reached: list[str]
) -> None:
    root = made(tmp_path, {"nas/rooms/one.py": "", "nas/rooms/_hidden.py": "", name: text})
    assert reaches_into(root) == [f"{name}: {private}" for private in reached]


def test_component_folders_hold_components_only() -> None:
    assert no_components(ROOT, COMPONENTS) == []


def test_what_is_no_component_is_named(tmp_path: Path) -> None:
    build = "def build():\n    pass\n"
    other = "def other(): ..."
    files = {"__init__.py": "", "right.py": build, "_shared.py": build, "odd.py": other, "sub/x.py": build}
    root = made(tmp_path, {f"kinds/{name}": text for name, text in files.items()})
    wrong = ["kinds/_shared.py", "kinds/odd.py without build", "kinds/sub"]
    assert no_components(root, {"kinds": "build"}) == wrong


def test_a_folder_is_not_crowded() -> None:
    assert crowded(ROOT) == []


def test_a_crowded_folder_is_named(tmp_path: Path) -> None:
    counts = {"nas": 16, "nas/room": 13, "nas/searchers": 20, "supernet": 12}
    files = {f"{folder}/m{number}.py": "" for folder, count in counts.items() for number in range(count)}
    assert crowded(made(tmp_path, {**files, "supernet/__init__.py": ""})) == ["nas: 16", "nas/room: 13"]


def test_functions_are_short() -> None:
    assert sorted(set(too_long(ROOT)) - WITH_MANY_SETTINGS) == []


def test_the_list_of_exceptions_gets_shorter() -> None:
    """Whoever mends one takes it off the list."""
    assert sorted(WITH_MANY_SETTINGS - set(too_long(ROOT))) == []


def test_a_long_function_is_named(tmp_path: Path) -> None:
    def lines(count: int, first: str = "def work():") -> str:
        return "\n".join([first, *["    pass"] * (count - first.count("\n") - 1)])

    many = ", ".join(f"a{number}" for number in range(9))
    signature = ",\n    ".join(f"a{number}" for number in range(30))
    files = {
        "nas/short.py": lines(40),
        "nas/long.py": lines(41),
        "nas/arguments.py": lines(2, f"def work({many}):"),
        "nas/searchers/one.py": lines(70, f"def build(\n    {signature}\n):"),
        "nas/searchers/two.py": lines(90, f"def build(\n    {signature}\n):"),
        "nas/cli/verbs.py": lines(70, f"def verb(\n    ctx: typer.Context,\n    {signature}\n):"),
        "nas/cli/deep.py": lines(70, f"@app.command('deep')\ndef deep(\n    {signature}\n):"),
        "nas/cli/other.py": lines(3, f"def verb({many}):"),
        "supernet/module.py": f"class Module:\n    def __init__(self, {many}):\n        pass",
    }
    wrong = ["nas/arguments.py: work", "nas/cli/other.py: verb", "nas/long.py: work"]
    assert too_long(made(tmp_path, files)) == [*wrong, "nas/searchers/two.py: build"]


def test_variables_are_named_after_what_they_hold() -> None:
    assert vague_names(ROOT, *WELL_NAMED) == []


def test_a_vague_name_is_noticed(tmp_path: Path) -> None:
    text = "known = 1\ndef find(told, *, own): ...\nfor found in (): ...\nself._there = found = known"
    vague = [
        name.split(":", 1)[1] for name in vague_names(made(tmp_path, {"nas/room/a.py": text}), "nas/room")
    ]
    names = ["1: known", "2: told", "2: own", "3: found", "4: there", "4: found"]
    assert sorted(vague) == sorted(names)
    assert vague_names(made(tmp_path, {"nas/other/b.py": "nouns = known['found'].told()"}), "nas/other") == []
