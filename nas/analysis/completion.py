"""A text continued by a subnet of a language model, with another one of the same weights as its draft."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nas.analysis.narrower import check_same_supernet
from nas.config.components import stored_config
from nas.results.extraction import extract
from nas.results.frames import INHERITED
from nas.spaces.job_space import space_of
from nas.store import Job, Store
from nas.text.tokens import BYTES, tokenizer_of
from search_spaces.errors import UsageError

if TYPE_CHECKING:
    from supernet.speculation import Completion


@dataclass(frozen=True)
class Completed:
    """What follows a text.

    calls: of the subnet itself.  acceptance: the share of the draft's tokens that it would have chosen, None
    without a draft.  seconds, plain_seconds: with the draft, and without.
    same: whether both gave the same tokens; where rounding decides between two they may not.
    """

    subnet: str
    draft: str | None
    text: str
    tokens: int
    calls: int
    acceptance: float | None
    seconds: float
    plain_seconds: float
    same: bool

    @property
    def tokens_a_call(self) -> float:
        return self.tokens / self.calls

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with tokens a call."""
        return asdict(self) | {"tokens_a_call": self.tokens_a_call}


def complete(
    store: Store,
    job: Job,
    subnet: str,
    text: str,
    *,
    draft: str | None = None,
    count: int = 40,
    ahead: int = 4,
    shared: bool = True,
) -> Completed:
    """`count` tokens behind the text, each the most probable one, by the subnet whose key begins so.

    draft: the beginning of the key of another one, a part of it, that proposes `ahead` tokens at a time.
    shared: both remember keys and values in one place.
    The weights are those with which the front reports the subnet, and the draft's are a part of them.
    Raises UsageError for jobs of images, texts that are empty or too long, and a draft that is no part.
    """
    from supernet.plain.decoder import Decoder  # noqa: PLC0415 - torch is heavy
    from supernet.speculation import completed, completed_with, nested_draft  # noqa: PLC0415

    target = extract(store, job, subnet)
    if not isinstance(target, Decoder):
        raise UsageError(f"Job '{job.name}' is about images: its subnets continue no text.")
    config = stored_config(job)
    read = tokenizer_of(config.data.options.get("tokenizer", BYTES), vocabulary=target.vocabulary)
    ids = [read.begin, *read.split(text)[0].tolist()]
    if len(ids) == 1:
        raise UsageError("There is no text to be continued.", "Give some words.")
    plain, plain_seconds = _timed(lambda: completed(target, ids, count))
    made, seconds = plain, plain_seconds
    if draft is not None:
        narrow = nested_draft(target, _arguments(store, job, draft, subnet))
        made, seconds = _timed(lambda: completed_with(narrow, target, ids, count, ahead=ahead, shared=shared))
    return Completed(
        store.subnet(job, subnet).key,
        None if draft is None else store.subnet(job, draft).key,
        read.join(made.tokens),
        len(made.tokens),
        made.calls,
        made.acceptance,
        seconds,
        plain_seconds,
        made.tokens == plain.tokens,
    )


def _arguments(store: Store, job: Job, draft: str, target: str) -> dict[str, Any]:
    """Those of the draft's network. Raises UsageError for a draft of another supernet than the target's."""
    space = space_of(store, job)
    arch, whole = (space.architecture(store.subnet(job, key).architecture) for key in (draft, target))
    check_same_supernet(space, arch, whole)
    config: Any = extract(store, job, draft, weights=INHERITED).config
    return dict(config)


def _timed(make: "Callable[[], Completion]") -> "tuple[Completion, float]":
    began = time.perf_counter()
    made = make()
    return made, time.perf_counter() - began
