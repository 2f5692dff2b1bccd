"""For PyTorch: weights as safetensors, the module's source as one file that needs torch only.

Where timm's `VisionTransformer` can express the subnet, `config.json` also carries what timm and transformers
read: `timm.create_model("local-dir:FOLDER", pretrained=True)`, `AutoModelForImageClassification`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.exported.folder import save_tensors
from nas.exported.forms import DTYPES, Form
from nas.exported.graphs import dtype_named, in_dtype
from nas.exported.source import of_class
from supernet.pretrained.subnet_folders import load_folder
from supernet.pretrained.weight_files import check_finite, read_config

MODULES = ("safetensors",)
EXTRA = None
TOLERANCES = {"fp32": 0.0, "fp16": 0.02, "bf16": 0.1}
LAST_ONLY = False
DEVICES, RISK = ("torch_cpu", "torch_compile", "torch_cuda"), None
WEIGHTS, SOURCE = "model.safetensors", "modeling.py"

LOADING = """With torch and safetensors only, in this folder:

```python
import json
from modeling import {name}
from safetensors.torch import load_file

arguments = json.load(open("config.json"))["elastiform"]["arguments"]
model = {name}(**arguments)
model.load_state_dict(load_file("model.safetensors"))
model.eval()
```
{timm}"""


def write(module: nn.Module, folder: Path, *, example: Tensor, form: Form) -> Mapping[str, Any]:
    """See `Exporter`."""
    del example
    save_weights(module, folder, form)
    (folder / SOURCE).write_text(of_class(type(module)))
    return {"elastiform": {"dtype": DTYPES[form.precision]}}


def save_weights(module: nn.Module, folder: Path, form: Form, *, prefix: str = "") -> None:
    """model.safetensors in the form's precision. Raises UsageError for what is no finite number."""
    dtype = getattr(torch, DTYPES[form.precision])
    tensors = {
        prefix + name: tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in module.state_dict().items()
    }
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    check_finite(f"the subnet in {form.precision}", tensors)
    save_tensors(tensors, folder / WEIGHTS)


def network(folder: Path) -> nn.Module:
    """See `Exporter`: the weights in a module of ours, whose source modeling.py is."""
    config = read_config(folder)["elastiform"]
    return in_dtype(load_folder(folder), dtype_named(config.get("dtype", DTYPES["fp32"])))


def load(folder: Path) -> Callable[[Any], Any]:
    """A function of a batch of inputs, with torch and safetensors."""
    import importlib
    import json

    import torch
    from safetensors.torch import load_file

    ours = json.loads((folder / "config.json").read_text())["elastiform"]
    model = getattr(importlib.import_module("modeling"), ours["class"])(**ours["arguments"])
    model.load_state_dict(load_file(folder / "model.safetensors"))
    dtype = getattr(torch, ours["dtype"])
    model.to(dtype).eval()

    def run(x: Any) -> Any:
        inputs = torch.from_numpy(x)
        with torch.inference_mode():
            return model(inputs.to(dtype) if inputs.is_floating_point() else inputs).float().numpy()

    return run
