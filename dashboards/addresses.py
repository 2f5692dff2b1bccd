"""The query of an address, which holds the state of a page: read, changed by one name, written again."""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode

MOST_FIELDS = 200


@dataclass(frozen=True)
class Query:
    """Names with values, in their order; a name may stand there several times."""

    pairs: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, search: str | None) -> "Query":
        """Of a text such as ?job=1&job=2. What is no query is an empty one."""
        try:
            pairs = parse_qsl((search or "").removeprefix("?"), max_num_fields=MOST_FIELDS)
        except ValueError:
            return cls()
        return cls(tuple(pairs))

    def all(self, name: str) -> tuple[str, ...]:
        """The values of a name, each once."""
        return tuple(dict.fromkeys(value for key, value in self.pairs if key == name))

    def first(self, name: str, default: str = "") -> str:
        """The first value of a name."""
        return next((value for key, value in self.pairs if key == name), default)

    def number(self, name: str) -> float | None:
        """The first value of a name, if it is a plain number."""
        try:
            value = float(self.first(name))
        except ValueError:
            return None
        return value if abs(value) < 1e300 else None  # neither NaN nor infinite

    def replaced(self, name: str, *values: object) -> "Query":
        """With these values of a name and no others, in the place of its first one."""
        new = [(name, str(value)) for value in values if str(value)]
        before = [key for key, _ in self.pairs]
        place = before.index(name) if name in before else len(before)
        others = [pair for pair in self.pairs[place:] if pair[0] != name]
        return Query((*self.pairs[:place], *new, *others))

    def toggled(self, name: str, value: object) -> "Query":
        """With this value of a name if it was not there, and else without it."""
        values, text = self.all(name), str(value)
        without = tuple(one for one in values if one != text)
        return self.replaced(name, *(without if text in values else (*values, text)))

    def toggled_alone(self, name: str, value: object) -> "Query":
        """With this value of a name and no other, or without it where that is what it was."""
        return self.replaced(name, *(() if self.all(name) == (str(value),) else (value,)))

    def only(self, names: Iterable[str]) -> "Query":
        """What it has of these names."""
        kept = frozenset(names)
        return Query(tuple(pair for pair in self.pairs if pair[0] in kept))

    @property
    def text(self) -> str:
        """As it stands in an address, with the question mark also where nothing follows it."""
        return "?" + urlencode(self.pairs, quote_via=quote, safe="@,")
