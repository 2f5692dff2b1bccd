"""What the operators of a trace are as layers: of our spaces' kinds, and what moves numbers beside them.

Spaces state no movements (MOVEMENTS): which there are depends on how a module is written. Everything else of
a trace is what `search_spaces.layers` makes, so that a network traced and the same one stated are equal.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from torch import Tensor

from search_spaces.layers import (
    Layer,
    activation,
    add,
    attention,
    causal_attention,
    embedding,
    linear,
    norm,
    pool,
    rms_norm,
    scale,
    token,
)

# Kinds that no space states: numbers copied, shifted around an edge, looked up or resampled, and what is
# computed of numbers that do not depend on the input.
MOVEMENTS = ("copy", "shift", "gather", "resample", "constant")
ACTIVATIONS = frozenset(
    (
        *("gelu", "relu", "silu", "sigmoid", "tanh", "hardtanh", "hardswish", "hardsigmoid"),
        *("mish", "elu", "leaky_relu", "softplus", "log_sigmoid", "threshold", "exp", "erf"),
        *("_prelu_kernel", "celu", "selu"),
    )
)
VIEWS = frozenset(("_unsafe_view", "lift_fresh", "detach", "alias", "_reshape_alias"))
COPIES = frozenset(
    (
        *("clone", "copy", "_to_copy", "constant_pad_nd", "reflection_pad2d"),
        *("replication_pad2d", "repeat", "pixel_shuffle", "pixel_unshuffle", "im2col"),
        *("channel_shuffle", "flip", "contiguous", "stack"),
    )
)
SHIFTS = frozenset(("roll",))
GATHERS = frozenset(
    (
        *("index", "index_select", "gather", "take", "index_put", "scatter", "where", "topk"),
        *("sort",),
    )
)
POOLS = frozenset(
    (
        *("mean", "amax", "amin", "sum", "max", "min", "var_mean", "var"),
        *("linalg_vector_norm", "norm", "std", "max_pool2d_with_indices", "avg_pool2d"),
        *("_adaptive_avg_pool2d", "adaptive_max_pool2d", "argmax", "avg_pool1d"),
        *("max_pool1d", "max_pool3d_with_indices", "avg_pool3d", "_adaptive_avg_pool3d"),
    )
)
IMAGES = frozenset(("convolution", "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d"))
FREE = frozenset(("empty", "new_empty", "empty_like", "new_empty_strided", "empty_strided", "sym_size"))

Outputs: TypeAlias = tuple[Tensor, ...]


@dataclass
class Trace:
    """What was seen so far.

    layers: in the order of the forward pass.  uncounted: how many numbers a parameter has, by its storage,
    until a layer has had it: a weight that two layers share counts with the first.
    parameters, dependent: storages of parameters, and of what depends on the input.  images: tensors whose
    channels come second, by identity.  activated: which layer wrote a storage, if that was an activation.
    alive: all tensors, since storages and identities are told apart only as long as they exist.
    """

    layers: list[Layer] = field(default_factory=list)
    uncounted: dict[int, int] = field(default_factory=dict)
    parameters: set[int] = field(default_factory=set)
    dependent: set[int] = field(default_factory=set)
    images: set[int] = field(default_factory=set)
    activated: dict[int, int] = field(default_factory=dict)
    alive: list[Any] = field(default_factory=list)
    module: str = ""

    def see(self, name: str, arguments: Sequence[Any], outputs: Outputs, *, writes: bool) -> None:
        """Adds the layer of an operator of ATen, if it is one; `writes`: into an argument."""
        inputs = tuple(_tensors(arguments))
        self.alive.extend((inputs, outputs))
        storages = {storage(one) for one in inputs}
        depends = any(one in self.dependent for one in storages)
        if depends:
            self.dependent.update(map(storage, outputs))
        is_view = not writes and bool(outputs) and all(storage(one) in storages for one in outputs)
        self._follow_images(name, inputs, outputs, is_view=is_view)
        if name in FREE or not outputs:
            return
        if is_view or name in VIEWS:
            self._viewed(name, arguments, outputs, depends=depends)
            return
        call = Call(self, name, arguments, inputs, outputs)
        rule = RULES.get(name)
        begin = len(self.layers)
        if rule is not None:
            rule(call)
        elif not depends:
            call.fixed()
        else:
            _elementwise(call)
        self.layers[begin:] = [replace(layer, operator=name) for layer in self.layers[begin:]]

    def emit(self, layer: Layer) -> None:
        """The next layer, named after the module that runs."""
        self.layers.append(layer)

    def count(self, *weights: Tensor | None) -> int:
        """How many numbers of these parameters no layer has had yet; they count as had from here on."""
        return sum(self.uncounted.pop(storage(one), 0) for one in weights if one is not None)

    def is_parameter(self, tensor: object) -> bool:
        """Whether it is a parameter or a view of one."""
        return isinstance(tensor, Tensor) and storage(tensor) in self.parameters

    def depends(self, tensor: object) -> bool:
        """Whether it is a tensor that depends on the input."""
        return isinstance(tensor, Tensor) and storage(tensor) in self.dependent

    def _follow_images(self, name: str, inputs: Outputs, outputs: Outputs, *, is_view: bool) -> None:
        if name in IMAGES or (not is_view and any(id(one) in self.images for one in inputs)):
            self.images.update(id(one) for one in outputs if one.dim() == 4)

    def _viewed(self, name: str, arguments: Sequence[Any], outputs: Outputs, *, depends: bool) -> None:
        """Of views one is a layer: the choice of one token of a sequence (1, N, D)."""
        if name == "select" and depends and arguments[0].dim() == 3 and arguments[1] == 1:
            self.emit(pool(f"{self.module}.select".strip("."), 1, outputs[0].shape[-1]))


@dataclass(frozen=True)
class Call:
    """One call of an operator, with what layers are made of."""

    trace: Trace
    name: str
    arguments: Sequence[Any]
    inputs: Outputs
    outputs: Outputs

    @property
    def path(self) -> str:
        """The dotted path of the layer: that of the module that runs."""
        return self.trace.module or self.name

    @property
    def read(self) -> int:
        """Numbers of all tensors that are read."""
        return sum(one.numel() for one in self.inputs)

    @property
    def written(self) -> int:
        """Numbers of the first output."""
        return self.outputs[0].numel()

    def rows(self, tensor: Tensor | None = None) -> tuple[int, int]:
        """How many vectors a tensor holds and how long they are; of images, one for every pixel."""
        tensor = self.outputs[0] if tensor is None else tensor
        if tensor.dim() == 0:
            return 1, 1
        channels = tensor.shape[1] if id(tensor) in self.trace.images else tensor.shape[-1]
        return tensor.numel() // max(channels, 1), channels

    def moved(self, kind: str) -> None:
        """A movement of what the operator writes."""
        self.trace.emit(Layer(self.path, kind, self.rows(), 0, 0, self.written, self.written))

    def fixed(self) -> None:
        """Something computed of numbers that do not depend on the input, in every pass."""
        if self.inputs:
            rows = self.rows()
            params = self.trace.count(*self.inputs)
            self.trace.emit(Layer(self.path, "constant", rows, params, 0, self.read, self.written))


def storage(tensor: Tensor) -> int:
    """Which memory a tensor is a view of; also one without any."""
    identity: int = tensor.untyped_storage()._cdata
    return identity


def matrix_product(trace: Trace, path: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """A linear layer on the vectors of x (..., n_in); weight (n_out, n_in)."""
    rows, (n_out, n_in) = x.numel() // max(x.shape[-1], 1), weight.shape
    params = trace.count(weight, bias)
    trace.emit(replace(linear(path, rows, n_in, n_out), params=params))


def attended(trace: Trace, path: str, q: Tensor, k: Tensor, *, causal: bool, grouped: bool) -> None:
    """Softmax attention of queries (..., H, N, d) to keys (..., K, M, d)."""
    heads, queries, size = (1, 1, 1, *q.shape)[-3:]
    kv_heads, keys = (1, 1, *k.shape)[-3:-1]
    windows = math.prod(q.shape[:-3])
    if causal or (grouped and kv_heads != heads):
        trace.emit(
            causal_attention(path, windows * heads, windows * kv_heads, size, queries=queries, keys=keys)
        )
    else:
        trace.emit(attention(path, queries, heads, size, windows=windows, keys=keys))


def root_mean_square(trace: Trace, path: str, x: Tensor, weight: Tensor | None) -> None:
    """A norm to unit mean square of vectors (..., D)."""
    layer = rms_norm(path, x.numel() // x.shape[-1], x.shape[-1])
    trace.emit(replace(layer, params=trace.count(weight)))


def _convolution(call: Call) -> None:
    x, weight, bias, stride, _, _, transposed, _, groups = call.arguments[:9]
    out = call.outputs[0]
    kernel, spread = weight.shape[2:], x if transposed else out
    pixels = spread.shape[0] * math.prod(spread.shape[2:])
    height, width = (1, *out.shape[2:])[-2:]
    n_in, n_out = x.shape[1], out.shape[1]
    shape = (height, width, n_in, n_out, kernel[-1], stride[-1])
    square = len(set(kernel)) == 1
    call.trace.emit(
        Layer(
            call.path,
            "conv2d",
            shape if groups == 1 and square else (*shape, groups) if square else (*shape, groups, kernel[0]),
            params=call.trace.count(weight, bias),
            macs=pixels * math.prod(weight.shape),
            input_elements=x.numel(),
            output_elements=out.numel(),
        )
    )


def _normalised(call: Call) -> None:
    """Layer, group, batch and instance norms; the first output has the shape of the first input."""
    x = call.inputs[0]
    of_layer = call.name == "native_layer_norm"
    dim = math.prod(call.arguments[1]) if of_layer else x.shape[1]
    if not of_layer and x.dim() == 4:
        call.trace.images.add(id(call.outputs[0]))
    weights = call.arguments[2:4] if of_layer else call.arguments[1:3]
    layer = norm(call.path, x.numel() // dim, dim)
    call.trace.emit(replace(layer, params=call.trace.count(*weights)))


def _product(call: Call) -> None:
    """mm, addmm, bmm and baddbmm: a linear layer where one side is a parameter."""
    *first, a, b = (one for one in call.inputs)
    bias = first[0] if first and call.trace.is_parameter(first[0]) else None
    for x, weight in ((a, b), (b, a)):
        if call.trace.is_parameter(weight) and not call.trace.is_parameter(x):
            n_in, n_out = weight.shape[-2:] if weight is b else weight.shape[-2:][::-1]
            layer = linear(call.path, x.numel() // n_in, n_in, n_out)
            call.trace.emit(replace(layer, params=call.trace.count(weight, bias)))
            return
    batches, rows, inner = (1, *a.shape)[-3:]
    call.trace.emit(
        Layer(
            call.path,
            "matmul",
            (batches, rows, inner, b.shape[-1]),
            0,
            batches * rows * inner * b.shape[-1],
            a.numel() + b.numel(),
            call.written,
            slices=batches,
        )
    )


def storage_size(tensor: Tensor) -> int:
    """How many numbers the memory behind a tensor has room for."""
    return tensor.untyped_storage().nbytes() // max(tensor.element_size(), 1)


def _softmax(call: Call) -> None:
    rows, dim = call.written // call.outputs[0].shape[-1], call.outputs[0].shape[-1]
    call.trace.emit(Layer(call.path, "softmax", (rows, dim), 0, 0, call.written, call.written))


def _activated(call: Call) -> None:
    if not any(map(call.trace.depends, call.inputs)):
        call.fixed()
        return
    call.trace.activated[storage(call.outputs[0])] = len(call.trace.layers)
    call.trace.emit(activation(call.path, *call.rows()))


def _added(call: Call) -> None:
    a, b = call.arguments[:2]
    dependent = [one for one in (a, b) if call.trace.depends(one)]
    others = [one for one in (a, b) if isinstance(one, Tensor) and not call.trace.depends(one)]
    if not dependent:
        call.fixed()
    elif not others:
        call.trace.emit(replace(add(call.path, *call.rows()), input_elements=call.read))
    elif call.trace.is_parameter(others[0]) and others[0].numel() > others[0].shape[-1]:
        layer = token(call.path, others[0].numel() // others[0].shape[-1], others[0].shape[-1])
        call.trace.emit(replace(layer, params=call.trace.count(*others)))
    elif len(call.trace.layers) and call.trace.is_parameter(others[0]) and others[0].dim() == 1:
        _biased(call, others[0])
    else:
        layer = add(call.path, *call.rows())
        call.trace.emit(replace(layer, params=call.trace.count(*others), input_elements=call.read))


def _biased(call: Call, bias: Tensor) -> None:
    """A bias added behind a product is part of that linear layer; elsewhere a layer of its own."""
    last = call.trace.layers[-1]
    if last.kind == "linear" and last.output_elements == call.written:
        call.trace.layers[-1] = replace(last, params=last.params + call.trace.count(bias))
    else:
        call.trace.emit(replace(scale(call.path, *call.rows()), params=call.trace.count(bias)))


def _multiplied(call: Call) -> None:
    """A factor by channel or by sample; of an activation by as many numbers: a gate, part of it."""
    a, b = call.arguments[:2]
    if not any(map(call.trace.depends, (a, b))):
        call.fixed()
        return
    if call.trace.depends(a) and call.trace.depends(b) and a.numel() == b.numel() and a is not b:
        for one in (a, b):
            index = call.trace.activated.pop(storage(one), None)
            if index is not None:
                layer = call.trace.layers[index]
                more = layer.input_elements + layer.output_elements
                call.trace.layers[index] = replace(layer, input_elements=more)
                return
        call.trace.emit(Layer(call.path, "multiply", call.rows(), 0, 0, call.read, call.written))
        return
    params = call.trace.count(*(one for one in (a, b) if isinstance(one, Tensor)))
    call.trace.emit(replace(scale(call.path, *call.rows()), params=params))


def _joined(call: Call) -> None:
    """Tensors one behind the other: learned vectors among them are tokens, and all is copied."""
    for one in call.inputs:
        if call.trace.is_parameter(one):
            layer = token(call.path, one.numel() // one.shape[-1], one.shape[-1])
            call.trace.emit(replace(layer, params=call.trace.count(one)))
    call.moved("copy" if any(map(call.trace.depends, call.inputs)) else "constant")


def _gathered(call: Call) -> None:
    source = call.inputs[0]
    if call.trace.is_parameter(source):
        size = source.shape[-1]
        layer = token(call.path, storage_size(source) // size, size)
        call.trace.emit(replace(layer, params=call.trace.count(source)))
        return
    call.moved("gather" if any(map(call.trace.depends, call.inputs)) else "constant")


def _embedded(call: Call) -> None:
    weight, rows = call.inputs[0], call.inputs[1].numel()
    layer = embedding(call.path, rows, *weight.shape)
    call.trace.emit(replace(layer, params=call.trace.count(weight)))


def _pooled(call: Call) -> None:
    """The mean, maximum and the like of groups of vectors; windows may overlap."""
    x, out = call.inputs[0], call.outputs[0]
    if not call.trace.depends(x):
        call.fixed()
        return
    groups, dim = call.rows(out) if out.numel() > 1 else (1, 1)
    kernel = call.arguments[1] if call.name.startswith(("max_pool", "avg_pool")) else None
    rows = x.numel() // max(out.numel(), 1) if kernel is None else math.prod(_pair(kernel))
    layer = Layer(call.path, "pool", (groups, rows, dim), 0, 0, x.numel(), out.numel())
    call.trace.emit(layer)


def _elementwise(call: Call) -> None:
    """Any other operator: reads its inputs and writes its output."""
    params = call.trace.count(*call.inputs)
    layer = Layer(call.path, "elementwise", call.rows(), params, 0, call.read, call.written)
    call.trace.emit(layer)


def _moves(kind: str) -> Callable[[Call], None]:
    def rule(call: Call) -> None:
        if any(map(call.trace.depends, call.inputs)):
            call.moved(kind)
        else:
            call.fixed()

    return rule


def _pair(kernel: Any) -> tuple[int, ...]:
    sides = tuple(kernel) if isinstance(kernel, list | tuple) else (kernel,)
    return sides if len(sides) > 1 else sides * 2


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _rules() -> Iterator[tuple[str, Callable[[Call], None]]]:
    yield from dict.fromkeys(("mm", "addmm", "bmm", "baddbmm"), _product).items()
    yield from dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax"), _softmax).items()
    for name in ("native_layer_norm", "native_group_norm", "native_batch_norm", "cudnn_batch_norm"):
        yield name, _normalised
    yield "_native_batch_norm_legit_no_training", _normalised
    yield from dict.fromkeys(ACTIVATIONS, _activated).items()
    yield from dict.fromkeys(POOLS, _pooled).items()
    yield from dict.fromkeys(GATHERS, _gathered).items()
    yield from dict.fromkeys(COPIES, _moves("copy")).items()
    yield from dict.fromkeys(SHIFTS, _moves("shift")).items()
    for name in ("bilinear", "bicubic", "nearest"):
        yield f"upsample_{name}2d", _moves("resample")
    yield from {"convolution": _convolution, "add": _added, "mul": _multiplied, "cat": _joined}.items()
    yield "embedding", _embedded


RULES: Mapping[str, Callable[[Call], None]] = dict(_rules())
