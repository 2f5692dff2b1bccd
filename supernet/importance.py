"""What is important in a trained network: its FFN neurons and heads, and its layers.

Neurons and heads are sorted, so that the prefixes of the network keep what matters.

Source: Muralidharan et al., "Compact Language Models via Pruning and Knowledge Distillation" (arXiv
2407.14679), importance from activations; sorted before nesting as in Flextron (Cai et al., arXiv 2406.10260).
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from supernet.nested import Nested
from supernet.permutation import Owner, reorderings
from supernet.plain.decoder import Decoder, GroupedAttention
from supernet.plain.layers import Attention, Mlp
from supernet.tasks import Task


@torch.no_grad()
def sort_by_importance(supernet: Nested, batches: Iterable[Tensor]) -> None:
    """Sorts the FFNs' neurons and the attentions' heads of a nested supernet in place, most important first.

    batches: inputs, (B, C, height, width) or token ids (B, T), at least one.  A neuron's importance is its
    mean absolute output times the norm of its column of `fc2`, a head's the mean norm of what it adds to the
    output of `proj`. Heads that share keys and values stay together, by the sum of theirs.
    """
    whole = supernet.shared
    scores: dict[Owner, Tensor] = {}

    def adding(owner: Owner, score: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def add(_: nn.Module, inputs: tuple[Tensor]) -> None:
            scores[owner] = scores.get(owner, 0.0) + score(inputs[0].flatten(0, 1))

        return add

    with ExitStack() as hooks:
        for owner in whole.modules():
            if isinstance(owner, Mlp):
                hook = adding(owner, _neuron_scores(owner))
                hooks.enter_context(owner.fc2.register_forward_pre_hook(hook))
            elif isinstance(owner, Attention | GroupedAttention):
                hook = adding(owner, _head_scores(owner))
                hooks.enter_context(owner.proj.register_forward_pre_hook(hook))
        for x in batches:
            whole(x)
    for owner, summed in scores.items():
        if isinstance(owner, GroupedAttention):
            summed = summed.unflatten(0, (owner.kv_heads, -1)).sum(dim=1)
        for parameter, reordered in reorderings(owner, summed.argsort(descending=True, stable=True)):
            parameter.copy_(reordered(parameter))


@torch.inference_mode()
def losses_without(net: Decoder, batches: Iterable[tuple[Tensor, Tensor]], task: Task) -> list[float]:
    """The mean of the task's scores of the examples when each of the layers, in turn, is left out.

    batches: token ids and targets, at least one.
    """
    blocks = list(net.blocks)
    sums, count = [0.0] * len(blocks), 0
    for x, targets in batches:
        x = net.embed(x)
        for i, block in enumerate(blocks):
            rest = x
            for later in blocks[i + 1 :]:
                rest = later(rest)
            sums[i] += float(task.scores(net.logits(rest), targets).double().sum())
            x = block(x)
        count += len(targets)
    return [total / count for total in sums]


def _neuron_scores(mlp: Mlp) -> Callable[[Tensor], Tensor]:
    """From the neurons' outputs (tokens, hidden) to their scores (hidden,), summed over the tokens."""
    norms = mlp.fc2.weight.double().norm(dim=0)
    return lambda hidden: hidden.abs().double().sum(dim=0) * norms


def _head_scores(attn: Attention | GroupedAttention) -> Callable[[Tensor], Tensor]:
    """From the heads' outputs (tokens, H d) to their scores (H,), summed over the tokens."""
    columns = attn.proj.weight.unflatten(1, (attn.num_heads, attn.head_dim))  # D H d

    def score(values: Tensor) -> Tensor:
        per_head = values.unflatten(1, (attn.num_heads, attn.head_dim)).unbind(1)
        added = [v @ columns[:, head].T for head, v in enumerate(per_head)]  # each (tokens, D)
        return torch.stack([a.norm(dim=1).double().sum() for a in added])

    return score
