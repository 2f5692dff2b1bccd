"""What pydantic found wrong in a job file, as lines that a person can act on."""

import re
import typing
from collections.abc import Iterator, Sequence
from itertools import groupby, takewhile
from typing import Any

from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from search_spaces.errors import NASError, UsageError, did_you_mean

MOST_SHOWN = 30

TYPE = re.compile(r"constrained-\w+|(literal|tuple|list|dict)\[.*\]", re.DOTALL)
OWN_WORDS = ("extra_forbidden", "value_error", "too_short")
_SECTION = "must be a section with keys of its own"
_WORDS = {
    "string_type": "must be text (put it in quotes)",
    "string_too_short": "must not be empty",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "dict_type": _SECTION,
    "model_type": _SECTION,
    "model_attributes_type": _SECTION,
    "tuple_type": "must be a list",
    "missing": "is missing",
}


def problems_error(error: ValidationError, model: type[BaseModel], *, where: str) -> UsageError:
    """All problems of one validation, each with its dotted path, as a UsageError about the file `where`."""
    problems = list(dict.fromkeys(_problems(error.errors(include_url=False), model)))
    if len(problems) == 1:
        return UsageError(f"{where}: {problems[0]}")
    lines = [f"  {line}" for line in problems[:MOST_SHOWN]]
    if len(problems) > MOST_SHOWN:
        lines.append(f"  and {len(problems) - MOST_SHOWN} more.")
    return UsageError("\n".join([f"{where} has {len(problems)} problems:", *lines]))


def _problems(errors: Sequence[ErrorDetails], model: type[BaseModel]) -> Iterator[str]:
    """A line for each place; what fits no member of a union has one for all of them."""
    for place, group in groupby(errors, key=_place):
        of_members = list(group)
        # Of a list the member that is a list says which entry is wrong.
        inside = [one for one in of_members if len(one["loc"]) > len(place) + 1]
        for several in [[one] for one in inside] or [of_members]:
            path = [str(part)[:60] for part in several[0]["loc"] if not _is_tag(part) and not _is_type(part)]
            texts = dict.fromkeys(_rule(details, model) for details in several)
            text = ", or ".join(texts) + _given(several[0])
            text = text if text.endswith((".", "?")) else f"{text}."
            yield f"{'.'.join(path)}: {text}" if path else text


def _place(details: ErrorDetails) -> tuple[int | str, ...]:
    """The path to a value, or to the union whose member it should be."""
    return tuple(takewhile(lambda part: not _is_type(part), details["loc"]))


def _is_type(part: int | str) -> bool:
    """Whether this step of a path is what pydantic calls a member of a union."""
    return isinstance(part, str) and TYPE.fullmatch(part) is not None


def _rule(details: ErrorDetails, model: type[BaseModel]) -> str:
    kind = details["type"]
    if kind == "extra_forbidden":
        *section, key = details["loc"]
        return f"is not a known key. {did_you_mean(str(key), _keys(model, section))}".strip()
    if kind == "value_error":
        cause = details["ctx"]["error"]
        return f"{cause.message} {cause.hint}".strip() if isinstance(cause, NASError) else str(cause)
    if kind == "too_short":
        return f"must have at least {details['ctx']['min_length']} entries"
    return _WORDS.get(kind) or details["msg"].replace("Input should be", "must be")


def _given(details: ErrorDetails) -> str:
    """What stands there instead, where that is no problem with words of its own."""
    given = details["input"]
    if details["type"] in OWN_WORDS:
        return ""
    if isinstance(given, str):
        return f", not {given[:60]!r}"
    return f", not {str(given).lower()}" if isinstance(given, int | float) else ""


def _is_tag(part: int | str) -> bool:
    """Whether this step of a path is the choice of a union's member and no key."""
    return isinstance(part, str) and part.startswith("<")


def _keys(model: type[BaseModel], section: typing.Sequence[int | str]) -> list[str]:
    """The keys that the section at this path takes."""
    annotation: Any = model
    for part in section:
        if _is_tag(part):
            annotation = _tagged(annotation, Tag(str(part)))
        elif fields := getattr(_model(annotation), "model_fields", {}):
            annotation = fields[part].annotation if part in fields else annotation
    return sorted(getattr(_model(annotation), "model_fields", {}))


def _tagged(annotation: Any, tag: Tag) -> Any:
    """The member with this tag of a union, which may stand inside a list; None if there is none."""
    inside = typing.get_args(annotation)
    return annotation if tag in inside else next(filter(None, (_tagged(a, tag) for a in inside)), None)


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as `dict[str, Model]`; None for a union of several."""
    if isinstance(annotation, type) and not typing.get_origin(annotation):
        return annotation if issubclass(annotation, BaseModel) else None
    inside = {model for inner in typing.get_args(annotation) if (model := _model(inner))}
    return inside.pop() if len(inside) == 1 else None
