"""The yardstick of all timings: one small transformer block, always the same, in the device's own runtime.

A block like those of the measured networks slows down as they do when a machine is shared; its size is a
compromise between being short beside a run and long beside a clock's steps. It has a module of its own since
it imports torch, which whoever reads measurements or predicts does without.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

TOKENS = 197
DIM = 192
HEADS = 2
MLP_RATIO = 2


class Calibrator(nn.Module):
    """A pre-norm transformer block over 197 tokens of width 192, about 3 ms on one CPU core; one sample."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(DIM)
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.proj = nn.Linear(DIM, DIM)
        self.norm2 = nn.LayerNorm(DIM)
        self.fc1 = nn.Linear(DIM, MLP_RATIO * DIM)
        self.fc2 = nn.Linear(MLP_RATIO * DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        """`(1, 197, 192)` to the same."""
        query, key, value = (
            part.view(1, TOKENS, HEADS, DIM // HEADS).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.proj(mixed.transpose(1, 2).reshape(1, TOKENS, DIM))
        out: Tensor = x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        return out


def calibrator() -> nn.Module:
    """The block in evaluation mode, with the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Calibrator().eval()


def calibrator_example() -> Tensor:
    """Its fixed input, `(1, 197, 192)`, float32."""
    return torch.randn(1, TOKENS, DIM, generator=torch.Generator().manual_seed(0))
