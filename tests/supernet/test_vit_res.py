"""ViT-ResNAS: masks, slices and extracted networks agree; the reduction is what the paper describes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import search_spaces
import supernet
from benchmarks.masked_vit_res import masked_forward
from search_spaces import Architecture, SearchSpace
from supernet.families.vit_resnas import ViTResNAS
from supernet.plain.vit_res import Reduction, ViTRes

FEATURES: dict[str, dict[str, Any]] = {
    "digit pairs": {},
    "patch stem": {"stem": "patch"},
    "odd patches": {"image_size": (12, 24), "patch_size": 3},
    "patches of one pixel": {"image_size": (4, 8), "patch_size": 1, "in_chans": 3},
    "batch norm": {"stem_norm": "batch"},
    "two stages": {
        "image_size": (8, 12),
        "head_dim": (4, 8),
        "embed_dim": ((8, 16), (16, 24)),
        "num_heads": ((1, 2, 3), (1, 2)),
        "mlp_hidden": ((8, 16), (16, 32)),
        "depth": (3, 2),
        "optional": ((1, 2), (0,)),
    },
}
features = pytest.mark.parametrize("options", FEATURES.values(), ids=FEATURES.keys())


def net(**options: Any) -> ViTResNAS:
    """In double precision, every parameter random, those too that start at zero or one."""
    built = supernet.build(search_spaces.get("vit_resnas", **options)).double()
    assert isinstance(built, ViTResNAS)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in built.shared.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in built.shared.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + ("var" in name))
    return built.eval()


def some(space: SearchSpace, count: int, seed: int = 0) -> list[Architecture]:
    rng = np.random.default_rng(seed)
    return [space.smallest, space.largest, *(space.sample(rng) for _ in range(count))]


@features
@torch.no_grad()
def test_masked_equals_sliced_equals_extracted(options: dict[str, Any]) -> None:
    elastic = net(**options)
    archs = some(elastic.space, 4)
    x = elastic.example_input(3 * len(archs)).double()
    masked = masked_forward(elastic, x, archs)
    for i, arch in enumerate(archs):
        own = slice(i, None, len(archs))
        sliced = elastic(x[own], arch)
        torch.testing.assert_close(masked[own], sliced, rtol=0, atol=1e-9)
        assert torch.equal(elastic.extract(arch)(x[own]), sliced)
    assert masked.std(dim=0).min() > 1e-3


@torch.no_grad()
def test_a_norm_looks_at_live_channels_only() -> None:
    """What stands in the tensors beyond a subnet's width does not matter to it."""
    elastic = net()
    x, arch = elastic.example_input(4).double(), elastic.space.smallest
    before = elastic(x, arch)
    sizes = {name: tensor.shape for name, tensor in elastic.tensors(arch).items()}
    for name, parameter in elastic.shared.named_parameters():
        if name not in sizes:
            parameter.fill_(float("nan"))
        elif ".attn.qkv." not in name:
            kept = parameter[tuple(slice(n) for n in sizes[name])].clone()
            parameter.fill_(float("nan"))
            parameter[tuple(slice(n) for n in sizes[name])] = kept
    assert torch.equal(elastic(x, arch), before)


@torch.no_grad()
def test_the_reduction_written_out() -> None:
    reduction = Reduction((4, 6), 5, 8, eps=1e-6).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in reduction.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(2, 25, 5, generator=generator, dtype=torch.float64)
    out = reduction(x)
    assert out.shape == (2, 1 + 2 * 3, 8)
    mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    normed = (x - mean) / (var + 1e-6).sqrt() * reduction.norm.weight + reduction.norm.bias
    image = F.pad(normed[:, 1:].reshape(2, 4, 6, 5), (0, 0, 1, 1, 1, 1))
    weight = reduction.conv.weight
    for row in range(2):
        for column in range(3):
            window = image[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            main = torch.einsum("brsc,ocrs->bo", window, weight) + reduction.conv.bias
            main = main + reduction.pos_embed[0, 3 * row + column]
            patches = x[:, 1:].reshape(2, 4, 6, 5)
            mean = patches[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean(dim=(1, 2))
            shortcut = torch.cat([mean, mean.new_zeros(2, 3)], dim=1)
            torch.testing.assert_close(out[:, 1 + 3 * row + column], main + shortcut)
    token = normed[:, 0] @ reduction.token.weight.T + reduction.token.bias
    torch.testing.assert_close(out[:, 0], token + F.pad(x[:, 0], (0, 3)))


@torch.no_grad()
def test_the_stem_written_out() -> None:
    elastic = net(stem_norm="group")
    stem: Any = elastic.shared.get_submodule("patch_embed")
    x = elastic.example_input(3).double()

    def layer(i: int, x: Tensor) -> Tensor:
        y = F.conv2d(x, stem.convs[i].weight, stride=2 if i == 0 else 1, padding=1)
        mean, var = y.mean(dim=(1, 2, 3), keepdim=True), y.var(dim=(1, 2, 3), unbiased=False, keepdim=True)
        scale, shift = (p[:, None, None] for p in (stem.norms[i].weight, stem.norms[i].bias))
        return ((y - mean) / (var + 1e-5).sqrt() * scale + shift).relu()

    first = layer(0, x)
    y = F.conv2d(first + layer(2, layer(1, first)), stem.proj.weight, stem.proj.bias)
    torch.testing.assert_close(stem(x), y.flatten(2).transpose(1, 2))
    assert all(conv.bias is None for conv in stem.convs)


def test_tokens_of_the_published_net() -> None:
    space = search_spaces.get("vit_resnas_tiny")
    with torch.device("meta"):
        elastic = supernet.build(space).eval()
        module: Any = elastic.plain(space.preset("tiny"))
        x = torch.empty(2, 3, 224, 224)
    shapes = []
    for name, stage in module.stages():
        x = stage(x)
        if name == "stem" or name.startswith("reductions"):
            shapes.append(tuple(x.shape))
    assert shapes == [(2, 257, 176), (2, 65, 352), (2, 17, 704)]
    assert x.shape == (2, 1000)
    first, second = module.reductions
    assert (tuple(first.conv.weight.shape), tuple(first.token.weight.shape)) == ((352, 176, 3, 3), (352, 176))
    assert (tuple(first.pos_embed.shape), tuple(second.pos_embed.shape)) == ((1, 64, 352), (1, 16, 704))
    assert tuple(second.conv.weight.shape) == (704, 352, 3, 3)
    assert module.patch_embed.proj.kernel_size == (7, 7)
    assert [len(names) for names in module.stage_blocks] == [5, 6, 5]


def test_blocks_that_are_left_out_leave_the_names_of_the_others() -> None:
    space = search_spaces.get("vit_resnas_small")
    with torch.device("meta"):
        module: Any = supernet.build(space).plain(space.preset("small"))
    left = [int(name) for name, _ in module.blocks.named_children()]
    assert left == [i for i in range(21) if i not in (3, 12, 17, 19)]
    assert module.stage_blocks[2] == ["14", "15", "16", "18", "20"]
    twin = ViTRes(**module.config)
    assert twin.state_dict().keys() == module.state_dict().keys()


@torch.no_grad()
def test_patches_are_those_of_the_last_stage() -> None:
    elastic = net()
    arch, x = elastic.space.smallest, elastic.example_input(3).double()
    logits, patches = elastic.with_patches(x, arch)
    assert torch.equal(logits, elastic(x, arch))
    assert patches.shape == (3, 1 * 2, arch["embed_dim.2"])
    torch.testing.assert_close(patches, elastic.extract(arch).with_patches(x)[1])  # type: ignore[operator]


def statistics(elastic: ViTResNAS) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in elastic.shared.named_buffers() if "running" in name}


def test_batch_statistics_do_not_depend_on_the_architecture() -> None:
    """Only the stem has any, and it stands before everything that is chosen."""
    after = []
    for arch in (search_spaces.get("vit_resnas").smallest, search_spaces.get("vit_resnas").largest):
        elastic = net(stem_norm="batch").train()
        elastic(elastic.example_input(16).double(), arch)
        after.append(statistics(elastic))
    assert all(torch.equal(after[0][name], after[1][name]) for name in after[0])
    assert len(after[0]) == 6


def test_batch_statistics_are_estimated_anew() -> None:
    elastic = net(stem_norm="batch")
    stem: Any = elastic.shared.get_submodule("patch_embed")
    batches = [elastic.example_input(8).double() * scale for scale in (1, 2)]
    elastic.recalibrate(iter(batches))
    first = [stem.convs[0](x) for x in batches]
    mean = torch.stack([y.mean(dim=(0, 2, 3)) for y in first]).mean(dim=0)
    var = torch.stack([y.var(dim=(0, 2, 3)) for y in first]).mean(dim=0)
    torch.testing.assert_close(stem.norms[0].running_mean, mean)
    torch.testing.assert_close(stem.norms[0].running_var, var)
    assert not elastic.shared.training
    before = statistics(elastic)
    elastic(batches[0], elastic.space.smallest)
    assert all(torch.equal(before[name], buffer) for name, buffer in statistics(elastic).items())


def test_recalibration_leaves_a_family_without_statistics_alone() -> None:
    elastic = net()
    before = {name: tensor.clone() for name, tensor in elastic.state_dict().items()}
    elastic.recalibrate(iter([elastic.example_input(2).double()]))
    assert all(torch.equal(before[name], tensor) for name, tensor in elastic.state_dict().items())
