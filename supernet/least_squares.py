"""Stitching layers in closed form: the affine map from a front block's output to an end block's input.

Source: SN-Net (arXiv 2302.06586), section 3.2, where `[A 1]` is inverted in float32. Here the normal
equations are summed in float64 over any number of batches, with a small ridge: the float32 pseudo-inverse
drops most directions of features with a few large channels, and needs all of them in memory.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from search_spaces.shapes.stitches import Cut

RIDGE = 1e-6
Place: TypeAlias = tuple[int, int]  # anchor, block


class NormalEquations:
    """Sums `A1^T A1` of front features with a column of ones, and `A1^T B` towards end features, in float64.

    Memory is O(D^2) for each front block and each cut. All cuts after one front block share its Gram matrix.
    """

    def __init__(self) -> None:
        self._gram: dict[Place, Tensor] = {}
        self._cross: dict[Cut, Tensor] = {}

    def add(
        self, cuts: Iterable[Cut], outputs: Mapping[Place, Tensor], inputs: Mapping[Place, Tensor]
    ) -> None:
        """One batch: features (..., D) by anchor and block, with the same tokens in all of them."""
        for front, behind in _by_front(cuts).items():
            a = outputs[front].flatten(0, -2).double()
            rows = torch.cat([a, a.new_ones(len(a), 1)], dim=1)
            self._gram[front] = self._gram.get(front, 0.0) + rows.T @ rows
            for cut in behind:
                b = inputs[cut.end, cut.first].flatten(0, -2).double()
                self._cross[cut] = self._cross.get(cut, 0.0) + rows.T @ b

    def solve(self, cut: Cut) -> tuple[Tensor, Tensor]:
        """Weight (D_end, D_front) and bias (D_end,) in float64."""
        gram = self._gram[cut.front, cut.last]
        # In proportion to each channel: a ridge for all would drown the others beside a massive one.
        squares = gram.diagonal()
        ridge = (RIDGE * squares.clamp(min=RIDGE * float(squares.mean()))).diag()
        solution = torch.linalg.solve(gram + ridge, self._cross[cut])
        return solution[:-1].T, solution[-1]


def _by_front(cuts: Iterable[Cut]) -> dict[Place, list[Cut]]:
    groups: dict[Place, list[Cut]] = {}
    for cut in cuts:
        groups.setdefault((cut.front, cut.last), []).append(cut)
    return groups


@torch.no_grad()
def solved(
    anchors: Sequence[nn.Module], layers: Sequence[Sequence[Cut]], batches: Iterable[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of every stitching layer, the mean over the cuts that it serves (as released).

    anchors: in evaluation mode, with `block_list`.  batches: images (B, C, height, width), at least one.
    """
    cuts = [cut for served in layers for cut in served]
    equations = NormalEquations()
    for x in batches:
        outputs, inputs = _features(anchors, cuts, x)
        equations.add(cuts, outputs, inputs)
    means = []
    for served in layers:
        weights, biases = zip(*(equations.solve(cut) for cut in served), strict=True)
        means.append((torch.stack(weights).mean(dim=0), torch.stack(biases).mean(dim=0)))
    return means


def _features(
    anchors: Sequence[nn.Module], cuts: Sequence[Cut], x: Tensor
) -> tuple[dict[Place, Tensor], dict[Place, Tensor]]:
    """What the cuts' front blocks give and their end blocks take, when each anchor runs alone on `x`."""
    outputs: dict[Place, Tensor] = {}
    inputs: dict[Place, Tensor] = {}

    def keep(place: Place, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        index, block = place
        if place in given:
            outputs[place] = output
        if place in taken:
            inputs[place] = args[0]
        # The input of a block behind the last one is the last one's output: what the head takes.
        if (index, block + 1) in taken:
            inputs[index, block + 1] = output

    given = {(cut.front, cut.last) for cut in cuts}
    taken = {(cut.end, cut.first) for cut in cuts}
    with ExitStack() as hooks:
        for index, anchor in enumerate(anchors):
            blocks: list[nn.Module] = anchor.block_list  # type: ignore[assignment]
            for i, block in enumerate(blocks):
                hooks.enter_context(block.register_forward_hook(partial(keep, (index, i))))
        for anchor in anchors:
            anchor(x)
    return outputs, inputs
