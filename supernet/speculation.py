"""Greedy decoding of a text, alone or with a narrower network of the same weights that drafts.

Source: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding" (arXiv 2211.17192); keys
and values are shared as in MatFormer (arXiv 2310.07707), whose attention is not nested.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from search_spaces.errors import UsageError
from supernet.plain.decoder import Decoder
from supernet.plain.layers import Mlp

Cache = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Completion:
    """Tokens that follow a text.

    calls: of the whole network, that which reads the text included.  drafted: tokens that the draft has
    proposed.  accepted: those of them that the whole network would have chosen.
    """

    tokens: tuple[int, ...]
    calls: int
    drafted: int = 0
    accepted: int = 0

    @property
    def acceptance(self) -> float | None:
        """The share of what was drafted; None without a draft."""
        return self.accepted / self.drafted if self.drafted else None


class NestedMlp(Mlp):
    """The first `hidden` neurons of another one, with its weights."""

    def __init__(self, whole: Mlp, hidden: int) -> None:
        torch.nn.Module.__init__(self)
        self.gated, self.act, self._hidden = whole.gated, whole.act, hidden
        self._whole = (whole,)  # no part of this module: its weights stay where they are

    def forward(self, x: Tensor) -> Tensor:
        (whole,) = self._whole
        parts = whole.fc1.weight.chunk(2 if self.gated else 1)
        x = self.activated(torch.cat([F.linear(x, part[: self._hidden]) for part in parts], dim=-1))
        return F.linear(x, whole.fc2.weight[:, : self._hidden])


def nested_draft(target: Decoder, arguments: Mapping[str, Any]) -> Decoder:
    """The decoder with these arguments as a part of the target: views of its weights, no copies.

    Raises UsageError for what is no part: wider FFNs, or a difference in anything else.
    """
    _check_same_memory(arguments, target)
    hidden, widths = list(arguments["mlp_hidden"]), list(target.config["mlp_hidden"])
    if len(hidden) != len(widths) or any(not 0 < a <= b for a, b in zip(hidden, widths, strict=True)):
        raise UsageError(f"FFNs of {hidden} neurons are no part of {widths}.", "Take a narrower draft.")
    with torch.device("meta"):
        draft = Decoder(**arguments)
    for block, whole, width in zip(draft.blocks, target.blocks, hidden, strict=True):
        block.mlp = NestedMlp(whole.mlp, width)  # type: ignore[arg-type]
    shared = {name: tensor for name, tensor in target.state_dict().items() if ".mlp." not in name}
    draft.load_state_dict(shared, assign=True)
    return draft.eval()


@torch.inference_mode()
def completed(target: Decoder, ids: Sequence[int], count: int) -> Completion:
    """`count` tokens behind the text, each the most probable one.

    Raises UsageError for a text that is empty or does not fit into the context with what follows.
    """
    _check(target, ids, count)
    cache, begin, tokens = target.empty_cache(1), 0, list[int]()
    text = list(ids)
    for _ in range(count):
        tokens.append(_next(target, text, cache, begin)[-1])
        begin, text = begin + len(text), tokens[-1:]
    return Completion(tuple(tokens), count)


@torch.inference_mode()
def completed_with(
    draft: Decoder, target: Decoder, ids: Sequence[int], count: int, *, ahead: int = 4, shared: bool = True
) -> Completion:
    """The same tokens as `completed` gives, but for rounding; the draft proposes `ahead` at a time.

    shared: draft and target remember keys and values in one place, so that the draft reads what the target
    has remembered, and the target writes over what the draft did.
    Raises UsageError as `completed`, and for networks that do not remember the same.
    """
    _check(target, ids, count)
    _check_same_memory(draft.config, target)
    cache = target.empty_cache(1)
    of_draft = cache if shared else draft.empty_cache(1)
    text, tokens = list(ids), [_next(target, list(ids), cache, 0)[-1]]
    begin, drafted, accepted, calls = len(ids), 0, 0, 1
    behind = begin if shared else 0  # how many tokens the draft has read
    while len(tokens) < count:
        room = min(ahead, count - len(tokens) - 1)
        read = text + tokens
        proposed = _drafted(draft, read[behind:], of_draft, behind, room)
        chosen = _next(target, [tokens[-1], *proposed], cache, begin)
        agreed = next((i for i, one in enumerate(proposed) if one != chosen[i]), len(proposed))
        tokens += chosen[: agreed + 1]
        drafted, accepted, calls = drafted + len(proposed), accepted + agreed, calls + 1
        begin += agreed + 1
        # Of what it has proposed the draft has not read the last one itself.
        behind = begin if shared else min(begin, len(read) + max(len(proposed) - 1, 0))
    return Completion(tuple(tokens), calls, drafted, accepted)


def _next(net: Decoder, ids: list[int], cache: Cache, begin: int) -> list[int]:
    """The most probable token behind each of these, which follow `begin` others."""
    logits = net.continued(torch.tensor([ids]), cache, begin)
    best: list[int] = logits[0].argmax(dim=-1).tolist()
    return best


def _drafted(draft: Decoder, unread: list[int], cache: Cache, begin: int, count: int) -> list[int]:
    """`count` tokens behind those that the draft has not read yet, which follow `begin` others."""
    proposed: list[int] = []
    for _ in range(count):
        proposed.append(_next(draft, unread, cache, begin)[-1])
        begin, unread = begin + len(unread), proposed[-1:]
    return proposed


def _check(target: Decoder, ids: Sequence[int], count: int) -> None:
    context = target.config["context"]
    if not ids or count < 1:
        raise UsageError("There is no text to be continued." if not ids else "No token is asked for.")
    if len(ids) + count > context:
        raise UsageError(
            f"A text of {len(ids)} tokens and {count} more do not fit into the context of {context}.",
            "Give a shorter text, or ask for fewer tokens.",
        )


def _check_same_memory(draft: Mapping[str, Any], target: Decoder) -> None:
    """Raises UsageError for a draft whose keys and values are no prediction of the target's."""
    ours, tokens = draft["vocabulary"], target.config["vocabulary"]
    if ours != tokens:
        raise UsageError(
            f"The draft knows {ours:,} tokens, and the target {tokens:,}: it is no part of it.",
            "Take a draft of the same model.",
        )
    layers, of_target = len(draft["num_heads"]), len(target.config["num_heads"])
    if layers != of_target:
        raise UsageError(
            f"The draft has {layers} layers, and the target {of_target}: what one remembers the "
            "other cannot read.",
            "Leave the draft out, or take one that differs in its FFN widths alone.",
        )
    for name, value in target.config.items():
        if name != "mlp_hidden" and draft[name] != value:
            raise UsageError(
                f"The draft's {name} is {draft[name]}, and the target's {value}: what one remembers the "
                "other cannot read.",
                "Leave the draft out, or take one that differs in its FFN widths alone.",
            )
