"""Searchers: one file each, `build(problem, ...) -> Searcher`."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nas.proposals.members import InEachMember
from nas.proposals.problem import STDERR, Learning, Paced, SearchProblem, with_directions
from search_spaces import registry
from search_spaces.errors import UsageError
from search_spaces.space import Codes

__all__ = ["STDERR", "Learning", "Paced", "SearchProblem", "Searcher", "build", "names", "with_directions"]

Floats = NDArray[np.float64]


class Searcher(Protocol):
    """Proposes architectures of a problem and learns from what they turn out to be.

    The same problem, asked and told the same in the same order, proposes the same. A search that was
    interrupted goes on when a new searcher is told the stored batches in turn, without asking for them.
    """

    def ask(self, count: int) -> Codes:
        """At most `count` architectures (n, choices); fewer, perhaps none, where none is left or found.

        They are canonical and keep the limits; none was ever asked for or told before.
        """

    def tell(self, codes: Codes, values: Floats | None, errors: Floats | None = None) -> None:
        """What architectures (n, choices) were evaluated to, (n, objectives).

        Those that it has not proposed count as proposed, too, in this order. A row with a value that is not
        finite: it could not be evaluated. values None: they are being evaluated elsewhere.
        errors: standard errors of the values (n, objectives), NaN where there is none.
        """


def names() -> list[str]:
    """The searchers that there are."""
    return registry.names(__name__)


def build(name: str, problem: SearchProblem, **options: Any) -> Searcher:
    """The searcher of that name with its own options.

    Of a union of spaces it is the searcher itself where its module says SEVERAL_SPACES = "together", and else
    one for each member.
    Raises NotFoundError for an unknown one, UsageError for options that it does not take, and for a union
    where the module says "refused".
    """
    several = list(problem.space.members) != [""]
    way = getattr(registry.load(__name__, name), "SEVERAL_SPACES", None) if several else "together"
    if way == "refused":
        raise UsageError(
            f"search.searcher: {name} searches one supernet, and the job has {len(problem.parts)}.",
            "Take another one, such as surrogate, or give the job one of the supernets.",
        )
    if way == "together":
        searcher: Searcher = registry.call(__name__, name, problem, **options)
        return searcher
    each = {member: registry.call(__name__, name, part, **options) for member, part in problem.parts.items()}
    return InEachMember(problem, each)
