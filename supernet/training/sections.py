"""What settings that a person writes have in common: strictness, and the kinds of their values."""

from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Unknown keys, text for numbers, NaN and infinities are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def inputs(self, **options: Any) -> dict[str, Any]:
        """What was set in it, as plain data: by this a result is known to be made from the same.

        A field that was added after the values were stored leaves no trace, nor does one in a section inside.
        options: of `model_dump`.
        """
        return self.model_dump(mode="json", exclude_unset=True, **options)

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


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


AList = BeforeValidator(_tuple)
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Threads = Annotated[int, Field(ge=1, le=4096)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
