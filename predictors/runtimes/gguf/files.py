"""A decoder written as a GGUF file; or a file that stands for a network already."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from torch import Tensor, nn

from search_spaces.shapes.gguf import (
    BY_LAYER,
    INTERLEAVED,
    NAMES,
    PRECISIONS,
    architecture_of,
    check_blocks,
    neighbouring_rows,
)

if TYPE_CHECKING:
    from gguf import GGUFWriter

TURNED = ("attn_q.weight", "attn_k.weight")
NO_TOKENIZER = "no_vocab"  # texts go in as the ids of their tokens


class GGUFFile(nn.Module):
    """A decoder that is a file already, with that many token ids: llama.cpp loads it as it stands.

    remembered: tokens (B, T) behind which the others are run, if there are any.
    """

    def __init__(self, file: Path, vocabulary: int, remembered: Tensor | None = None) -> None:
        super().__init__()
        self.file, self.vocabulary, self.remembered = file, vocabulary, remembered

    def behind(self, texts: Tensor) -> "GGUFFile":
        """A step of decoding: the one token behind each of these texts (B, T)."""
        return GGUFFile(self.file, self.vocabulary, texts)


def without_tokenizer(writer: "GGUFWriter") -> None:
    """For networks that read ids of tokens."""
    writer.add_tokenizer_model(NO_TOKENIZER)


def write(
    file: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    *,
    precision: str,
    describe_tokens: Callable[["GGUFWriter"], None] = without_tokenizer,
) -> str:
    """Writes the decoder with these arguments and weights by our names; what llama.cpp calls it.

    Raises UsageError for a decoder that llama.cpp lacks, and for widths that the precision cannot have.
    """
    architecture = architecture_of(config)
    check_blocks(config, precision)
    kind = gguf.GGMLQuantizationType[PRECISIONS[precision][0]]
    writer = gguf.GGUFWriter(file, architecture)
    _describe(writer, config)
    describe_tokens(writer)
    for name, tensor in weights.items():
        theirs = NAMES.theirs(name)
        for key, part in zip(
            theirs,
            tensor.detach().float().numpy(force=True).reshape(len(theirs), -1, *tensor.shape[1:]),
            strict=True,
        ):
            turned = architecture in INTERLEAVED and key.endswith(TURNED)
            rows = neighbouring_rows(part, config["head_dim"]) if turned else part
            of_tensor = kind if rows.ndim == 2 else gguf.GGMLQuantizationType.F32
            numbers = gguf.quantize(np.ascontiguousarray(rows), of_tensor)
            writer.add_tensor(key, numbers, raw_dtype=of_tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return architecture


def _describe(writer: "GGUFWriter", config: Mapping[str, Any]) -> None:
    alike = writer.arch != BY_LAYER
    heads = list(config["num_heads"])
    kv_heads = [count // config["heads_per_kv"] for count in heads]
    writer.add_context_length(config["context"] + 1)  # llama.cpp wants room for the one that it draws
    writer.add_embedding_length(config["embed_dim"])
    writer.add_block_count(len(heads))
    writer.add_feed_forward_length(config["mlp_hidden"][0] if alike else list(config["mlp_hidden"]))
    writer.add_head_count(heads[0] if alike else heads)
    writer.add_head_count_kv(kv_heads[0] if alike else kv_heads)
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["norm_eps"])
    writer.add_vocab_size(config["vocabulary"])
