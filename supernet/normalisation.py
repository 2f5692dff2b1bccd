"""Images that are normalised for one model, given to another that was trained with another mean and std.

Both normalisations are affine in every channel, so that the one follows from the other exactly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from search_spaces.errors import UsageError

CONVOLUTION = "patch_embed.proj"  # the first, of the plain modules and of timm's
CLOSE = 1e-6


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel, of pixels from 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def is_close(self, other: "Normalisation") -> bool:
        """Whether the two differ by rounding at most."""
        pairs = zip(self.mean + self.std, other.mean + other.std, strict=True)
        return all(abs(a - b) <= CLOSE for a, b in pairs)

    def to(self, other: "Normalisation") -> tuple[Tensor, Tensor]:
        """Factor and summand of each channel (channels,), in double precision, that lead to the other one."""
        mean, std, others_mean, others_std = (
            torch.tensor(values, dtype=torch.float64)
            for values in (self.mean, self.std, other.mean, other.std)
        )
        return std / others_std, (mean - others_mean) / others_std


def folded(
    name: str, state: Mapping[str, Tensor], given: Normalisation, trained: Normalisation
) -> dict[str, Tensor]:
    """The weights of a model that was trained with `trained` images, for `given` ones: the same outputs.

    name: of the model, for messages.  Raises UsageError for a first convolution that pads, whose zeros would
    mean another colour, or that has no bias.
    """
    if trained.is_close(given):
        return dict(state)
    weight, bias = (state.get(f"{CONVOLUTION}.{part}") for part in ("weight", "bias"))
    if weight is None or bias is None:
        missing = "pads its images" if weight is None else "has no bias"
        raise UsageError(
            f"The anchors were trained with images that are normalised differently, and '{name}', whose "
            f"first convolution {missing}, cannot be given its own.",
            f"Name it first, so that data.mean and data.std are its own: {list(trained.mean)}, "
            f"{list(trained.std)}.",
        )
    factor, summand = given.to(trained)
    exact = weight.double()
    added = (exact.sum(dim=(2, 3)) * summand).sum(dim=1)
    return dict(state) | {
        f"{CONVOLUTION}.weight": (exact * factor[:, None, None]).to(weight.dtype),
        f"{CONVOLUTION}.bias": (bias.double() + added).to(bias.dtype),
    }


class Renormalised(nn.Module):
    """A model behind the step from `given` images to those that it was `trained` with."""

    factor: Tensor
    summand: Tensor

    def __init__(self, model: nn.Module, given: Normalisation, trained: Normalisation) -> None:
        super().__init__()
        self.model = model
        for name, values in zip(("factor", "summand"), given.to(trained), strict=True):
            self.register_buffer(name, values.float()[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, height, width) to logits (B, classes)."""
        return self.model(x * self.factor + self.summand)


def for_channels(values: Sequence[float], count: int) -> tuple[float, ...]:
    """The numbers for `count` channels: where those of colours are more or fewer, their mean, as in timm."""
    same = len(values) == count
    return tuple(values) if same else (sum(values) / len(values),) * count
