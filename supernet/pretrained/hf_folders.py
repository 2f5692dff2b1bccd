"""Folders of Hugging Face with a decoder: config.json and safetensors, read without transformers.

What such a folder may bring as code (`auto_map`) is never looked at: an architecture is one of those that are
known here, or it is refused.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from search_spaces.bounds import short
from search_spaces.errors import UsageError
from search_spaces.shapes.decoder import Names
from supernet.pretrained.language_models import LanguageModel, damaged, decoder_arguments, lowered
from supernet.pretrained.weight_files import CONFIG, FAILURES, LARGEST_CONFIG, check_regular, read_config

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# What the networks of each architecture have that Llama's do not; the name of each without its class.
ARCHITECTURES: Mapping[str, Mapping[str, bool]] = {
    "Llama": {},
    "Mistral": {},
    "Qwen2": {"qkv_bias": True},
    "Qwen3": {"qk_norm": True},
}
SUFFIX = "ForCausalLM"
SUPPORTED = f"Supported are {', '.join(f'{kind}{SUFFIX}' for kind in ARCHITECTURES)}."
ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
NAMES = Names(
    embed="model.embed_tokens",
    norm="model.norm",
    head="lm_head",
    layer="model.layers.{}.",
    of_layer={
        "norm1": ("input_layernorm",),
        "norm2": ("post_attention_layernorm",),
        **{f"attn.{side}_proj": (f"self_attn.{side}_proj",) for side in "qkv"},
        **{f"attn.{side}_norm": (f"self_attn.{side}_norm",) for side in "qk"},
        "attn.proj": ("self_attn.o_proj",),
        "mlp.fc1": ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.fc2": ("mlp.down_proj",),
    },
)
KINDS = ("F64", "F32", "F16", "BF16")  # of numbers, which are read as they are
BUFFER = ".rotary_emb.inv_freq"  # which old folders hold among the weights


def read_folder(folder: str | Path) -> LanguageModel:
    """The decoder in the folder; of its weights only the names and shapes are read yet.

    Raises UsageError for a folder that is none, is damaged or holds a network that is not known here.
    """
    path = Path(folder).expanduser()
    what = f"The model in '{path}'"
    if not path.is_dir():
        raise UsageError(f"There is no folder '{path}'.", "Give one with config.json and safetensors.")
    if not (path / CONFIG).exists():
        raise UsageError(f"There is no {CONFIG} in '{path}'.", "Give a folder with it and safetensors.")
    try:
        config = read_config(path)
        arguments = _arguments(what, config)
        files = places(path)
        shapes = {
            name: shape for file in sorted(set(files.values())) for name, shape in _shapes(file).items()
        }
    except UsageError:
        raise
    except FAILURES as error:
        raise damaged(what, error) from error
    shapes = {name: shape for name, shape in shapes.items() if not name.endswith(BUFFER)}
    return LanguageModel(what, arguments, NAMES, shapes, partial(_read, files))


def _arguments(what: str, config: Mapping[str, Any]) -> dict[str, Any]:
    architecture = _architecture(what, config)
    _refuse_what_is_not_computed(what, config)
    theta = _theta(what, config)
    heads = _needed(what, config, "num_attention_heads")
    embed_dim = _needed(what, config, "hidden_size")
    by_width = (
        embed_dim // heads if isinstance(embed_dim, int) and isinstance(heads, int) and heads > 0 else 0
    )
    act = _value(config, "hidden_act", "silu")
    if not isinstance(act, str) or act not in ACTIVATIONS:
        raise UsageError(
            f"{what} has FFNs with the activation {short(act)}.", f"Known are {', '.join(ACTIVATIONS)}."
        )
    return decoder_arguments(
        what,
        embed_dim=embed_dim,
        depth=_needed(what, config, "num_hidden_layers"),
        num_heads=heads,
        kv_heads=_value(config, "num_key_value_heads", heads),
        mlp_hidden=_needed(what, config, "intermediate_size"),
        vocabulary=_needed(what, config, "vocab_size"),
        context=_context(what, config),
        head_dim=_value(config, "head_dim", by_width),
        act=ACTIVATIONS[act],
        tied=_value(config, "tie_word_embeddings", False),
        norm_eps=_value(config, "rms_norm_eps", 1e-6),
        rope_theta=theta,
        **ARCHITECTURES[architecture],
    )


def _value(config: Mapping[str, Any], key: str, default: Any) -> Any:
    """The setting; null is as if it were not there."""
    value = config.get(key)
    return default if value is None else value


def _needed(what: str, config: Mapping[str, Any], key: str) -> Any:
    if config.get(key) is None:
        raise UsageError(f"The {CONFIG} of {lowered(what)} lacks '{key}'.")
    return config[key]


def _architecture(what: str, config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    if not names:
        if not config.get("model_type"):
            raise UsageError(f"The {CONFIG} of {lowered(what)} names no architecture.", SUPPORTED)
        names = [f"{str(config['model_type']).capitalize()}{SUFFIX}"]
    name = str(names[0]) if isinstance(names, list) else str(names)
    if name.removesuffix(SUFFIX) not in ARCHITECTURES or not name.endswith(SUFFIX):
        raise UsageError(
            f"{what} is of the architecture {short(name)}, which is not supported.",
            SUPPORTED,
        )
    return name.removesuffix(SUFFIX)


def _refuse_what_is_not_computed(what: str, config: Mapping[str, Any]) -> None:
    for switch in ("attention_bias", "mlp_bias", "quantization_config"):
        if config.get(switch):
            raise UsageError(f"{what} has {switch}, which is not supported.")


def _theta(what: str, config: Mapping[str, Any]) -> Any:
    """The base of the rotations. Raises UsageError where positions are scaled."""
    rope, scaling = (config.get(key) or {} for key in ("rope_parameters", "rope_scaling"))
    for settings in (rope, scaling):
        if not isinstance(settings, dict):
            raise UsageError(
                f"The {CONFIG} of {lowered(what)} says of rotary positions {short(settings)}, which are no "
                "settings."
            )
        kind = settings.get("rope_type", settings.get("type", "default"))
        if kind != "default":
            raise UsageError(
                f"{what} scales its rotary positions ({short(kind)}), which is not supported.",
                "Give a model without rope_scaling.",
            )
    return rope.get("rope_theta", _value(config, "rope_theta", 10_000.0))


def _context(what: str, config: Mapping[str, Any]) -> Any:
    """How many tokens it takes: up to where a sliding window would cut the first ones off."""
    longest = _needed(what, config, "max_position_embeddings")
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    return min(longest, window) if isinstance(window, int) and isinstance(longest, int) else longest


def places(folder: Path) -> dict[str, Path]:
    """The file of each weight. Raises UsageError for a folder that lacks weights, or some that it names."""
    if (folder / INDEX).exists():
        return _indexed(folder)
    if not (folder / WEIGHTS).is_file():
        raise UsageError(
            f"There is no {WEIGHTS} in '{folder}'.",
            "Other files of weights hold code: save it as safetensors.",
        )
    return dict.fromkeys(_shapes(folder / WEIGHTS), folder / WEIGHTS)


def _indexed(folder: Path) -> dict[str, Path]:
    """What the index says. Raises UsageError for one that is damaged or names what is not in the folder."""
    which = f"The {INDEX} in '{folder}'"
    check_regular(folder / INDEX, most=LARGEST_CONFIG)
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{which} is no JSON.", "It may be damaged or not complete.") from error
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise UsageError(f"{which} does not say in `weight_map` in which file each of the weights is.")
    held: set[tuple[str, str]] = set()
    for file in sorted(set(files.values())):
        if Path(file).name != file or not (folder / file).is_file():
            raise UsageError(f"{which} names {short(file)}, which is not there.")
        held |= {(name, file) for name in _shapes(folder / file)}
    for name, file in files.items():
        if (name, file) not in held:
            raise UsageError(f"{which} names weights {short(name)} in {short(file)}, which lacks them.")
    return {name: folder / file for name, file in held}


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    check_regular(file)
    shapes = {}
    with safe_open(file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - it is no dict
            weights = opened.get_slice(name)
            if weights.get_dtype() not in KINDS:
                raise UsageError(
                    f"The weights {short(name)} in '{file}' are of the kind {weights.get_dtype()}, which is "
                    "not supported.",
                    f"Supported are {', '.join(KINDS)}.",
                )
            shapes[name] = tuple(weights.get_shape())
    return shapes


def _read(places: Mapping[str, Path], name: str) -> Tensor:
    with safe_open(places[name], "pt") as opened:
        tensor: Tensor = opened.get_tensor(name)
    return tensor.float()
