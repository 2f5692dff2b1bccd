"""Tables in Markdown."""

import re
from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows under a line of names; a bar or a line break inside a cell is written so that it stays there."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """A bar is escaped, but for one in code, which stays there as it is."""
    return re.sub(r"(`[^`]*`)|\|", lambda match: match[1] or r"\|", text).replace("\n", " ")


def code(text: str) -> str:
    """The text as code; nothing for none."""
    return f"`{text}`" if text else ""
