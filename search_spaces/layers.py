"""Layers as plain data, and the exact costs that are sums over them.

Every number describes one sample (batch 1). MACs count the multiply-accumulates of convolutions, linear
layers and the two matrix products of attention, which is what `torch.utils.flop_counter.FlopCounterMode`
reports, halved.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Layer:
    """One operator of an architecture.

    name: dotted path in the module, such as `blocks.0.mlp.fc1`.
    kind: `conv2d`, `linear`, `attention`, `relative_positions`, `norm`, `activation`, `add`, `scale`, `token`
    or `pool`; of networks on tokens also `embedding`, `rotary`, `causal_attention` or `rms_norm`. What is
    traced has more (`predictors/tracing/operators.py`), and ends a conv2d's shape with its groups where there
    are several, behind which the kernel's height stands where it is not its width.
    shape: what the kind is fully described by (see the function that makes it).
    input_elements, output_elements: numbers read and written, weights not included.
    slices: independent small problems inside the operator (heads x windows for attention), else 1.
    operator: which one of its kind it is (`gelu`, `relu`), where a trace tells; no part of equality.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    params: int
    macs: int
    input_elements: int
    output_elements: int
    slices: int = 1
    operator: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Cost:
    """Exact sums over a layer list: counts, and bytes in float32."""

    params: int
    macs: int
    activation_bytes: int
    weight_bytes: int


def cost_of(layers: Iterable[Layer]) -> Cost:
    """The cost of any layer list, whether or not it came from one of our families."""
    params = macs = written = 0
    for layer in layers:
        params += layer.params
        macs += layer.macs
        written += layer.output_elements
    return Cost(params, macs, written * FLOAT_BYTES, params * FLOAT_BYTES)


def fvcore_flops(layers: Iterable[Layer]) -> int:
    """The "FLOPs" of papers that count with fvcore: MACs, and 5 for every element that a norm writes."""
    return sum(layer.macs + (5 * layer.output_elements if layer.kind == "norm" else 0) for layer in layers)


def linear(name: str, rows: int, n_in: int, n_out: int, *, bias: bool = True) -> Layer:
    """A linear layer on `rows` vectors; shape (rows, n_in, n_out)."""
    return Layer(
        name,
        "linear",
        (rows, n_in, n_out),
        params=n_in * n_out + bias * n_out,
        macs=rows * n_in * n_out,
        input_elements=rows * n_in,
        output_elements=rows * n_out,
    )


def conv2d(
    name: str, size_in: tuple[int, int], n_in: int, n_out: int, *, kernel: int, stride: int, bias: bool = True
) -> Layer:
    """A square convolution; the output is `ceil(size / stride)` (padded, but not when kernel == stride).

    Shape (height_out, width_out, n_in, n_out, kernel, stride).
    """
    height, width = (-(-side // stride) for side in size_in)
    weights = n_in * n_out * kernel * kernel
    return Layer(
        name,
        "conv2d",
        (height, width, n_in, n_out, kernel, stride),
        params=weights + bias * n_out,
        macs=height * width * weights,
        input_elements=n_in * size_in[0] * size_in[1],
        output_elements=n_out * height * width,
    )


def attention(
    name: str, tokens: int, heads: int, head_dim: int, *, windows: int = 1, keys: int | None = None
) -> Layer:
    """Softmax attention between the tokens of each window; shape (windows, heads, tokens, head_dim).

    keys: of a window, where they are not as many as its queries, `tokens`; they end the shape then.
    """
    shape = (windows, heads, tokens, head_dim)
    keys = tokens if keys is None else keys
    return Layer(
        name,
        "attention",
        shape if keys == tokens else (*shape, keys),
        params=0,
        macs=2 * windows * heads * tokens * keys * head_dim,
        input_elements=windows * (tokens + 2 * keys) * heads * head_dim,
        output_elements=windows * tokens * heads * head_dim,
        slices=windows * heads,
    )


def relative_positions(name: str, tokens: int, heads: int, head_dim: int, *, reach: int) -> Layer:
    """What every head adds for the distances between tokens, on its keys or on its values.

    The vectors are sums of one from a table for rows and one from a table for columns, each with 2 reach + 2
    entries; they are put together in every pass. Shape (heads, tokens, head_dim, entries).
    """
    entries, pairs = 2 * reach + 2, tokens * tokens
    return Layer(
        name,
        "relative_positions",
        (heads, tokens, head_dim, entries),
        params=2 * entries * head_dim,
        macs=heads * pairs * head_dim,
        input_elements=pairs * head_dim + heads * tokens * head_dim,
        output_elements=pairs * head_dim + heads * pairs,
    )


def norm(name: str, rows: int, dim: int, *, bias: bool = True) -> Layer:
    """A normalisation over `dim` channels with scale and (by default) shift; shape (rows, dim)."""
    return Layer(name, "norm", (rows, dim), dim * (1 + bias), 0, rows * dim, rows * dim)


def activation(name: str, rows: int, dim: int, *, inputs: int = 1) -> Layer:
    """An elementwise nonlinearity; a gated one reads `inputs=2` tensors; shape (rows, dim)."""
    return Layer(name, "activation", (rows, dim), 0, 0, inputs * rows * dim, rows * dim)


def add(name: str, rows: int, dim: int) -> Layer:
    """A residual addition; shape (rows, dim)."""
    return Layer(name, "add", (rows, dim), 0, 0, 2 * rows * dim, rows * dim)


def scale(name: str, rows: int, dim: int) -> Layer:
    """A learned per-channel factor (LayerScale); shape (rows, dim)."""
    return Layer(name, "scale", (rows, dim), dim, 0, rows * dim, rows * dim)


def token(name: str, rows: int, dim: int) -> Layer:
    """Learned vectors, joined or added to the sequence (class token, positions); shape (rows, dim)."""
    return Layer(name, "token", (rows, dim), rows * dim, 0, rows * dim, rows * dim)


def pool(name: str, rows: int, dim: int, *, groups: int = 1) -> Layer:
    """The mean, maximum or choice of one of the `rows` vectors of each group; shape (groups, rows, dim)."""
    return Layer(name, "pool", (groups, rows, dim), 0, 0, groups * rows * dim, groups * dim)


def embedding(name: str, rows: int, vocabulary: int, dim: int) -> Layer:
    """A learned vector for each of `rows` token ids; shape (rows, vocabulary, dim)."""
    return Layer(name, "embedding", (rows, vocabulary, dim), vocabulary * dim, 0, rows, rows * dim)


def rms_norm(name: str, rows: int, dim: int) -> Layer:
    """A normalisation to unit mean square with a scale for each channel; shape (rows, dim)."""
    return Layer(name, "rms_norm", (rows, dim), dim, 0, rows * dim, rows * dim)


def rotary(name: str, heads: int, rows: int, head_dim: int) -> Layer:
    """The rotation of queries and keys by their positions; shape (heads, rows, head_dim)."""
    elements = heads * rows * head_dim
    return Layer(name, "rotary", (heads, rows, head_dim), 0, 0, elements, elements)


def causal_attention(
    name: str, heads: int, kv_heads: int, head_dim: int, *, queries: int, keys: int
) -> Layer:
    """Softmax attention to the tokens up to one's own; shape (heads, kv_heads, queries, keys, head_dim).

    The queries are the last of the `keys` tokens; groups of heads share keys and values. All pairs count in
    the MACs, also those that the mask takes away, as in `FlopCounterMode`.
    """
    return Layer(
        name,
        "causal_attention",
        (heads, kv_heads, queries, keys, head_dim),
        params=0,
        macs=2 * heads * queries * keys * head_dim,
        input_elements=(queries * heads + 2 * keys * kv_heads) * head_dim,
        output_elements=queries * heads * head_dim,
        slices=heads,
    )
