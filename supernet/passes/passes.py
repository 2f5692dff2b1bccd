"""How a training runs its networks: what of the recipe is about the passes, as one context around them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from search_spaces import Architecture
from search_spaces.errors import UsageError
from supernet.passes.blocks import linear_rates
from supernet.passes.compiling import Compiler, check_compiler
from supernet.passes.dropping import Rows, branches_dropped, dropout
from supernet.passes.recomputing import recomputed
from supernet.supernet import Supernet
from supernet.training.recipe import Recipe


class Passes:
    """The passes of a training of this supernet by this recipe.

    compiler: None unless the recipe compiles.
    Raises UsageError for a recipe that does not fit the supernet, and where nothing can be compiled.
    """

    def __init__(self, net: Supernet, recipe: Recipe) -> None:
        self._recipe = recipe
        self.compiler: Compiler | None = None
        if recipe.compile:
            check_compiler(next(net.parameters()).device)
            self.compiler = Compiler()
        if isinstance(recipe.drop_path, tuple) and len(recipe.drop_path) != net.networks:
            raise UsageError(
                f"train.drop_path has {len(recipe.drop_path)} rates, and the supernet joins {net.networks} "
                f"network{'' if net.networks == 1 else 's'}.",
                "Give one rate for each anchor, the smallest first, or one number for all.",
            )

    @contextmanager
    def running(
        self, net: Supernet, arch: Architecture, *, draw: Callable[[int], Tensor], rows: Rows
    ) -> Iterator[None]:
        """Around the forward pass of an architecture and the backward pass of its loss.

        draw: as of `branches_dropped`.  rows: of `dropout`.
        """
        recipe = self._recipe

        def altered(plain: nn.Module) -> ExitStack:
            contexts = ExitStack()
            if recipe.dropout:
                contexts.enter_context(dropout(plain, recipe.dropout, rows))
            if recipe.drop_path:
                contexts.enter_context(branches_dropped(plain, self.rates(net, arch), draw))
            if self.compiler is not None:
                contexts.enter_context(self.compiler.compiled(plain))
            if recipe.checkpoint_activations:
                contexts.enter_context(recomputed(plain))
            return contexts

        with net.altered(arch, altered), self._tf32():
            yield

    @contextmanager
    def _tf32(self) -> Iterator[None]:
        """Products of matrices in TensorFloat-32 on GPUs that have it, where the recipe allows it."""
        if not self._recipe.tf32:
            yield
            return
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]

    def rates(self, net: Supernet, arch: Architecture) -> Sequence[float]:
        """The chance of each block of an architecture that an example does without its branches."""
        rate, where = self._recipe.drop_path, net.block_places(arch)
        by_network = rate if isinstance(rate, tuple) else (rate,) * net.networks
        if self._recipe.drop_path_by == "subnet":
            assert not isinstance(rate, tuple), "the recipe says so"
            return linear_rates(rate, len(where))
        if self._recipe.drop_path_by == "equal":
            return [by_network[place.network] for place in where]
        return [by_network[place.network] * place.depth for place in where]
