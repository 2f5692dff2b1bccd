"""How far a draft agrees with the network that it drafts for, and what rounds of decoding come of it.

With a draft the target writes, greedily, what it writes alone. So its texts are written once, and a draft is
asked about them: a round that begins behind a token accepts as many proposals as agree with what follows
there, and nothing else of it matters. All rounds that could begin are looked at together; which of them do
begin follows for any number of tokens ahead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces.errors import UsageError
from supernet.evaluation.scores import Quality, ratio
from supernet.plain.decoder import Decoder

MOST_LOGITS = 2**26  # that are held at once

Cache = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Written:
    """What a network writes behind texts, each token the most probable one.

    texts: ids (B, P).  tokens: ids (B, N) that follow.  cache: what the network remembers of all but the last
    token, (B, K, P + N - 1, d) in every layer.
    """

    texts: Tensor
    tokens: Tensor
    cache: Cache


@torch.inference_mode()
def written(target: Decoder, texts: Tensor, count: int) -> Written:
    """`count` tokens behind the texts (B, P).

    Raises UsageError where that is longer than the context, or nothing.
    """
    (size, length), (context,) = texts.shape, target.input_shape
    if not size or not length or count < 1:
        raise UsageError("There is no text to be continued." if size < 1 or not length else "No token is.")
    if length + count > context:
        raise UsageError(
            f"Texts of {length} tokens and {count} more do not fit into the context of {context}.",
            "Ask for shorter texts, or for fewer tokens.",
        )
    cache, unread, tokens = target.empty_cache(size), texts, list[Tensor]()
    for begin in (0, *range(length, length + count - 1)):
        tokens.append(target.continued(unread, cache, begin)[:, -1:].argmax(dim=-1))
        unread = tokens[-1]
    end = length + count - 1
    return Written(
        texts, torch.cat(tokens, dim=1), [(keys[:, :, :end], values[:, :, :end]) for keys, values in cache]
    )


def agreements(draft: Decoder, texts: Written, ahead: int, *, shared: bool = True) -> Tensor:
    """Which proposals of the draft are what the target has written, (B, N - ahead, ahead).

    [b, s, j]: the proposal number j of a round that begins behind token s, if all before it are accepted.
    shared: the draft reads what the target remembers of the text, and remembers only the round itself.
    Raises UsageError where the target has written no more than one round.
    """
    count = texts.tokens.shape[1]
    if not 0 < ahead < count:
        raise UsageError(f"Of {count} tokens no round of {ahead} can be looked at.", "Have more written.")
    return _in_one_memory(draft, texts, ahead) if shared else _by_itself(draft, texts, ahead)


@torch.inference_mode()
def _in_one_memory(draft: Decoder, texts: Written, ahead: int) -> Tensor:
    begin, starts = texts.texts.shape[1], texts.tokens.shape[1] - ahead
    cache = [(keys.clone(), values.clone()) for keys, values in texts.cache]
    rounds = []
    # A round writes into its own places and those behind; from the last to the first none is read again.
    for start in reversed(range(starts)):
        read = texts.tokens[:, start : start + ahead]
        proposed = draft.continued(read, cache, begin + start).argmax(dim=-1)
        rounds.append(proposed == texts.tokens[:, start + 1 : start + 1 + ahead])
    return torch.stack(rounds[::-1], dim=1)


@torch.inference_mode()
def _by_itself(draft: Decoder, texts: Written, ahead: int) -> Tensor:
    whole, first = torch.cat([texts.texts, texts.tokens], dim=1), texts.texts.shape[1]
    rows = max(1, MOST_LOGITS // (whole.shape[1] * draft.vocabulary))
    proposed = torch.cat([draft(some)[:, first:-1].argmax(dim=-1) for some in whole.split(rows)])
    return (proposed == texts.tokens[:, 1:]).unfold(1, ahead, 1)


@dataclass(frozen=True, eq=False)
class Rounds:
    """Of each text (B,): how many rounds there were, and how many proposals were accepted in them.

    ahead: tokens that the draft proposes in a round.
    """

    ahead: int
    count: Tensor
    accepted: Tensor

    def acceptance(self, sources: Tensor | None = None) -> Quality:
        """The share of proposals that are accepted. sources: (B, k) what texts have in common."""
        return ratio(self.accepted, self.ahead * self.count, sources)


def rounds(agreed: Tensor, ahead: int) -> Rounds:
    """The rounds of decoding with `ahead` tokens each. agreed: as of `agreements`, for as many or more.

    They are those that begin behind one of the tokens that `agreed` is about, the first behind the first;
    each is looked at to its end, so that none is short.
    """
    accepted = agreed[:, :, :ahead].long().cumprod(dim=2).sum(dim=2)
    texts, starts = accepted.shape
    place = torch.zeros(texts, dtype=torch.int64)
    count, sums = torch.zeros_like(place), torch.zeros_like(place)
    for _ in range(starts):  # every round makes a token at least
        runs = place < starts
        here = accepted.gather(1, place.clamp(max=starts - 1)[:, None])[:, 0] * runs
        count, sums, place = count + runs, sums + here, place + here + 1
    return Rounds(ahead, count, sums)


def speed_up(acceptance: float, ahead: int, cost: float, further: float = 0.0) -> float:
    """How many times as fast as without a draft tokens come, when a round has `ahead` proposals.

    cost: of a token of the draft, in tokens of the target.  further: the same of every token beyond the first
    that the target reads in one call; 0: a call takes as long whatever it reads.
    """
    return (1 + ahead * acceptance) / (1 + ahead * (cost + further))
