"""A training by ranks as the job's process sees it: it hears, saves, and begins anew where a rank is lost."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from safetensors.torch import load, save
from torch import Tensor

from nas.errors import JobFailedError, NoSpaceError
from nas.training.ranks.work import on_cpu
from nas.watchdog import patient
from search_spaces.errors import NASError, NotFoundError, NotHereError, UsageError
from supernet.training.trainer import DivergedError

POLL_SECONDS = 0.5
LONGEST = 200  # characters of an error that is not ours
ENDS = ("failed", "broken")
LOSSES = 3  # in a row, between which nothing was saved
ERRORS: dict[str, type[NASError]] = {
    kind.__name__: kind
    for kind in (DivergedError, JobFailedError, NoSpaceError, NotFoundError, NotHereError, UsageError)
}

State = dict[str, Tensor]


class RankLostError(Exception):
    """A rank ended, or stopped answering, before the training did."""


@dataclass(frozen=True)
class Message:
    """What a rank tells: `joined`, `metrics`, `warning`, `state`, `done`; `failed` and `broken` are its end.

    failed: with an error of ours, of class `error`, in `message` and `hint`.  broken: by another one.
    """

    rank: int
    kind: str
    content: dict[str, Any] = field(default_factory=dict)
    state: bytes | None = None


class Group(Protocol):
    """Ranks that have been started, all of them."""

    def receive(self, seconds: float) -> list[Message]:
        """What they have told, after so many seconds at the latest.

        Raises RankLostError where one of them is gone, JobFailedError where one has not joined in time.
        """

    def stop(self) -> bool:
        """Tells them to stop after the step that they are at. False where not all have joined yet."""


Start = Callable[[bytes], AbstractContextManager[Group]]


@dataclass(frozen=True)
class Listener:
    """What becomes of what ranks tell.

    stops: whether the training is to stop.  save: of a checkpoint, or of the last state.
    """

    metrics: Callable[[dict[str, Any]], None]
    warn: Callable[[str], None]
    stops: Callable[[], bool]
    save: Callable[[State], None]


def trained_by_ranks(start: Start, state: State, steps: int, listener: Listener) -> State:
    """The state at the end of the training, or where it was told to stop.

    start: starts all ranks, the first of which is given a state.
    Raises what a rank raises, and JobFailedError where ranks are lost again and again.
    """
    losses = 0
    while int(state["step"]) < steps and not listener.stops():
        begun = int(state["step"])
        try:
            with start(save(on_cpu(state))) as group:
                for saved in _states(group, listener):
                    state = saved
        except RankLostError as error:
            losses = losses + 1 if int(state["step"]) == begun else 1
            if losses >= LOSSES:
                raise JobFailedError(
                    f"Workers of the training were lost {LOSSES} times in a row: {error}.",
                    "They may lack memory: lower train.workers or train.batch_size, and go on with "
                    "`nas resume JOB`.",
                ) from error
            listener.warn(f"The training goes on from step {int(state['step'])}: {error}.")
    return state


def _states(group: Group, listener: Listener) -> Iterator[State]:
    """The states that the first rank gives away, each saved, until all ranks are done."""
    asked = False
    while True:
        if not asked and listener.stops():
            asked = True
            if not group.stop():
                return
        with patient() if asked else nullcontext():  # what they have learnt is to be saved, too
            messages = group.receive(POLL_SECONDS)
        for message in messages:
            if message.kind == "state":
                assert message.state is not None
                state = load(message.state)
                listener.save(state)
                yield state
            elif message.kind == "metrics":
                listener.metrics(message.content)
            elif message.kind == "warning":
                listener.warn(str(message.content["message"]))
            elif message.kind == "done":
                return


def raise_for(messages: Iterable[Message], *, lost: Iterable[str] = ()) -> None:
    """Raises for ranks that have come to a bad end: rather for what one of them said of itself.

    The others miss the one that did, and break down over it.
    lost: what became of those that ended without a word.
    """
    ends = {message.kind: message for message in messages if message.kind in ENDS}
    if (failed := ends.get("failed")) is not None:
        content = failed.content
        raise ERRORS.get(content["error"], JobFailedError)(content["message"], content["hint"])
    for reason in lost:
        raise RankLostError(reason)
    if (broken := ends.get("broken")) is not None:
        raise RankLostError(f"worker {broken.rank + 1} broke down ({broken.content['message']})")


def bad_end(rank: int, error: BaseException) -> Message:
    """What a rank tells of the error by which it ends."""
    if isinstance(error, NASError):
        content = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
        return Message(rank, "failed", content)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return Message(rank, "broken", {"message": lines[0][:LONGEST].rstrip(".")})
