"""What GGUF, the format of llama.cpp, calls a decoder and its parts, and which decoders it can hold.

Where all layers are equal a network is called llama, qwen2 or qwen3, else `deci`: of that architecture
llama.cpp reads heads and FFN widths by layer (NVIDIA's Llama-Nemotron has it).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import UsageError
from search_spaces.shapes.decoder import Names

# What the networks of each architecture have that Llama's do not. Mistrals are called llama.
ARCHITECTURES: Mapping[str, Mapping[str, bool]] = {
    "llama": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
}
BY_LAYER = "deci"
# Of these the file has the rows of queries and keys in the order of interleaved rotations.
INTERLEAVED = ("llama", BY_LAYER)
NAMES = Names(
    embed="token_embd",
    norm="output_norm",
    head="output",
    layer="blk.{}.",
    of_layer={
        "norm1": ("attn_norm",),
        "norm2": ("ffn_norm",),
        **{f"attn.{side}_proj": (f"attn_{side}",) for side in "qkv"},
        **{f"attn.{side}_norm": (f"attn_{side}_norm",) for side in "qk"},
        "attn.proj": ("attn_output",),
        "mlp.fc1": ("ffn_gate", "ffn_up"),
        "mlp.fc2": ("ffn_down",),
    },
)
# Of each precision what matrices are called, and how many numbers of a row are written at a time.
PRECISIONS: Mapping[str, tuple[str, int]] = {
    "fp32": ("F32", 1),
    "fp16": ("F16", 1),
    "q8_0": ("Q8_0", 32),
    "q4_0": ("Q4_0", 32),
}
ALL_ALIKE = "Give all layers the same width, or take another format."


def architecture_of(config: Mapping[str, Any]) -> str:
    """What llama.cpp calls a decoder with these arguments. Raises UsageError for one that it lacks."""
    switches = {name: True for name in ("qkv_bias", "qk_norm") if config[name]}
    kind = next((name for name, theirs in ARCHITECTURES.items() if theirs == switches), None)
    if kind is None or not config["gated"] or config["act"] != "silu":
        raise UsageError(
            "llama.cpp has no such network: FFNs gated by SiLU are needed, and at most one of biases of "
            "queries, keys and values (Qwen2) and norms of queries and keys (Qwen3).",
            "Take another format.",
        )
    if len(set(config["num_heads"])) == len(set(config["mlp_hidden"])) == 1:
        return kind
    if switches:
        raise UsageError(
            f"llama.cpp reads widths by layer of networks of Llama's kind alone, and this is one of {kind}.",
            ALL_ALIKE,
        )
    return BY_LAYER


def check_blocks(config: Mapping[str, Any], precision: str) -> None:
    """Numbers of a row are quantised a block at a time. Raises UsageError for rows that are none."""
    _, block = PRECISIONS[precision]
    for name, width in _row_widths(config):
        if width % block:
            near = sorted({max(block, width // block * block), -(-width // block) * block})
            verb, widths = "is" if len(near) == 1 else "are", " and ".join(map(str, near))
            raise UsageError(
                f"{precision} takes {block} numbers at a time, and the rows of {name} have {width}.",
                f"The nearest that it takes {verb} {widths}.",
            )


def _row_widths(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Of the matrices of a decoder, of those with equally wide rows one."""
    yield "embed.weight", config["embed_dim"]
    for layer, (heads, hidden) in enumerate(zip(config["num_heads"], config["mlp_hidden"], strict=True)):
        yield f"blocks.{layer}.attn.proj.weight", heads * config["head_dim"]
        yield f"blocks.{layer}.mlp.fc2.weight", hidden


def neighbouring_rows(weight: NDArray[Any], head_dim: int) -> NDArray[Any]:
    """Rows of queries or keys (H d, D) whose pairs are d / 2 rows apart, with the two of each pair together.

    Rotations turn channels of a head's two halves in one format, and neighbouring channels in the other.
    """
    halves = weight.reshape(-1, 2, head_dim // 2, weight.shape[-1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)
