"""Training images that broke while a network was trained: the log's sentences about them, and back."""

import re
from collections.abc import Iterable

_SENTENCE = re.compile(
    r"The training image (.+) cannot be read any more \(.*\): others of its class take its place\."
)


def sentence(place: str, reason: str) -> str:
    """What the log says of one; `place` is where it is, in words."""
    return (
        f"The training image {place} cannot be read any more ({reason}): others of its class take its place."
    )


def replaced(messages: Iterable[str]) -> list[str]:
    """Where the images are of which these lines of a log tell, each once, in their order."""
    matches = (_SENTENCE.fullmatch(message) for message in messages)
    return list(dict.fromkeys(match[1] for match in matches if match is not None))
