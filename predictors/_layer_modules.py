"""Modules of single layers with the inputs they run on, for timing layers alone.

A layer's data does not tell everything: every norm is a layer norm here, every activation a GELU, every pool
a mean, and learned vectors are added.
"""

from typing import TYPE_CHECKING

from search_spaces._errors import UsageError
from search_spaces._layers import Layer

if TYPE_CHECKING:
    from torch import Tensor, nn

KINDS = (
    *("linear", "conv2d", "attention", "relative_positions", "norm", "activation", "add", "scale", "token"),
    "pool",
)


def input_shapes(layer: Layer) -> tuple[tuple[int, ...], ...]:
    """The shapes of the tensors that `build_layer` takes, without the batch.

    Raises UsageError for an unknown kind.
    """
    kind, shape = layer.kind, layer.shape
    if kind == "conv2d":
        height, width, n_in, _, _, stride = shape
        return ((n_in, height * stride, width * stride),)
    if kind == "attention":
        windows, heads, queries, head_dim = shape[:4]
        keys = shape[4] if len(shape) > 4 else queries
        return tuple((windows, heads, tokens, head_dim) for tokens in (queries, keys, keys))
    if kind == "activation":
        return ((shape[0], layer.input_elements // shape[0]),)
    if kind == "relative_positions":
        return (shape[:3],)
    if kind == "linear":
        return (shape[:2],)
    if kind in KINDS:
        return (shape,) * (2 if kind == "add" else 1)
    raise UsageError(f"No module is known for layers of kind '{kind}'.", f"Kinds: {', '.join(KINDS)}.")


def build_layer(layer: Layer) -> "nn.Module":
    """A freshly initialised module of one layer; raises UsageError for an unknown kind."""
    from torch import nn  # noqa: PLC0415 - torch is heavy, and predicting does not need it

    kind, shape = layer.kind, layer.shape
    input_shapes(layer)
    if kind == "linear":
        return nn.Linear(shape[1], shape[2], bias=layer.params > shape[1] * shape[2])
    if kind == "conv2d":
        _, _, n_in, n_out, kernel, stride = shape
        padding = 0 if kernel == stride else kernel // 2
        bias = layer.params > n_in * n_out * kernel * kernel
        return nn.Conv2d(n_in, n_out, kernel, stride, padding=padding, bias=bias)
    if kind == "norm":
        return nn.LayerNorm(shape[1], bias=layer.params > shape[1])
    return _functional(layer)


def _functional(layer: Layer) -> "nn.Module":
    """A module without one in torch."""
    import torch  # noqa: PLC0415 - see `build_layer`
    from torch import nn  # noqa: PLC0415
    from torch.nn import functional as F  # noqa: PLC0415

    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if layer.kind in ("scale", "token"):
                size = layer.shape if layer.kind == "token" else layer.shape[1:]
                self.weight = nn.Parameter(torch.ones(size))
            if layer.kind == "relative_positions":
                _, tokens, head_dim, entries = layer.shape
                self.rows, self.columns = (nn.Parameter(torch.randn(entries, head_dim)) for _ in range(2))
                places = torch.arange(tokens)
                apart = (places - places[:, None] + entries // 2).clamp(0, entries - 1)
                self.apart = nn.Buffer(apart, persistent=False)

        def forward(self, *inputs: "Tensor") -> "Tensor":
            x = inputs[0]
            if layer.kind == "attention":
                # As networks run it: windows count as samples.
                q, k, v = (tensor.flatten(0, 1) for tensor in inputs)
                return F.scaled_dot_product_attention(q, k, v)
            if layer.kind == "add":
                return x + inputs[1]
            if layer.kind == "scale":
                return x * self.weight
            if layer.kind == "token":
                return x + self.weight
            if layer.kind == "pool":
                return x.mean(dim=2)
            if layer.kind == "relative_positions":
                vectors = self.rows[self.apart] + self.columns[self.apart]
                by_query: Tensor = x.permute(2, 0, 1, 3).flatten(1, 2) @ vectors.transpose(1, 2)
                told: Tensor = by_query.unflatten(1, x.shape[:2])
                return told.permute(1, 2, 0, 3)
            if x.shape[-1] == layer.shape[1]:
                return F.gelu(x)
            gate, value = x.chunk(2, dim=-1)
            return F.gelu(gate) * value

    return Single()
