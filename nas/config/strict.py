"""Names of components and their options in a job file, judged by who wrote them."""

import math
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationError, ValidationInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from nas.config.yaml import NO_UNICODE, is_unicode
from search_spaces.errors import NASError, did_you_mean
from search_spaces.registry import builder, names, option_problems

# Contexts of a validation: of what a job's author wrote, and of what a job began with.
AUTHOR: dict[str, Any] = {"author": True}
STORED_JOB: dict[str, Any] = {"stored": True}


def known_component(package: str, name: str, info: ValidationInfo) -> str:
    """The name of a component of the package, or, with a dot, of somebody's own module.

    Raises ValueError for an unknown one, and where the job's author named it for a module that is none.
    """
    if "." not in name and name not in (components := names(package)):
        raise ValueError(f"'{name[:60]}' is unknown. {did_you_mean(name, components)}".strip())
    if "." in name and by_author(info):
        try:
            builder(package, name)
        except NASError as error:
            raise ValueError(f"{error.message} {error.hint}".strip()) from error
    return name


def by_author(info: ValidationInfo) -> bool:
    """Whether the job's author wrote this: only then its modules are imported, to see what they take."""
    return info.context is AUTHOR


def check_option_names(package: str, component: str, options: Iterable[str], *, given: int = 0) -> None:
    """Raises a ValidationError with one problem for each option that the component's `build` cannot take.

    given: how many arguments the caller adds in front of the options.
    """
    errors = option_problems(package, component, options, given=given)
    problems = [PydanticCustomError("option", "{text}", {"text": f"{e.message} {e.hint}"}) for e in errors]
    if problems:
        raise ValidationError.from_exception_data(
            component, [InitErrorDetails(type=problem, input=None) for problem in problems]
        )


def _plain(value: Any) -> Any:
    """The value as it came. Raises ValueError unless it is JSON data without NaN and infinities."""
    inside: Iterable[Any] = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    )
    for item in inside:
        _plain(item)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    for text in value if isinstance(value, dict) else [value]:
        if isinstance(text, str) and not is_unicode(text):
            raise ValueError(NO_UNICODE)
    if value is not None and not isinstance(value, bool | int | float | str | list | dict):
        raise ValueError(
            "must be text (put it in quotes), a number, true, false, null, or lists and sections of these"
        )
    return value


Options = dict[str, Annotated[Any, AfterValidator(_plain)]]
