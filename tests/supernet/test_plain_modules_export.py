"""Every plain module goes through PyTorch's exporters and compilers with a batch that may vary, unchanged.

A new plain module fails `test_every_plain_module_is_here` until it has a case.
"""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from supernet.plain.decoder import Decoder
from supernet.plain.hiera import Hiera
from supernet.plain.swin import StitchedSwin, Swin
from supernet.plain.vit import StitchedViT, ViT
from supernet.plain.vit_res import ViTRes
from supernet.pretrained.subnet_folders import network_classes

SIZES: dict[str, Any] = {"image_size": (16, 16), "in_chans": 3, "num_classes": 5}
VIT: dict[str, Any] = SIZES | {
    "patch_size": 4,
    "head_dim": 8,
    "embed_dim": 16,
    "num_heads": [2, 1],
    "mlp_hidden": [32, 24],
}
TOKEN: dict[str, Any] = VIT | {"class_token": True, "pool": "token"}
SWIN: dict[str, Any] = SIZES | {
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [1, 2],
    "window_size": 4,
}
RES: dict[str, Any] = SIZES | {
    "embed_dim": [8, 16],
    "num_heads": [[1, None], [2]],
    "mlp_hidden": [[16, None], [32]],
    "head_dim": [8, 8],
    "patch_size": 4,
}
HIERA: dict[str, Any] = SIZES | {
    "embed_dim": [8, 16],
    "depth": [1, 2],
    "num_heads": [1, 2],
    "mlp_hidden": [16, 32],
    "mask_unit_stages": 1,
    "patch_size": 2,
    "patch_kernel": 3,
    "q_pool": 1,
}
DECODER: dict[str, Any] = {
    "vocabulary": 11,
    "context": 6,
    "embed_dim": 8,
    "num_heads": [4, 2],
    "mlp_hidden": [12, 8],
    "head_dim": 4,
    "heads_per_kv": 2,
}
WIDE: dict[str, Any] = {"image_size": (16, 24)}
CASES: dict[str, Callable[[], nn.Module]] = {
    "ViT": lambda: ViT(**VIT),
    "ViT class token": lambda: ViT(**TOKEN),
    "ViT registers": lambda: ViT(**VIT, reg_tokens=4, gated=True, act="silu", qk_norm=True),
    "ViT both, not embedded": lambda: ViT(**TOKEN, reg_tokens=2, no_embed_class=True, act="gelu_tanh"),
    "ViT clip": lambda: ViT(**TOKEN, pre_norm=True, act="quick_gelu", layer_scale=True),
    "ViT conv stem": lambda: ViT(**TOKEN, stem="conv", stem_channels=(4, 8, 16), stem_norm=True),
    "ViT relative": lambda: ViT(**TOKEN, rel_pos=2),
    "ViT wide": lambda: ViT(**TOKEN | WIDE),
    "ViTRes": lambda: ViTRes(**RES, stem_norm="batch"),
    "ViTRes group norm": lambda: ViTRes(**RES, stem_norm="group"),
    "ViTRes patches": lambda: ViTRes(**RES, stem="patch"),
    "Swin": lambda: Swin(**SWIN),
    "Swin one window": lambda: Swin(**SWIN | {"window_size": 8}),
    "Swin wide": lambda: Swin(**SWIN | {"image_size": (16, 32)}),
    "Hiera": lambda: Hiera(**HIERA),
    "Hiera wide": lambda: Hiera(**HIERA | WIDE, stem_dim=16),
    "Decoder": lambda: Decoder(**DECODER),
    "Decoder as Qwen": lambda: Decoder(**DECODER | {"qkv_bias": True, "qk_norm": True, "tied": False}),
    "Decoder, no groups": lambda: Decoder(**DECODER | {"heads_per_kv": 1, "gated": False, "act": "gelu"}),
    "StitchedViT": lambda: StitchedViT(
        anchors=[TOKEN, TOKEN | {"embed_dim": 24}], segments=[[0, 0, 1], [1, 1, 2]]
    ),
    "StitchedSwin": lambda: StitchedSwin(
        anchors=[SWIN, SWIN | {"embed_dim": 12}], segments=[[0, 0, 1], [1, 1, 4]]
    ),
}


@pytest.fixture(params=CASES, name="net")
def _net(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    net = CASES[request.param]().eval()
    for weights in net.parameters():
        nn.init.normal_(weights, std=0.2)
    return net


def inputs(net: nn.Module, batch: int) -> Tensor:
    shape: Any = net.input_shape
    generator = torch.Generator().manual_seed(batch)
    if isinstance(net, Decoder):
        return torch.randint(net.vocabulary, (batch, *shape), generator=generator)
    return torch.randn(batch, *shape, generator=generator)


def check(net: nn.Module, run: Callable[[Tensor], Tensor], *batches: int) -> None:
    for batch in batches:
        x = inputs(net, batch)
        with torch.no_grad():
            assert torch.allclose(run(x), net(x), atol=1e-5), f"batch {batch}"


def in_onnxruntime(file: io.BytesIO) -> Callable[[Tensor], Tensor]:
    runtime = pytest.importorskip("onnxruntime")
    runtime.set_default_logger_severity(4)
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def test_every_plain_module_is_here() -> None:
    assert {type(make()) for make in CASES.values()} == set(network_classes().values())


@pytest.mark.slow
def test_torch_export_with_any_batch(net: nn.Module) -> None:
    program = torch.export.export(net, (inputs(net, 4),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    check(net, program.module(), 1, 2, 7)


@pytest.mark.filterwarnings("ignore")  # torch calls it deprecated, and people use it
def test_a_trace_takes_another_batch(net: nn.Module) -> None:
    check(net, torch.jit.trace(net, inputs(net, 1)), 1, 2, 7)


@pytest.mark.slow
def test_a_compiler_with_dynamic_shapes_compiles_once(net: nn.Module) -> None:
    torch._dynamo.reset()
    graphs = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(net, dynamic=True, fullgraph=True, backend=count)
    check(net, compiled, 7, 9, 2)  # none of them is another size of the net
    assert len(graphs) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_torchscript_onnx_exporter_with_any_batch(net: nn.Module) -> None:
    file, axes = io.BytesIO(), {"x": {0: "batch"}, "y": {0: "batch"}}
    torch.onnx.export(
        net,
        (inputs(net, 1),),
        file,
        dynamo=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes=axes,
    )
    check(net, in_onnxruntime(file), 1, 2, 7)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_onnx_exporter_with_any_batch(net: nn.Module) -> None:
    pytest.importorskip("onnxscript")
    file, batch = io.BytesIO(), torch.export.Dim("batch")
    torch.onnx.export(net, (inputs(net, 4),), file, dynamo=True, verbose=False, dynamic_shapes=({0: batch},))
    check(net, in_onnxruntime(file), 1, 2, 7)
