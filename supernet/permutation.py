"""Reordering the neurons of an FFN or the heads of an attention: the network's function stays as it was.

Everything that belongs to a parameter entry by entry, such as an optimiser's moments, is reordered likewise.
"""

from collections.abc import Callable, Iterator

from torch import Tensor

from supernet.plain.decoder import GroupedAttention
from supernet.plain.layers import Attention, Mlp

Owner = Mlp | Attention | GroupedAttention
Reordering = Callable[[Tensor], Tensor]


def reorderings(owner: Owner, order: Tensor) -> Iterator[tuple[Tensor, Reordering]]:
    """The parameters that a new order of neurons or heads concerns, each with what it does to them.

    order: (neurons,) or (heads,), the old places in their new order; of heads that share keys and values in
    groups those of the groups.
    """
    if isinstance(owner, GroupedAttention):
        width = owner.heads_per_kv * owner.head_dim
        sizes = {owner.q_proj: width, owner.k_proj: owner.head_dim, owner.v_proj: owner.head_dim}
        for projection, size in sizes.items():
            for parameter in projection.parameters():
                yield parameter, _groups(1, order, size=size)
        yield owner.proj.weight, lambda weight: _columns(weight, order, size=width)
    elif isinstance(owner, Mlp):
        for parameter in owner.fc1.parameters():
            yield parameter, _groups(2 if owner.gated else 1, order)
        yield owner.fc2.weight, lambda weight: weight[:, order]
    else:
        for parameter in owner.qkv.parameters():
            yield parameter, _groups(3, order, size=owner.head_dim)
        yield owner.proj.weight, lambda weight: _columns(weight, order, size=owner.head_dim)


def _groups(segments: int, order: Tensor, *, size: int = 1) -> Reordering:
    """Reorders groups of `size` rows in each of the equal segments of dim 0."""
    return lambda rows: rows.unflatten(0, (segments, -1, size))[:, order].flatten(0, 2)


def _columns(weight: Tensor, order: Tensor, *, size: int) -> Tensor:
    return weight.unflatten(1, (-1, size))[:, order].flatten(1, 2)
