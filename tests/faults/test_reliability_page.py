"""The table of docs/reliability.md: all 28 faults are there, and every test that it names is."""

import ast
import re
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAULTS = 28
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+) \| (.+?) \|$", re.MULTILINE)
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


def rows() -> list[tuple[str, str, str, str]]:
    return ROW.findall((ROOT / "docs" / "reliability.md").read_text(encoding="utf-8"))


def test_all_faults_are_there_in_their_order() -> None:
    assert [int(number) for number, *_ in rows()] == list(range(1, FAULTS + 1))


def test_every_fault_has_tests_and_every_test_is_there() -> None:
    for number, _, tests, asserted in rows():
        named = TEST.findall(tests)
        assert named, f"fault {number} has no test"
        assert TEST.sub("", tests).strip(" ,") == "", f"fault {number}: what is this? {tests}"
        assert asserted.strip()
        for file, name, slow in named:
            path = ROOT / file if "/" in file else Path(__file__).parent / file
            known = functions_of(path)
            assert name in known, f"fault {number}: there is no {name} in {path.name}"
            assert known[name] == bool(slow), f"fault {number}: is {name} a slow test?"
