"""Weights to begin with where none are pretrained."""

import torch
from torch import nn


def init_weights(module: nn.Module, generator: torch.Generator, *, std: float | None = None) -> None:
    """Truncated normal weights with std `fan_in ** -0.5`; tokens and all about positions 0.02; zero biases.

    The usual std 0.02 suits residual widths of several hundred; at 64 it leaves a net on its first plateau.
    std: of all linear layers instead; convolutions then begin as PyTorch begins them.
    """
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            nn.init.constant_(parameter, float(name.endswith(("weight", "gamma"))))
        elif name.endswith(("pos_embed", "token", "_table")):
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)
        else:
            by_width = parameter[0].numel() ** -0.5
            nn.init.trunc_normal_(parameter, std=by_width if std is None else std, generator=generator)
    if std is not None:
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                _as_pytorch(part, generator)


def _as_pytorch(conv: nn.Conv2d, generator: torch.Generator) -> None:
    """As its own `reset_parameters` does, but with this generator."""
    bound = conv.weight[0].numel() ** -0.5
    for parameter in (conv.weight, conv.bias):
        if parameter is not None:
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
