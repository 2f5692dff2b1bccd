"""A language family that is somebody's own and tiny: each token sees the one before it, its FFNs are nested.

Its one `build` makes the space, and of a space the supernet.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import Architecture, Choice, Part, SearchSpace
from search_spaces.layers import Layer, activation, add, linear, norm
from supernet.nested import Nested
from supernet.plain.layers import HalvedBlock, Mlp, Network

FAMILY = "tests.nas.tiny_language"
DIM = 16


def build(
    space: SearchSpace | None = None,
    *,
    seed: int = 0,
    context: int = 32,
    vocabulary: int = 256,
    depth: Sequence[int] = (1, 2),
    hidden: Sequence[int] = (4, 16, 64),
) -> Any:
    """The space, or the supernet of a space."""
    if space is not None:
        return TinyLanguage(space, seed=seed)
    layers = range(max(depth))
    return SearchSpace(
        name=FAMILY,
        family=FAMILY,
        choices=(
            Choice("depth", tuple(depth)),
            *(
                Choice(f"hidden.{i}", tuple(hidden), ("depth", tuple(d for d in depth if d > i)))
                for i in layers
            ),
        ),
        parts=(
            Part((), lambda values: (linear("embed", 0, vocabulary, DIM, bias=False),)),
            *(_part(i, context) for i in layers),
            Part((), lambda values: (linear("head", context, DIM, vocabulary),)),
        ),
        options={
            "context": context,
            "vocabulary": vocabulary,
            "depth": tuple(depth),
            "hidden": tuple(hidden),
        },
    )


def _part(i: int, context: int) -> Part:
    def layers(values: Mapping[str, Any]) -> tuple[Layer, ...]:
        width = values[f"hidden.{i}"]
        if width is None:
            return ()
        name = f"blocks.{i}"
        return (
            linear(f"{name}.before", context, DIM, DIM),
            add(f"{name}.add1", context, DIM),
            norm(f"{name}.norm2", context, DIM),
            linear(f"{name}.mlp.fc1", context, DIM, width),
            activation(f"{name}.mlp.act", context, width),
            linear(f"{name}.mlp.fc2", context, width, DIM),
            add(f"{name}.add2", context, DIM),
        )

    return Part((f"hidden.{i}",), layers)


class _Block(HalvedBlock):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.before = nn.Linear(DIM, DIM)
        self.norm2 = nn.LayerNorm(DIM)
        self.mlp = Mlp(DIM, hidden, gated=False, act="gelu")

    def attended(self, x: Tensor) -> Tensor:
        shifted = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        return x + self.before(shifted)


class TinyNetwork(Network):
    """From tokens (B, T) to logits (B, T, vocabulary)."""

    first_conv, classifier = "embed", "head"

    def __init__(self, context: int, vocabulary: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.config = {"context": context, "vocabulary": vocabulary, "hidden": list(hidden)}
        self.input_shape = (context,)
        self.embed = nn.Embedding(vocabulary, DIM)
        self.blocks = nn.ModuleList(_Block(width) for width in hidden)
        self.head = nn.Linear(DIM, vocabulary)

    def stages(self) -> Iterator[tuple[str, Any]]:
        yield "embed", self.embed
        for i, block in enumerate(self.blocks):
            yield f"blocks.{i}", block
        yield "head", self.head


class TinyLanguage(Nested):
    """The supernet: FFNs are prefixes of the widest one's."""

    def __init__(self, space: SearchSpace, *, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            shared = self._network(space, space.largest)
        super().__init__(space, shared)

    def _network(self, space: SearchSpace, arch: Architecture) -> TinyNetwork:
        options = space.options
        return TinyNetwork(options["context"], options["vocabulary"], arch.per_layer("hidden"))

    def plain(self, arch: Architecture) -> nn.Module:
        return self._network(self.space, arch)

    def segments(self, name: str) -> int:
        return 1

    def ffn_widths(self, arch: Architecture, block: str) -> Sequence[int]:
        widths: Sequence[int] = self.space.options["hidden"]
        return widths

    def path(self, arch: Architecture) -> tuple[Hashable, ...]:
        halves = [
            key for i, width in enumerate(arch.per_layer("hidden")) for key in (("a", i), ("m", i, width))
        ]
        return ("embed", *halves, "head")

    def adapt(self, batches: Iterable[Tensor]) -> None:
        raise NotImplementedError("it begins from scratch")

    def example_input(self, batch: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        shape = (batch, self.space.options["context"])
        return torch.randint(self.space.options["vocabulary"], shape, generator=generator)


JOB: dict[str, Any] = {
    "name": "tiny-language",
    "data": {"name": "python_docs", "documents": 120, "context": 32},
    "supernet": {"family": FAMILY},
    "train": {
        "steps": 300,
        "batch_size": 32,
        "warmup": 10,
        "threads": 1,
        "checkpoint_every": 100,
        "lr": 0.01,
    },
    "devices": {"cpu": {"batch": 8}},
    "predictor": {"samples": 10, "rounds": 2, "max_rounds": 3},
    "search": {
        "evaluations": 12,
        "batch": 4,
        "finalists": 3,
        "measure_above": None,
        "searcher": "random",
        "racing": 0.1,
    },
    "execution": {"workers": 1},
}
