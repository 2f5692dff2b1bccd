"""Probing a network: a fixed batch goes through, and every block's reaction is recorded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces import Architecture
from supernet import tasks
from supernet.supernet import Supernet

Stage = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Reaction:
    """What one stage of a forward pass does to a batch.

    rms: root mean square of its output.  rank: effective rank of its output's tokens, averaged over examples.
    bypass: how much the loss rises when the stage is left out; None where its output has another shape than
    its input, so that it cannot be.
    """

    rms: float
    rank: float
    bypass: float | None


@dataclass(frozen=True)
class Probing:
    """A network's loss on the batch, and the reaction of every stage by name, in order."""

    loss: float
    reactions: dict[str, Reaction]


def probe(
    supernet: Supernet, arch: Architecture, x: Tensor, targets: Tensor, *, task: tasks.Task | None = None
) -> Probing:
    """Runs the architecture with inherited weights on x with its targets, and once without each stage.

    What stands before a stage that is left out is not computed again.
    """
    task, module = task or tasks.get(), supernet.eval().extract(arch)
    stages: list[tuple[str, Stage]] = list(module.stages())  # type: ignore[operator]
    with torch.inference_mode():
        inputs = [x]
        for _, stage in stages:
            inputs.append(stage(inputs[-1]))
        loss = task.loss(inputs[-1], targets).item()
        reactions = {}
        for i, (name, _) in enumerate(stages):
            before, after = inputs[i], inputs[i + 1]
            bypass = None
            if before.shape == after.shape and i + 1 < len(stages):
                rest = [stage for _, stage in stages[i + 1 :]]
                bypass = task.loss(_through(before, rest), targets).item() - loss
            reactions[name] = Reaction(after.square().mean().sqrt().item(), effective_rank(after), bypass)
    return Probing(loss, reactions)


def _through(x: Tensor, stages: Sequence[Stage]) -> Tensor:
    for stage in stages:
        x = stage(x)
    return x


def effective_rank(x: Tensor) -> float:
    """The exponential of the entropy of the singular values of an example's tokens, averaged over examples.

    Source: Roy and Vetterli, "The effective rank" (2007).
    """
    tokens = x.flatten(1, -2) if x.dim() > 3 else x
    values = torch.linalg.svdvals(tokens.float() if tokens.dim() == 3 else tokens.float()[:, None])
    shares = values / values.sum(dim=-1, keepdim=True).clamp_min(1e-12)
    entropy = -(shares * shares.clamp_min(1e-12).log()).sum(dim=-1)
    return float(entropy.exp().mean())
