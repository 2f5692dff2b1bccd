"""The table of docs/reliability.md: all 28 faults, every test that it names, the databases that it says."""

import ast
import re
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAULTS = 28
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+) \| (.+?) \| ([^|]+?) \|$", re.MULTILINE)
DATABASES = re.compile(r"both|PostgreSQL|(SQLite|none): .+")  # why not both
ON_SERVER = re.compile(r"any_url|postgresql|SERVER|SLOWLY")
TEST = re.compile(r"`([\w/]+\.py)::(\w+)`( \(slow\))?")


@lru_cache
def functions_of(file: Path) -> dict[str, bool]:
    """The tests of a file, and whether each is a slow one."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {
        node.name: any(ast.unparse(mark) == "pytest.mark.slow" for mark in node.decorator_list)
        for node in functions
        if node.name.startswith("test_")
    }


def rows() -> list[tuple[str, str, str, str, str]]:
    return ROW.findall((ROOT / "docs" / "reliability.md").read_text(encoding="utf-8"))


def test_all_faults_are_there_in_their_order() -> None:
    assert [int(number) for number, *_ in rows()] == list(range(1, FAULTS + 1))


def test_every_fault_has_tests_and_every_test_is_there() -> None:
    for number, _, tests, asserted, _ in rows():
        named = TEST.findall(tests)
        assert named, f"fault {number} has no test"
        assert TEST.sub("", tests).strip(" ,") == "", f"fault {number}: what is this? {tests}"
        assert asserted.strip()
        for file, name, slow in named:
            path = ROOT / file if "/" in file else Path(__file__).parent / file
            known = functions_of(path)
            assert name in known, f"fault {number}: there is no {name} in {path.name}"
            assert known[name] == bool(slow), f"fault {number}: is {name} a slow test?"


def runs_on_server(file: Path, name: str) -> bool:
    """Whether a test, or a fixture of its module that it asks for, speaks of a server's database."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    asked, seen = [name], set[str]()
    while asked:
        one = functions.get(asked.pop())
        if one is None or one.name in seen:
            continue
        if ON_SERVER.search(ast.unparse(one)):
            return True
        seen.add(one.name)
        asked += [argument.arg for argument in one.args.args]
    return False


def test_faults_are_tried_on_the_databases_that_the_page_says() -> None:
    for number, _, tests, _, on in rows():
        assert DATABASES.fullmatch(on), f"fault {number}: {on}"
        named = [
            (ROOT / file if "/" in file else Path(__file__).parent / file, name)
            for file, name, _ in TEST.findall(tests)
        ]
        if on in ("both", "PostgreSQL"):
            assert any(runs_on_server(file, name) for file, name in named), f"fault {number}: on {on}?"


def test_a_test_that_knows_no_server_is_told_from_one_that_does() -> None:
    folder = ROOT / "tests" / "nas" / "store"
    assert runs_on_server(folder / "test_artifacts.py", "test_a_harmed_file_is_refused_and_named")
    assert not runs_on_server(folder / "test_artifacts.py", "test_sha256")
