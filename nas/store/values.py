"""What may be written: finite numbers, plain JSON, names that a terminal and a page can show."""

import hashlib
import json
import math
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime

from search_spaces.errors import UsageError

LONGEST_NAME = 200
LONGEST_TAG = 40
LONGEST_NOTE = 4_000
LONGEST = 40  # characters of a name in a table
TELLING = frozenset({"workload"})  # fields of a fingerprint that are missing where there is nothing to tell


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
    """What differs between two fingerprints, for people; empty where they may be of one device.

    Versions of this program differ in what they look at: only what both know is compared, and of a field that
    has fields the same. What is missing or None is not known, but in fields of TELLING.
    """
    differences = _differences(dict(before), dict(after), inner=True)
    return "; ".join(f"{key} was {old!r} and is {new!r}" for key, (old, new) in differences.items())


def completed(before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, object]:
    """A fingerprint with what another one of the same device knows besides."""
    both: dict[str, object] = {**before}
    for key, new in after.items():
        old = before.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            both[key] = {**old, **{inner: value for inner, value in new.items() if old.get(inner) is None}}
        elif old is None:
            both[key] = new
    return both


def shared(one: Mapping[str, object], other: Mapping[str, object]) -> int:
    """How many fields both fingerprints know."""
    return sum(one[key] is not None and other.get(key) is not None for key in one)


def is_same(before: Mapping[str, object], after: Mapping[str, object]) -> bool:
    """Whether two fingerprints are of one device: they share a backend, and differ in nothing both know."""
    return "backend" in before and "backend" in after and not changes(before, after)


def _differences(
    before: Mapping[str, object], after: Mapping[str, object], *, inner: bool
) -> dict[str, tuple[object, object]]:
    differences: dict[str, tuple[object, object]] = {}
    for key in {**after, **before}:
        old, new = plain(before.get(key)), plain(after.get(key))
        unknown = (old is None or new is None) and key not in TELLING
        if unknown or old == new:
            continue
        if inner and key not in TELLING and isinstance(old, dict) and isinstance(new, dict):
            if _differences(old, new, inner=False):
                differences[key] = (old, new)
        else:
            differences[key] = (old, new)
    return differences


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


def checked_tag(tag: str) -> str:
    """The tag itself. Raises UsageError unless it has 1 to 40 characters, none of them a space or a comma."""
    wrong = any(character.isspace() or character == "," for character in tag)
    if is_name(tag) and not wrong and len(tag) <= LONGEST_TAG:
        return tag
    raise UsageError(
        f"{tag[:40]!a} cannot be a tag.",
        f"Use 1 to {LONGEST_TAG} characters, no spaces, commas or control characters.",
    )


def checked_note(note: str) -> str:
    """The note without spaces around it. Raises UsageError for a long one, and for control characters."""
    note = note.replace("\r\n", "\n").strip()
    if len(note) > LONGEST_NOTE:
        raise UsageError(f"The note has {len(note):,} characters; at most {LONGEST_NOTE:,} are kept.")
    odd = next((c for c in note if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"), None)
    if odd is not None:
        raise UsageError(f"The character {odd!a} may not stand in a note.", "Write plain text.")
    return note


def shortened(text: str, longest: int = LONGEST) -> str:
    """A name as it fits into a table: of a longer one its beginning and its end."""
    if len(text) <= longest:
        return text
    end = (longest - 1) // 3
    return f"{text[: longest - 1 - end]}…{text[-end:]}"
