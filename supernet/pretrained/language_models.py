"""Decoders that others have trained: what a folder or a file says of one, and its weights in ours.

Whoever reads a format says what the network is (`arguments`), which weights there are (`shapes`), what they
are called (`Names`) and how one is read. The rest is here, so that every format is judged alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from search_spaces.bounds import bounded_depth, positive, short
from search_spaces.errors import UsageError
from search_spaces.shapes.decoder import DecoderConfig, Names, module_arguments
from supernet.plain.decoder import Decoder
from supernet.pretrained.weight_files import FAILURES, check_finite

HEAD = "head.weight"


@dataclass(frozen=True)
class LanguageModel:
    """A decoder in a folder or a file.

    what: the folder or the file in words.  arguments: of the plain `Decoder`.  shapes: of all weights there
    are, by their names.  read: one of them, in float32.
    """

    what: str
    arguments: dict[str, Any]
    names: Names
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]

    def sketch(self) -> Decoder:
        """The plain module without memory for its weights. Raises UsageError where the weights are others."""
        with torch.device("meta"):
            module = Decoder(**self.arguments)
        self._check_head()
        needed = {name: self.names.theirs(name) for name, _ in module.named_parameters()}
        extra = self.shapes.keys() - {theirs for several in needed.values() for theirs in several}
        if self.arguments["tied"]:
            extra -= set(self.names.theirs(HEAD))
        if extra:
            name = short(min(extra))
            raise UsageError(f"{self.what} holds weights {name}, which its network does not have.")
        for name, parameter in module.named_parameters():
            self._check_shape(needed[name], tuple(parameter.shape))
        return module

    def load(self) -> Decoder:
        """The plain module with its weights, in evaluation mode.

        Raises UsageError for a damaged file, and for weights that are not those of the network or not finite.
        """
        module = self.sketch().to_empty(device="cpu")
        try:
            self._check_equal_head()
            with torch.no_grad():
                for name, parameter in module.named_parameters():
                    parameter.copy_(torch.cat([self.read(theirs) for theirs in self.names.theirs(name)]))
        except UsageError:
            raise
        except FAILURES as error:
            raise damaged(self.what, error) from error
        check_finite(lowered(self.what), module.state_dict())
        return module.eval()

    def _check_shape(self, theirs: Sequence[str], shape: tuple[int, ...]) -> None:
        expected = (shape[0] // len(theirs), *shape[1:])
        for name in theirs:
            if name not in self.shapes:
                raise UsageError(f"{self.what} lacks the weights '{name}'.", "It may not be complete.")
            if self.shapes[name] != expected:
                raise UsageError(
                    f"The weights '{name}' of {lowered(self.what)} are {self.shapes[name]}, and by its "
                    f"settings {expected}."
                )

    def _check_head(self) -> None:
        (head,) = self.names.theirs(HEAD)
        if not self.arguments["tied"] and head not in self.shapes:
            raise UsageError(
                f"{self.what} lacks '{head}', although its settings do not say that the logits are made with "
                "the embedding.",
                "Set tie_word_embeddings: true in its config.json if that is so.",
            )

    def _check_equal_head(self) -> None:
        """Raises UsageError for a head of its own where the settings say that it is the embedding."""
        (head,), (embedding,) = self.names.theirs(HEAD), self.names.theirs("embed.weight")
        if not self.arguments["tied"] or head not in self.shapes:
            return
        if not self.read(head).equal(self.read(embedding)):
            raise UsageError(
                f"{self.what} has weights '{head}' that are not those of '{embedding}', although its "
                "settings say that they are tied.",
                "Set tie_word_embeddings: false in its config.json if they are not.",
            )


def decoder_arguments(
    what: str, *, embed_dim: Any, depth: Any, num_heads: Any, kv_heads: Any, mlp_hidden: Any, **numbers: Any
) -> dict[str, Any]:
    """The arguments of the plain `Decoder` with equal layers; `numbers` are fields of `DecoderConfig`.

    Raises UsageError for numbers that make no decoder.
    """
    try:
        counts = {"layers": depth, "heads": num_heads, "heads of keys and values": kv_heads}
        counts |= {"the width": embed_dim, "the width of FFNs": mlp_hidden}
        for name, value in counts.items():
            positive(name, value)
        bounded_depth("layers", depth)
        if num_heads % kv_heads:
            raise UsageError(f"{num_heads} heads cannot share {kv_heads} heads of keys and values.")
        config = DecoderConfig(heads_per_kv=num_heads // kv_heads, **numbers)
    except UsageError as error:
        raise UsageError(
            f"The network of {lowered(what)} is none that can be built: {error.message}", error.hint
        ) from error
    return module_arguments(config, embed_dim, [num_heads] * depth, [mlp_hidden] * depth)


def lowered(what: str) -> str:
    """A folder or a file in words, inside of a sentence."""
    return what[:1].lower() + what[1:]


def damaged(what: str, error: BaseException) -> UsageError:
    """What to say about files that a library cannot read."""
    reason = str(error).partition("\n")[0][:200].rstrip(".") or type(error).__name__
    return UsageError(f"{what} cannot be read: {reason}.", "It may be damaged or not complete.")
