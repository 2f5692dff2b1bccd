"""What every section of a job file has in common: strictness, and the kinds of its values."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from nas._yaml import NO_UNICODE, is_unicode
from search_spaces._errors import NASError, did_you_mean
from search_spaces._registry import builder, names, option_problems

AUTHOR: dict[str, Any] = {"author": True}  # context of a validation of what a job's author wrote


class Section(BaseModel):
    """Unknown keys, text for numbers, NaN and infinities are errors.

    LATER: fields that older jobs do not have.
    """

    LATER: ClassVar[frozenset[str]] = frozenset()
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def inputs(self, **options: Any) -> dict[str, Any]:
        """Plain data by which a stage knows what its result was made from.

        A later field that is not used leaves no trace in it, nor in a section inside it, so that the results
        of older jobs stay valid.
        options: of `model_dump`.
        """
        dumped = self.model_dump(mode="json", **options)
        inner = {name: value for name in dumped if isinstance(value := getattr(self, name), Section)}
        dumped |= {name: value.inputs() for name, value in inner.items()}
        unused = {name for name in self.LATER if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in dumped.items() if name not in unused}

    @model_validator(mode="before")
    @classmethod
    def _empty_means_default(cls, value: Any) -> Any:
        """YAML reads a key without a value (or with all of its section commented out) as null."""
        if not isinstance(value, dict):
            return value
        optional = {
            name for name, info in cls.model_fields.items() if type(None) in get_args(info.annotation)
        }
        unset = cls.model_fields.keys() - optional
        return {key: item for key, item in value.items() if item is not None or key not in unset}


def known_component(package: str, name: str, info: ValidationInfo) -> str:
    """The name of a component of the package, or, with a dot, of somebody's own module.

    Raises ValueError for an unknown one, and where the job's author named it for a module that is none.
    """
    if "." not in name and name not in (known := names(package)):
        raise ValueError(f"'{name[:60]}' is unknown. {did_you_mean(name, known)}".strip())
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
    found = option_problems(package, component, options, given=given)
    problems = [PydanticCustomError("option", "{text}", {"text": f"{e.message} {e.hint}"}) for e in found]
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


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


AList = BeforeValidator(_tuple)
Options = dict[str, Annotated[Any, AfterValidator(_plain)]]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Threads = Annotated[int, Field(ge=1, le=4096)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
