"""Small decoders with random weights: plain modules, those of transformers, folders and GGUF files."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from search_spaces.shapes.gguf import NAMES
from supernet.plain.decoder import Decoder

TINY: dict[str, Any] = {
    "vocabulary": 61,
    "context": 12,
    "embed_dim": 16,
    "num_heads": [4, 4],
    "mlp_hidden": [24, 24],
    "head_dim": 8,
    "heads_per_kv": 2,
    "norm_eps": 1e-6,
}
# Architecture of transformers -> what its networks have that Llama's do not.
KINDS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"rope_theta": 1e6},
    "Qwen2": {"qkv_bias": True, "tied": False, "head_dim": 4},
    "Qwen3": {"qk_norm": True, "heads_per_kv": 1},
}


def drawn(net: nn.Module, seed: int = 0) -> nn.Module:
    """With random weights everywhere, norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3, generator=generator)
    return net.eval()


def of_transformers(kind: str, config: Mapping[str, Any]) -> nn.Module:
    """The same network as transformers builds it."""
    transformers: Any = pytest.importorskip("transformers")
    numbers = {
        "vocab_size": config["vocabulary"],
        "hidden_size": config["embed_dim"],
        "intermediate_size": config["mlp_hidden"][0],
        "num_hidden_layers": len(config["num_heads"]),
        "num_attention_heads": config["num_heads"][0],
        "num_key_value_heads": config["num_heads"][0] // config.get("heads_per_kv", 1),
        "head_dim": config["head_dim"],
        "max_position_embeddings": config["context"],
        "rms_norm_eps": config["norm_eps"],
        "tie_word_embeddings": config.get("tied", True),
        "rope_parameters": {"rope_type": "default", "rope_theta": config.get("rope_theta", 10_000.0)},
    }
    built: nn.Module = getattr(transformers, f"{kind}ForCausalLM")(
        getattr(transformers, f"{kind}Config")(**numbers)
    )
    return built


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A plain decoder's weights under the names of transformers."""
    ends = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm", "attn": "self_attn"}
    others = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
    names: dict[str, Tensor] = {}
    for name, tensor in state.items():
        first, _, rest = name.partition(".")
        if first != "blocks":
            names[f"{others[first]}.{rest}"] = tensor
            continue
        number, part, end = rest.split(".", 2)
        layer = f"model.layers.{number}"
        if part == "mlp":
            sides = zip(("gate_proj", "up_proj"), tensor.chunk(2), strict=True)
            whole = [("down_proj", tensor)] if end == "fc2.weight" else sides
            names |= {f"{layer}.mlp.{side}.weight": half for side, half in whole}
        else:
            end = end.replace("proj.weight", "o_proj.weight") if end == "proj.weight" else end
            names[f"{layer}.{ends[part]}.{end}"] = tensor
    return names


def plain_of(kind: str, **numbers: Any) -> Decoder:
    net = drawn(Decoder(**TINY | KINDS[kind] | numbers))
    assert isinstance(net, Decoder)
    return net


def written(kind: str, folder: Path, **settings: Any) -> Decoder:
    """A folder as transformers writes it, made by hand; the network that it holds."""
    net = plain_of(kind)
    config, heads = net.config, net.config["num_heads"][0]
    described = {
        "architectures": [f"{kind}ForCausalLM"],
        "model_type": kind.lower(),
        "vocab_size": config["vocabulary"],
        "hidden_size": config["embed_dim"],
        "intermediate_size": config["mlp_hidden"][0],
        "num_hidden_layers": len(config["num_heads"]),
        "num_attention_heads": heads,
        "num_key_value_heads": heads // config["heads_per_kv"],
        "head_dim": config["head_dim"],
        "hidden_act": "silu",
        "max_position_embeddings": config["context"],
        "rms_norm_eps": config["norm_eps"],
        "rope_theta": config["rope_theta"],
        "tie_word_embeddings": config["tied"],
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(described | settings))
    save_file({k: v.contiguous() for k, v in renamed(net.state_dict()).items()}, folder / "model.safetensors")
    return net


ARCHITECTURES = {"Llama": "llama", "Mistral": "llama", "Qwen2": "qwen2", "Qwen3": "qwen3"}


def in_gguf(net: Decoder) -> dict[str, "np.ndarray[Any, Any]"]:
    """The weights under the names of GGUF."""
    tensors = {}
    for name, tensor in net.state_dict().items():
        theirs = NAMES.theirs(name)
        tensors |= {one: p.numpy() for one, p in zip(theirs, tensor.chunk(len(theirs)), strict=True)}
    return tensors


def as_llama_cpp(net: Decoder) -> dict[str, "np.ndarray[Any, Any]"]:
    """The same with the rows of queries and keys as its Llama wants them."""
    return {
        name: interleaved(array, net.config["head_dim"])
        if name.endswith(("attn_q.weight", "attn_k.weight"))
        else array
        for name, array in in_gguf(net).items()
    }


def described_in_gguf(net: Decoder) -> dict[str, Any]:
    """Its whole numbers under the names of GGUF."""
    config, heads = net.config, net.config["num_heads"][0]
    return {
        "block_count": len(config["num_heads"]),
        "context_length": config["context"],
        "embedding_length": config["embed_dim"],
        "feed_forward_length": config["mlp_hidden"][0],
        "attention.head_count": heads,
        "attention.head_count_kv": heads // config["heads_per_kv"],
        "attention.key_length": config["head_dim"],
        "rope.dimension_count": config["head_dim"],
        "expert_count": 0,
    }


def gguf_file(
    kind: str,
    file: Path,
    *,
    change: Callable[[dict[str, np.ndarray[Any, Any]]], Any] = lambda tensors: None,
    settings: Mapping[str, Any] = MappingProxyType({}),
    quantised: bool = False,
    numbers: Mapping[str, Any] = MappingProxyType({}),
    tokenizer: Mapping[str, Any] = MappingProxyType({}),
) -> Decoder:
    """A file as llama.cpp's converter writes it; the network that it holds.

    tokenizer: what it says of its tokenizer, by the names of GGUF.
    """
    gguf = pytest.importorskip("gguf")
    net, architecture = plain_of(kind, **numbers), ARCHITECTURES[kind]
    writer = gguf.GGUFWriter(file, str(settings.get("architecture", architecture)))
    for key, value in (described_in_gguf(net) | settings).items():
        if key in described_in_gguf(net) and key != settings.get("without"):
            writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", net.config["norm_eps"])
    writer.add_float32(f"{architecture}.rope.freq_base", net.config["rope_theta"])
    for key, value in tokenizer.items():
        kind_of = {str: writer.add_string, list: writer.add_array, int: writer.add_uint32}[type(value)]
        kind_of(f"tokenizer.ggml.{key}", value)
    tensors = as_llama_cpp(net) if architecture == "llama" else in_gguf(net)
    change(tensors)
    for one, array in tensors.items():
        if quantised and array.ndim == 2:
            quantisation = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(one, gguf.quantize(array, quantisation), raw_dtype=quantisation)
        else:
            writer.add_tensor(one, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return net


def interleaved(weight: "np.ndarray[Any, Any]", head_dim: int) -> "np.ndarray[Any, Any]":
    """Row 2 i of a head is its row i, row 2 i + 1 its row d / 2 + i."""
    rows = []
    for start in range(0, len(weight), head_dim):
        for i in range(head_dim // 2):
            rows += [weight[start + i], weight[start + head_dim // 2 + i]]
    return np.stack(rows)
