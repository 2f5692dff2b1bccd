"""What the networks of a space are run on, where that is not one input as the space has it.

A job file says it of a device: `{prefill: 512}`, a whole text of so many tokens, or
`{decode: {context: 512}}`, the next token of a text of so many. A family that knows workloads has a function
`as_run(space, tokens, is_step)` in its module.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

from search_spaces.bounds import short
from search_spaces.errors import UsageError
from search_spaces.registry import load
from search_spaces.space import SearchSpace
from search_spaces.union import union

Workload: TypeAlias = Mapping[str, Any]
FAMILIES = "search_spaces.families"


def as_run(space: SearchSpace, workload: Workload | None) -> SearchSpace:
    """The same choices, with the layers of a run on the workload; None: on an input as the space has it.

    Raises UsageError for a family that knows no workloads, and for one that its networks cannot have.
    """
    if workload is None:
        return space
    if list(space.members) != [""]:
        return union({name: as_run(member, workload) for name, member in space.members.items()})
    build = getattr(load(FAMILIES, space.family), "as_run", None)
    if build is None:
        raise UsageError(
            f"A device's workload is for language models, and the networks of family '{space.family}' are "
            "run on images.",
            "Leave workload out.",
        )
    run: SearchSpace = build(space, *tokens_of(workload))
    return run


def tokens_of(workload: Workload) -> tuple[int, bool]:
    """How many tokens a text has, and whether only its last one is run.

    Raises UsageError for what is no workload.
    """
    match workload:
        case {"prefill": int(tokens)} if len(workload) == 1:
            return tokens, False
        case {"decode": {"context": int(tokens)}} if len(workload) == 1:
            return tokens, True
    raise UsageError(
        f"{short(workload)} is no workload.", "Write {prefill: TOKENS} or {decode: {context: TOKENS}}."
    )
