"""A folder of Hugging Face: `AutoModelForImageClassification` and `AutoModelForCausalLM` load it.

Stock where the architecture is stock: what timm can express (by transformers' wrapper of timm), and decoders
with equal layers (as Llama, Qwen2 or Qwen3). Everything else brings its source, which transformers runs for
who says `trust_remote_code=True`.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.exported.folder import save_tensors, timm_config
from nas.exported.forms import DTYPES, Form
from nas.exported.graphs import dtype_named, in_dtype
from nas.exported.source import one_file, path_of_class, path_of_module
from nas.exporters.safetensors import WEIGHTS, save_weights
from search_spaces.errors import UsageError
from supernet.plain.decoder import Decoder
from supernet.plain.layers import Network
from supernet.pretrained.hf_folders import ACTIVATIONS, ARCHITECTURES, NAMES, SUFFIX, read_folder
from supernet.pretrained.subnet_folders import load_folder
from supernet.pretrained.weight_files import check_finite, read_config

MODULES = ("safetensors", "transformers")
EXTRA = "hf"
TOLERANCES = {"fp32": 1e-5, "fp16": 0.02, "bf16": 0.1}
LAST_ONLY = False
DEVICES, RISK = ("torch_cpu", "torch_compile", "torch_cuda"), None
SOURCE, PREFIX = "modeling_elastiform.py", "network."
REMOTE_CODE = "nas.exported.remote_code"  # which imports transformers, so that it is only read here

LOADING = """With transformers, in the folder above this one or with its whole path:

```python
from transformers import {auto}

model = {auto}.from_pretrained("FOLDER"{trust})
```
"""


def write(module: nn.Module, folder: Path, *, example: Tensor, form: Form) -> Mapping[str, Any]:
    """See `Exporter`."""
    dtype = DTYPES[form.precision]
    if isinstance(module, Decoder) and (kind := stock_decoder(module)):
        _save_decoder(module, folder, form)
        return decoder_config(module, kind) | {"dtype": dtype}
    if isinstance(module, Network) and module.timm_arguments() is not None:
        save_weights(module, folder, form)
        return {"dtype": dtype}
    save_weights(module, folder, form, prefix=PREFIX)
    title = "A network of Elastiform for transformers"
    source = one_file(title, [path_of_class(type(module)), path_of_module(REMOTE_CODE)])
    (folder / SOURCE).write_text(source)
    auto = "CausalLM" if not example.is_floating_point() else "ImageClassification"
    return {
        "model_type": "elastiform",
        "architectures": [f"ElastiformFor{auto}"],
        "auto_map": {
            "AutoConfig": "modeling_elastiform.ElastiformConfig",
            f"AutoModelFor{auto}": f"modeling_elastiform.ElastiformFor{auto}",
        },
        "dtype": dtype,
        "elastiform": {"prefix": PREFIX},
    }


def stock_decoder(module: Decoder) -> str | None:
    """Which architecture of transformers computes the same, without its class' name; None: none does."""
    config = module.config
    alike = len(set(config["num_heads"])) == len(set(config["mlp_hidden"])) == 1
    if not alike or not config["gated"] or config["act"] not in ACTIVATIONS.values():
        return None
    switches = {name: True for name in ("qkv_bias", "qk_norm") if config[name]}
    return next((kind for kind, theirs in ARCHITECTURES.items() if theirs == switches), None)


def decoder_config(module: Decoder, kind: str) -> dict[str, Any]:
    """The config.json of a stock decoder."""
    config = module.config
    (heads,), (hidden,) = set(config["num_heads"]), set(config["mlp_hidden"])
    act = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config["act"])
    return {
        "model_type": kind.lower(),
        "architectures": [f"{kind}{SUFFIX}"],
        "hidden_size": config["embed_dim"],
        "num_hidden_layers": len(config["num_heads"]),
        "num_attention_heads": heads,
        "num_key_value_heads": heads // config["heads_per_kv"],
        "head_dim": config["head_dim"],
        "intermediate_size": hidden,
        "vocab_size": config["vocabulary"],
        "max_position_embeddings": config["context"],
        "hidden_act": act,
        "tie_word_embeddings": config["tied"],
        "rms_norm_eps": config["norm_eps"],
        "rope_theta": config["rope_theta"],
        "rope_parameters": {"rope_type": "default", "rope_theta": config["rope_theta"]},
        "attention_bias": False,
        "mlp_bias": False,
    }


def _save_decoder(module: Decoder, folder: Path, form: Form) -> None:
    """The weights under transformers' names."""
    dtype = getattr(torch, DTYPES[form.precision])
    tensors: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        theirs = NAMES.theirs(name)
        parts = tensor.detach().cpu().to(dtype).chunk(len(theirs))
        tensors |= {key: part.contiguous() for key, part in zip(theirs, parts, strict=True)}
    check_finite(f"the subnet in {form.precision}", tensors)
    save_tensors(tensors, folder / WEIGHTS)


class Logits(nn.Module):
    """A model of transformers from float32, or token ids, to its logits."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.model(x.to(self.dtype) if x.is_floating_point() else x)
        logits: Tensor = outputs.logits.float()
        return logits


def network(folder: Path) -> nn.Module:
    """See `Exporter`: by transformers' own classes; where the folder brings source, by ours instead."""
    config = read_config(folder)
    dtype = dtype_named(config.get("dtype", DTYPES["fp32"]))
    if "auto_map" in config:
        return in_dtype(load_folder(folder), dtype)
    is_text = "architectures" in config
    if not (_is_decoder if is_text else _is_timms)(folder, config):
        raise UsageError(f"The config.json in '{folder}' is not that of its weights.", "Extract it again.")
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    kind = transformers.AutoModelForCausalLM if is_text else transformers.AutoModelForImageClassification
    return Logits(kind.from_pretrained(folder, dtype=dtype, local_files_only=True), dtype).eval()


def _is_decoder(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether transformers makes of it the decoder with these weights. Raises UsageError for none at all."""
    read_folder(folder)
    return [config.get("model_type")] == [
        name.removesuffix(SUFFIX).lower() for name in config["architectures"]
    ]


def _is_timms(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether transformers' wrapper asks timm for the network with these weights, and for no other."""
    wanted = timm_config(load_folder(folder))
    keys = ("architecture", "num_classes", "model_args")
    return wanted is not None and all(config.get(key) == json.loads(json.dumps(wanted[key])) for key in keys)


def load(folder: Path) -> Callable[[Any], Any]:
    """A function of a batch of inputs, with transformers; what the folder brings as code is ours, and run."""
    import json

    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    config = json.loads((folder / "config.json").read_text())
    images = not config.get("architectures", [""])[0].endswith("CausalLM")
    kind = "AutoModelForImageClassification" if images else "AutoModelForCausalLM"
    model = getattr(transformers, kind).from_pretrained(
        folder, trust_remote_code="auto_map" in config, dtype=getattr(torch, config["dtype"])
    )
    model.eval()

    def run(x: Any) -> Any:
        inputs = torch.from_numpy(x)
        with torch.inference_mode():
            outputs = model(inputs.to(model.dtype) if images else inputs)
        return outputs.logits.float().numpy()

    return run
