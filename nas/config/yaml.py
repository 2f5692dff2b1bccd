"""YAML of job files: safe, bounded, and strict about what a person gets wrong.

What differs from `yaml.safe_load`: a key may stand once, keys are text, `1e-3` is a number (YAML 1.1 wants
`1.0e-3`), and the tree is small: limits on its size, its depth and on what its aliases unfold to.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from nas.artifacts import open_regular
from search_spaces.errors import UsageError

LARGEST_FILE = 1_000_000  # bytes
LARGEST_TREE = 10_000  # nodes, with every alias unfolded
DEEPEST_TREE = 32
LARGEST_INTEGER = 2**63 - 1
NO_UNICODE = "is no Unicode: half of a surrogate pair"

_FLOAT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
_TEXT, _FLOAT_TAG, _MERGE = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "float", "merge"))


class _Loader(yaml.SafeLoader):
    """One document of plain data; every refusal is a MarkedYAMLError with its place."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As the base class, and counts: the limits hold while reading, before anything grows."""
        is_alias = self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self._nodes += 1
        self._depth += 1
        if self._depth > DEEPEST_TREE:
            raise yaml.MarkedYAMLError(
                problem=f"more than {DEEPEST_TREE} levels of nesting", problem_mark=mark
            )
        if self._nodes > LARGEST_TREE:
            raise yaml.MarkedYAMLError(problem=f"more than {LARGEST_TREE} values", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None:
            if is_alias and id(node) not in self._sizes:
                raise yaml.MarkedYAMLError(
                    problem="an alias inside the value that it names", problem_mark=mark
                )
            if isinstance(node, yaml.ScalarNode) and not is_unicode(node.value):
                raise yaml.MarkedYAMLError(problem=f"text that {NO_UNICODE}", problem_mark=mark)
            self._sizes[id(node)] = size = self._unfolded(node)
            if size > LARGEST_TREE:
                raise yaml.MarkedYAMLError(problem="aliases that unfold to too much", problem_mark=mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As the base class; raises for a key that is no text or that stands twice."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (_TEXT, _MERGE):
                raise yaml.MarkedYAMLError(problem="a key that is not text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key.value}' for the second time", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As the base class; the error of an impossible value has its place in the file."""
        try:
            value = super().construct_object(node, deep=deep)
            if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
                raise yaml.MarkedYAMLError(
                    problem="a number of more than 64 bits", problem_mark=node.start_mark
                )
        except (ValueError, OverflowError, LookupError, AttributeError, TypeError):
            problem = f"'{str(node.value)[:40]}' is no {node.tag.rpartition(':')[2]} value"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None
        return value

    def _unfolded(self, node: yaml.Node) -> int:
        if isinstance(node, yaml.MappingNode):
            return 1 + sum(self._sizes[id(key)] + self._sizes[id(value)] for key, value in node.value)
        if isinstance(node, yaml.SequenceNode):
            return 1 + sum(self._sizes[id(item)] for item in node.value)
        return 1


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back unchanged."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(_FLOAT_TAG, re.compile(rf"^{_FLOAT.pattern}$"), list("-+0123456789"))


def read_file(path: Path) -> Any:
    """The document in a file of at most 1 MB. Raises UsageError with line and column for anything else."""
    try:
        with open_regular(path) as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UsageError(f"The job file '{path}' cannot be read: {error.strerror or error}.") from None
    except ValueError:
        raise UsageError(f"{str(path)!r} cannot be the name of a file.") from None
    if len(content) > LARGEST_FILE:
        raise UsageError(f"The job file '{path}' is larger than 1 MB.", "A job file is a page of YAML.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}, line {line}: this is not UTF-8 text.", "Save the file as UTF-8.") from None
    return read_text(text, where=str(path))


def read_text(text: str, *, where: str) -> Any:
    """The one document in a text; `where` begins the messages. Raises UsageError."""
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
        problem = " ".join((error.problem or error.context or "this is not YAML").split())[:200]
        raise UsageError(f"{place}: {problem}.", _hint(problem)) from None
    except yaml.reader.ReaderError as error:
        raise UsageError(
            f"{where}: the character {chr(int(error.character))!a} may not stand in YAML.",
            "Save the file as plain UTF-8 text.",
        ) from None


def is_unicode(text: str) -> bool:
    """Whether it can be stored and sent: text with half of a surrogate pair cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def check_text(text: str, *, where: str) -> None:
    """Raises UsageError for text that is no Unicode, as bytes of a command line may be."""
    if not is_unicode(text):
        raise UsageError(f"{where} {text[:80]!a} {NO_UNICODE}.", "Write it in UTF-8.")


def dump(data: Any) -> str:
    """The data as YAML that `read_text` reads back unchanged."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _hint(problem: str) -> str:
    if "'\\t'" in problem:
        return "YAML is indented with spaces, not with tabs."
    if "another document" in problem:
        return "A job file holds one job: remove the '---' in the middle."
    if "could not determine a constructor" in problem:
        return "A job file is plain data: remove the tag that begins with '!'."
    return ""
