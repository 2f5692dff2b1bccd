"""Sorting neurons and heads by the size of their weights while a supernet is trained.

Source: the released training of ViT-ResNAS (Liao et al., arXiv 2109.00642); as in Once-for-all (Cai et al.,
arXiv 1908.09791). The optimiser's moments move with the weights here, which the release leaves out.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from supernet.permutation import Owner, reorderings
from supernet.plain.decoder import GroupedAttention
from supernet.plain.layers import Attention, Mlp


@torch.no_grad()
def sort_by_magnitude(shared: nn.Module, companions: Callable[[Tensor], Iterable[Tensor]]) -> None:
    """Puts the neurons of every FFN and the heads of every attention in order, the largest weights first.

    companions: what belongs to a parameter entry by entry (moments, averages) and is reordered with it.
    """
    for owner, order in orders(shared):
        for parameter, reordered in reorderings(owner, order):
            for tensor in (parameter, *companions(parameter)):
                tensor.copy_(reordered(tensor))


def orders(shared: nn.Module) -> Iterator[tuple[Owner, Tensor]]:
    """Every FFN and attention with its neurons or heads by the sum of their absolute weights and biases.

    Those that a neuron or a head reads with and writes with count alike; equal ones keep their order. Of
    heads that share keys and values it is the groups.
    """
    for owner in shared.modules():
        if isinstance(owner, Mlp):
            reads = sum(
                p.abs().unflatten(0, (1 + owner.gated, -1)).flatten(2).sum((0, 2))
                for p in _matrices(owner.fc1)
            )
            yield owner, _descending(reads + owner.fc2.weight.abs().sum(0))
        elif isinstance(owner, Attention):
            heads = (owner.num_heads, owner.head_dim)
            reads = sum(p.abs().unflatten(0, (3, *heads)).sum((0, 2, 3)) for p in _matrices(owner.qkv))
            yield owner, _descending(reads + owner.proj.weight.abs().unflatten(1, heads).sum((0, 2)))
        elif isinstance(owner, GroupedAttention):
            groups = (owner.kv_heads, -1)
            reads = sum(
                p.abs().unflatten(0, groups).sum((1, 2))
                for projection in (owner.q_proj, owner.k_proj, owner.v_proj)
                for p in _matrices(projection)
            )
            yield owner, _descending(reads + owner.proj.weight.abs().unflatten(1, groups).sum((0, 2)))


def _matrices(layer: nn.Linear) -> Iterator[Tensor]:
    """Weight and bias, each (rows, columns)."""
    return (p.detach().view(len(p), -1) for p in layer.parameters())


def _descending(scores: Tensor) -> Tensor:
    return scores.argsort(descending=True, stable=True)
