"""Every field of a job file with its meaning, its unit and an example, out of the docstring of its section.

An entry of such a docstring is `name: meaning` or `name [unit]: meaning` at the beginning of a line, and ends
with "Example: `value`", in YAML. A section takes the entries of the classes that it is made from.
"""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic.fields import FieldInfo

from nas.config.job import JobConfig
from supernet.training.sections import Section

_ENTRY = re.compile(r"^(\w+)(?: \[([^\]]+)\])?: ")
_EXAMPLE = re.compile(r"\s*Example: `([^`]+)`\.?$")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is said of one field. example: a value in YAML."""

    name: str
    meaning: str
    unit: str | None
    example: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a section stands in a job file. path: as `train.sampling`; "" of the file itself."""

    path: str
    section: type[Section]


def entries(section: type[Section]) -> dict[str, Entry]:
    """What is said of the fields of a section, by name; one of which nothing is said is left out."""
    said: dict[str, Entry] = {}
    for one in reversed(section.__mro__):
        if isinstance(one, type) and issubclass(one, Section) and one is not Section:
            said |= {entry.name: entry for entry in _entries_of(one)}
    return {name: said[name] for name in section.model_fields if name in said}


def about(section: type[Section]) -> str:
    """What a section is: its docstring without the entries."""
    lines = inspect.cleandoc(section.__doc__ or "").splitlines()
    first = next((i for i, line in enumerate(lines) if _begins(section, line)), len(lines))
    return "\n".join(lines[:first]).strip()


def _entries_of(section: type[Section]) -> Iterator[Entry]:
    name, unit = "", None
    words: list[str] = []
    for line in [*inspect.cleandoc(section.__dict__.get("__doc__") or "").splitlines(), None]:
        begins = None if line is None else _begins(section, line)
        if (line is None or begins) and name:
            yield _entry(name, unit, " ".join(words))
        if begins:
            name, unit, words = begins[1], begins[2], [begins.string[begins.end() :]]
        elif line is not None:
            words.append(line)


def _begins(section: type[Section], line: str) -> re.Match[str] | None:
    begins = _ENTRY.match(line)
    return begins if begins and begins[1] in section.model_fields else None


def _entry(name: str, unit: str | None, text: str) -> Entry:
    example = _EXAMPLE.search(text)
    meaning = text[: example.start()] if example else text
    return Entry(name, " ".join(meaning.split()), unit, example and example[1])


def places() -> list[Place]:
    """All sections that a job file may have, the file itself first, each below the one that it stands in."""
    return list(_below("", JobConfig))


def _below(path: str, section: type[Section]) -> Iterator[Place]:
    yield Place(path, section)
    for name, field in section.model_fields.items():
        for inner in sections_in(field):
            yield from _below(f"{path}.{name}" if path else name, inner)


def sections_in(field: FieldInfo) -> list[type[Section]]:
    """The sections that a field may hold, in the order of its type."""
    return list(dict.fromkeys(_sections(field.annotation)))


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        if not isinstance(inner, FieldInfo):
            yield from _sections(inner)
