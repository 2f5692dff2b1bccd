"""MatLM family: prefixes of FFN neurons, heads and residual channels, and layers of one decoder for language.

Source: Devvrit et al., "MatFormer: Nested Transformer for Elastic Inference" (arXiv 2310.07707), section 3.1.
"""

from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import Architecture, SearchSpace
from search_spaces.families.matlm import decoder_config, ffn_widths, layer_values, plain_config
from search_spaces.workloads import Workload, tokens_of
from supernet.importance import losses_without, sort_by_importance
from supernet.initialisation import init_weights
from supernet.nested import Nested, equal_layers
from supernet.plain.decoder import Decoder, some_tokens
from supernet.supernet import SKELETONS
from supernet.tasks import Task

NESTS = "decoders for language"
EIGHTHS = (4, 5, 6, 7, 8)  # of its neurons that FFNs of a trained decoder keep


def build(space: SearchSpace, *, seed: int = 0) -> "MatLM":
    """A freshly initialised supernet of a `matlm` space; the same seed gives the same weights."""
    return MatLM(space, seed=seed)


def nested_options(module: nn.Module) -> dict[str, Any]:
    """Options of the space whose largest architecture is the plain module, elastic in the FFNs.

    Raises UsageError when it is no decoder or its layers are unequal.
    """
    numbers, depth, heads, neurons = equal_layers(module, Decoder)
    return numbers | {
        "embed_dim": (numbers["embed_dim"],),
        "depth": (depth,),
        "num_heads": (heads,),
        "mlp_hidden": tuple(sorted({max(1, neurons * eighths // 8) for eighths in EIGHTHS})),
    }


def layer_order(module: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], task: Task) -> list[int]:
    """The layers of a trained decoder, first the one without which the loss on the batches is least.

    batches: token ids and targets. Equal ones: the later first.
    """
    assert isinstance(module, Decoder), "nested_options has judged it"
    losses = losses_without(module, batches, task)
    return sorted(range(len(losses)), key=lambda layer: (losses[layer], -layer))


class MatLM(Nested):
    """A decoder whose prefixes are networks, too; a subnet's layers are some of the largest's, in order."""

    def __init__(self, space: SearchSpace, *, seed: int) -> None:
        self._config = decoder_config(space)
        super().__init__(space, Decoder(**plain_config(space, space.largest)))
        # Asked for once for every parameter of a forward pass.
        self._layers = lru_cache(SKELETONS)(partial(layer_values, space))
        init_weights(self.shared, torch.Generator().manual_seed(seed))

    def plain(self, arch: Architecture) -> nn.Module:
        return Decoder(**plain_config(self.space, arch))

    def segments(self, name: str) -> int:
        return 2 if self._config.gated and ".mlp.fc1." in name else 1

    def shared_name(self, arch: Architecture, name: str) -> str:
        """A subnet counts the layers that it has, the shared network all of them."""
        kind, _, rest = name.partition(".")
        if kind != "blocks":
            return name
        number, _, rest = rest.partition(".")
        index, _, _ = self._layers(arch)[int(number)]
        return f"blocks.{index}.{rest}"

    def path(self, arch: Architecture) -> tuple[Hashable, ...]:
        dim = int(arch["embed_dim"])
        keys: list[Hashable] = [("embed", dim)]
        for index, heads, hidden in self._layers(arch):
            keys += ("attn", index, dim, heads), ("mlp", index, dim, hidden)
        return *keys, ("head", dim)

    def ffn_widths(self, arch: Architecture, block: str) -> Sequence[int]:
        return ffn_widths(self.space, int(arch["embed_dim"]))

    def adapt(self, batches: Iterable[Tensor]) -> None:
        """Moves the most important neurons, and groups of heads that share keys and values, to the front."""
        sort_by_importance(self, batches)

    def as_run(self, arch: Architecture, workload: Workload | None, batch: int) -> nn.Module:
        module = self.extract(arch)
        assert isinstance(module, Decoder)
        tokens, is_step = self._text(workload)
        return module.as_run(batch, tokens, is_step=is_step)

    def run_input(self, workload: Workload | None, batch: int) -> Tensor:
        tokens, is_step = self._text(workload)
        texts = some_tokens(self._config.vocabulary, batch, tokens)
        return texts[:, -1:] if is_step else texts

    def example_input(self, batch: int) -> Tensor:
        return some_tokens(self._config.vocabulary, batch, self._config.context)

    def _text(self, workload: Workload | None) -> tuple[int, bool]:
        return (self._config.context, False) if workload is None else tokens_of(workload)
