"""What may be written: finite numbers, plain JSON, names that a terminal and a page can show."""

import hashlib
import json
import math
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime

from search_spaces._errors import UsageError

LONGEST_NAME = 200


def now() -> datetime:
    """This moment in UTC."""
    return datetime.now(UTC)


def finite(value: float | None) -> float | None:
    """The number, or None for a missing one, NaN and the infinities."""
    return float(value) if value is not None and math.isfinite(value) else None


def plain(value: object) -> object:
    """The value as JSON knows it: NaN and infinities become null, tuples lists, NumPy's numbers Python's.

    Raises TypeError for anything that JSON has no word for.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} cannot be stored as JSON")


def digest(value: object) -> str:
    """SHA-256 of the value's canonical JSON."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def changes(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    """What differs between two fingerprints, for people."""
    pairs = {key: (plain(before.get(key)), plain(after.get(key))) for key in {**after, **before}}
    return "; ".join(f"{key} was {old!r} and is {new!r}" for key, (old, new) in pairs.items() if old != new)


def storable_text(text: str) -> str:
    """The text with what databases refuse (NUL, lone surrogates) written out as escapes."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")


def is_name(name: str) -> bool:
    """Whether the text may name a job, a stage or a device."""
    shown = 0 < len(name) <= LONGEST_NAME and name == name.strip()
    return shown and not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)


def is_id(word: str) -> bool:
    """Whether the text is how the id of a row is written."""
    return word.isascii() and word.isdecimal() and len(word) < 10 and not (word[0] == "0" and word != "0")


def job_word(job_id: int, name: str) -> str:
    """What stands for a job where an id or a name is asked for: its name, unless that is an id's."""
    return str(job_id) if is_id(name) else name


def checked_name(name: str, *, what: str) -> str:
    """The name itself. Raises UsageError unless it has 1 to 200 characters and no control character."""
    if is_name(name):
        return name
    raise UsageError(
        f"{name[:40]!a} cannot be the name of a {what}.",
        f"Use 1 to {LONGEST_NAME} characters, no control characters, no spaces around them.",
    )
