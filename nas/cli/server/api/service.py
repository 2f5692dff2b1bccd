"""What a route of the API is, what requests may hold, and what answers are made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from nas.cli.server.api.streams import Streams
from nas.cli.server.children import Children

if TYPE_CHECKING:
    from dashboards.opened import OpenedStore

Name = Annotated[str, Field(min_length=1, max_length=200)]
Condition = Annotated[str, Field(min_length=1, max_length=500)]


@dataclass(frozen=True)
class Service:
    """What answers are made of.

    folders: where files may be that a submitted job names; None: job files are trusted like those of
    `nas submit`.
    """

    url: str
    opened: "OpenedStore"
    folders: tuple[str, ...] | None = ()
    children: Children = field(default_factory=Children)
    streams: Streams = field(default_factory=Streams)

    @property
    def request(self) -> dict[str, Any]:
        """What every child is told."""
        return {"store": self.url, "folders": self.folders}

    def end(self) -> None:
        """Ends what would go on after the server."""
        self.streams.end()
        self.children.end()


class Taken(BaseModel):
    """What a request may hold; anything else is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Nothing(Taken):
    """An empty one."""


@dataclass(frozen=True)
class Call:
    """A request that has been checked. words: those of its address by what they stand for."""

    words: Mapping[str, Any]
    query: Any
    body: Any


@dataclass(frozen=True)
class Route:
    """An address, and what is done there. name: the operation's in the OpenAPI document.

    verb: the command whose JSON document it answers with.  body: None for what only reads.
    """

    name: str
    path: str
    says: str
    answer: Callable[[Service, Call], Any]
    verb: str | None = None
    query: type[Taken] = Nothing
    body: type[Taken] | None = None
    method: str = "GET"
    gives: str = "application/json"

    @property
    def writes(self) -> bool:
        """Whether it needs the write token."""
        return self.method != "GET"
