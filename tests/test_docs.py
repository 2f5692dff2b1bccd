"""The pages are true: what they name is there, and what is there is named; spaces have these sizes."""

import ast
import re
import tokenize
import tomllib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

import search_spaces
from docs.reference import PAGES as MADE
from nas.cli import app
from search_spaces.registry import names
from tests.test_house import COMPONENTS

ROOT = Path(__file__).parents[1]
SPACES = set(search_spaces.names())
# A row of a table that begins with a space, its number of architectures and perhaps a range of MACs.
SIZE = re.compile(
    r"^\| `(\w+)`(?:, `_\w+`)* \| ([\d,]+|[\d.]+e\d+) \|(?: ([\d.]+) to ([\d.]+) ([MG]) \|)?", re.MULTILINE
)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
NAMED = re.compile(r"\b((?:benchmarks|docs|examples)/[\w./-]+\.(?:md|png|py|yaml))\b")

MADE_PAGES = {ROOT / "docs" / "reference" / f"{name}.md" for name in MADE}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PRODUCTION = ("dashboards", "nas", "predictors", "search_spaces", "supernet")
TOP = "|".join((*PRODUCTION, "benchmarks", "examples", "tests"))
A_PATH = re.compile(rf"(?<![\w./-])(?:{TOP}|docs)/[\w./<>-]*")
A_MODULE = re.compile(rf"(?<![\w./@:-])(?:{TOP})(?:\.\w+)+")
A_FILE = re.compile(r"`([a-z]\w*\.py)`")
PRIVATE = re.compile(r"`(_[a-z]\w*(?:\.py)?)`")
# Files of a store, keys of the job file, fields of a record that messages name.
NO_MODULES = re.compile(
    r"nas\.db(\.artifacts)?|supernet\.(family|init|name|space|trainer|use|variant)(\.\w+)*"
)
EXTRACTED = {"modeling.py", "modeling_elastiform.py", "infer.py", "elastic.py"}
OTHERS = EXTRACTED | {"latency_predictor.py"}  # of HAT
SUFFIXES = {"_b_l", "_s_b", "_small", "_base"}  # of names of spaces
KINDS = [folder.replace("/", ".") for folder in COMPONENTS]
COUNTS = re.compile(
    r"\b(three|four|five|six|seven|eight|nine|ten|eleven|twelve|\d+) (\w+ ){0,2}"
    r"(famil(y|ies)|searchers?|predictors?|backends?|data sets?|exporters?|verbs)\b",
    re.IGNORECASE,
)


def texts() -> list[Path]:
    paths = [path for kind in ("md", "yaml", "py", "toml") for path in ROOT.rglob(f"*.{kind}")]
    parts = ((path, path.relative_to(ROOT).parts) for path in paths)
    return [
        path for path, (first, *_) in parts if not first.startswith(".") and first not in ("build", "tests")
    ]


@pytest.mark.parametrize("path", texts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_it_refers_to_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = [path.parent / link for link in LINK.findall(text)] if path.suffix == ".md" else []
    named = [*links, *(ROOT / name for name in NAMED.findall(text))]
    assert [str(file) for file in named if not file.exists() and file.resolve() not in MADE_PAGES] == []


def sizes() -> list[tuple[str, str, str, str, str]]:
    rows = [row for path in (ROOT / "docs").glob("*.md") for row in SIZE.findall(path.read_text("utf-8"))]
    return sorted(row for row in rows if row[0] in SPACES)


@pytest.mark.parametrize(("name", "count", "low", "high", "unit"), sizes())
def test_the_pages_tell_the_sizes_of_spaces(name: str, count: str, low: str, high: str, unit: str) -> None:
    space = search_spaces.get(name)
    digits = len(count.partition("e")[0]) - 2
    size = f"{space.size:.{digits}e}".replace("e+", "e") if "e" in count else f"{space.size:,}"
    assert size == count
    for text, arch in ((low, space.smallest), (high, space.largest)) if unit else ():
        macs = space.cost(arch).macs / {"M": 1e6, "G": 1e9}[unit]
        assert f"{macs:.{len(text.partition('.')[2])}f}" == text


def test_there_are_such_sizes() -> None:
    spaces = {name for name, *_ in sizes()}
    assert {"vit_resnas", "vit_resnas_tiny", "hiera", "turbovit", "sn_net_swin_t_s_b"} <= spaces


def missing(root: Path, text: str, *, private: bool = False) -> list[str]:
    """Paths, modules and files of ours that a text names and that are not there.

    private: whether the text may name what is private; if not, such names are missing, too.
    """
    paths = [path.rstrip(".") for path in A_PATH.findall(text) if "<" not in path]
    return [
        *(path for path in paths if not (root / path).exists()),
        *(
            name
            for name in A_MODULE.findall(text)
            if not NO_MODULES.fullmatch(name) and not is_there(root, name)
        ),
        *(file for file in A_FILE.findall(text) if file not in file_names(root) | OTHERS),
        *(name for name in PRIVATE.findall(text) if not private and name not in SUFFIXES),
    ]


@lru_cache
def file_names(root: Path) -> frozenset[str]:
    return frozenset(path.name for path in root.rglob("*.py"))


def is_there(root: Path, dotted: str) -> bool:
    """Whether a dotted name is a package, a module or what one of them defines at its top."""
    place, parent = root / dotted.replace(".", "/"), (root / dotted.replace(".", "/")).parent
    if place.is_dir() or place.with_suffix(".py").exists():
        return True
    module = parent / "__init__.py" if parent.is_dir() else parent.with_suffix(".py")
    return module.exists() and place.name in set(defined(ast.parse(module.read_text(encoding="utf-8"))))


def defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    assert missing(ROOT, page.read_text("utf-8")) == []


@pytest.mark.parametrize("top", [*PRODUCTION, "benchmarks", "examples"])
def test_what_comments_and_docstrings_name_is_there(top: str) -> None:
    gone = {}
    for path in sorted((ROOT / top).rglob("*.py")):
        with tokenize.open(path) as source:
            tokens = list(tokenize.generate_tokens(source.readline))
        words = [token.string for token in tokens if token.type in (tokenize.COMMENT, tokenize.STRING)]
        if lost := missing(ROOT, "\n".join(words), private=True):
            gone[path.relative_to(ROOT).as_posix()] = lost
    assert gone == {}


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("`nas/jobs.py`, nas/store/ and `nas/searchers/<name>.py`.", []),
        ("`nas.jobs.create` and `from nas.store import Store`; `nas.db`", []),
        ("`jobs.py`, `modeling.py`", []),
        ("`nas/old.py`", ["nas/old.py"]),
        ("See nas/stages/.", ["nas/stages/"]),
        ("`nas.store.old`", ["nas.store.old"]),
        ("from nas.stage_specs import it", ["nas.stage_specs"]),
        ("`nas.jobs.invented`", ["nas.jobs.invented"]),
        ("`old.py` and `_hidden`, `_sampling.py`", ["old.py", "_hidden", "_sampling.py"]),
    ],
)
def test_what_is_gone_is_noticed(tmp_path: Path, text: str, gone: list[str]) -> None:
    for folder in ("nas/store", "nas/searchers"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "__init__.py").write_text("from nas.jobs import create\nSTORE: int = 0\n")
    (tmp_path / "nas/jobs.py").write_text("def create(): ...")
    assert missing(tmp_path, text) == gone


def verbs(command: Any, called: str = "nas") -> Iterator[str]:
    for name, verb in getattr(command, "commands", {}).items():
        yield f"{called} {name}"
        yield from verbs(verb, f"{called} {name}")


def unnamed(text: str, things: Mapping[str, str]) -> list[str]:
    """What a text does not name: by thing, the words that it is looked for by."""
    return sorted(
        thing for thing, words in things.items() if not re.search(rf"{re.escape(words)}(?![\w-])", text)
    )


def test_the_pages_name_every_component_and_verb() -> None:
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    components = {f"{kind}.{name}": f"`{name}" for kind in KINDS for name in names(kind)}
    assert unnamed(text, components) == []
    assert unnamed(text, {verb: verb for verb in verbs(typer.main.get_command(app))}) == []


def test_what_is_not_named_is_noticed() -> None:
    things = {"searchers.gp": "`gp", "nas run": "nas run", "nas db": "nas db"}
    assert unnamed("`gpu` and `nas run-it`, nas db", things) == ["nas run", "searchers.gp"]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_no_page_counts_components(page: Path) -> None:
    """The next file in a folder would make the number wrong."""
    assert [match.group() for match in COUNTS.finditer(page.read_text("utf-8"))] == []


def test_a_count_is_noticed() -> None:
    text = "All ten searchers, 5 supernet families and eight latency predictors; a family of two."
    assert [match[1] for match in COUNTS.finditer(text)] == ["ten", "5", "eight"]


def drawn_layers(text: str) -> list[set[str]]:
    """The layers inside `nas` as the diagram of a page has them, from the top."""
    diagram = text.partition("inside nas:")[2].partition("```")[0]
    return [{name.strip() for name in layer.split("|")} for layer in diagram.split("->")]


def held_layers() -> list[set[str]]:
    settings: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract.get("containers") == ["nas"])
    return [{name.strip() for name in layer.split("|")} for layer in layers]


def test_the_diagram_of_imports_is_what_the_linter_holds() -> None:
    assert drawn_layers(ARCHITECTURE.read_text("utf-8")) == held_layers()
    assert drawn_layers("```\ninside nas: a | b\n  -> c\n```") == [{"a", "b"}, {"c"}]


def test_the_page_of_the_architecture_says_what_each_folder_is_for() -> None:
    text = ARCHITECTURE.read_text("utf-8")
    packages = {
        path.parent.relative_to(ROOT).as_posix()
        for top in PRODUCTION
        for path in (ROOT / top).rglob("__init__.py")
    }
    listed = set(re.findall(r"`([\w/]+)/`", text.partition("## The folders")[2].partition("\n## ")[0]))
    assert sorted(packages - listed) == []
    assert packages >= {"nas", "nas/store/files"}
