"""The linear layer between two anchors: trained as a whole, or frozen with a low-rank update."""

import torch
from torch import Tensor, nn


class StitchingLayer(nn.Module):
    """Weight (n_out, n_in) and bias (n_out,) for all tokens.

    With `rank` r the weight is frozen and `lora_b @ lora_a / r` is added to it: `lora_a` (r, n_in) is drawn,
    `lora_b` (n_out, r) begins at zero, the bias is trained. The two are added anew in every pass and put
    together for good only when a network is extracted, so that no state says whether they are.
    Source: SN-Netv2 (arXiv 2307.00154), low-rank update of stitching layers.
    """

    weight: Tensor

    def __init__(self, n_in: int, n_out: int, *, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.bias = nn.Parameter(torch.zeros(n_out))
        if rank:
            self.register_buffer("weight", torch.zeros(n_out, n_in))
            self.lora_a = nn.Parameter(torch.zeros(rank, n_in))
            self.lora_b = nn.Parameter(torch.zeros(n_out, rank))
        else:
            self.weight = nn.Parameter(torch.zeros(n_out, n_in))

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Random weights: what an initialisation from features has to beat."""
        bound = self.weight.shape[1] ** -0.5
        self.weight.normal_(std=bound, generator=generator)
        self.bias.zero_()
        if self.rank:
            # Kaiming-uniform with a = sqrt(5), as nn.Linear is drawn.
            self.lora_a.uniform_(-bound, bound, generator=generator)
            self.lora_b.zero_()

    @torch.no_grad()
    def set(self, weight: Tensor, bias: Tensor) -> None:
        """Makes the layer this affine map; the update begins at zero again."""
        self.weight.copy_(weight)
        self.bias.copy_(bias)
        if self.rank:
            self.lora_b.zero_()

    def merged(self) -> Tensor:
        """The weight that the layer multiplies with."""
        return self.weight + self.lora_b @ self.lora_a / self.rank if self.rank else self.weight

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.merged(), self.bias)
