"""Every architecture within the limits of a small space, one after the other."""

from collections.abc import Iterator
from functools import cached_property
from itertools import chain

from nas.proposals.distinct import OneByOne
from nas.proposals.problem import Code, SearchProblem
from search_spaces.errors import UsageError


def build(problem: SearchProblem) -> OneByOne:
    """All that keep the limits, in the order of their choices: neighbours share their first layers.

    A budget below their number ends it in the middle. Raises UsageError for a space that is too big to be
    listed.
    """
    if not problem.space.listable:
        space = problem.space
        raise UsageError(
            f"Space '{space.name}' has {space.size:,} architectures, too many to look at all of them.",
            "Choose another searcher, or give the space fewer options.",
        )
    return _InOrder(problem)


class _InOrder(OneByOne):
    """The first that is not proposed yet; `start` comes before, as in every searcher."""

    def _next(self) -> Code | None:
        return next((code for code in self._left if code.tobytes() not in self.trials.numbers), None)

    @cached_property
    def _left(self) -> Iterator[Code]:
        """What was not looked at yet: none of what was is left to propose."""
        assert self.problem.listed is not None, "only spaces that can be listed come here"
        return chain(self.problem.first, self.problem.listed)
