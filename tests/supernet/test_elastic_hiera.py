"""TurboViT: masks, slices and extracted networks agree, whatever is chosen per stage or once."""

from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import search_spaces
import supernet
from search_spaces import Architecture, SearchSpace
from search_spaces.families.turbovit import plain_config
from supernet.families.turbovit import TurboViT, place_of
from supernet.plain.hiera import Hiera, HieraBlock, max_pooled, unrolled
from supernet.plain.layers import Attention

BASE: dict[str, Any] = {
    "image_size": (8, 16),
    "patch_size": 1,
    "in_chans": 1,
    "num_classes": 5,
    "embed_dim": (8, 12, 16),
    "depth": ((1, 2), (1, 2, 3), (2, 3)),
    "num_heads": (1, 2),
    "mlp_ratio": (1, 2),
    "mask_unit_stages": (0, 1, 2),
    "wide_stem": (False, True),
    "stem_dim": 16,
}
FEATURES: dict[str, dict[str, Any]] = {
    "shared width": {},
    "free widths": {
        "embed_dim": ((8, 16), (12, 16, 20), (16, 24)),
        "num_heads": ((1, 2), (2, 4), (1, 8)),
        "mlp_ratio": ((1, 2), (0.5, 3), (1,)),
    },
    "constant head width": {"head_dim": 6, "num_heads": (1, 2, 3)},
    "constant head width per stage": {"head_dim": 4, "num_heads": ((1, 2), (1, 3), (2, 5))},
    "one pool": {"q_pool": 1},
    "two stages": {"depth": ((1, 2), (1, 2)), "mask_unit_stages": (0, 1)},
    "patches": {"image_size": (32, 16), "patch_size": 2, "in_chans": 3},
}
features = pytest.mark.parametrize("options", FEATURES.values(), ids=FEATURES.keys())


def net(**options: Any) -> TurboViT:
    """In double precision, every parameter random, those too that start at zero or one."""
    built = supernet.build(search_spaces.get("turbovit", **(BASE | options))).double()
    assert isinstance(built, TurboViT)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in built.shared.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return built.eval()


def some(space: SearchSpace, count: int, seed: int = 0) -> list[Architecture]:
    rng = np.random.default_rng(seed)
    return [space.smallest, space.largest, *(space.sample(rng) for _ in range(count))]


def live(x: Tensor, width: int) -> Tensor:
    """Zero beyond the first `width` channels."""
    return x * (torch.arange(x.shape[-1]) < width)


def live_norm(norm: Any, x: Tensor, width: int) -> Tensor:
    """Over the first `width` channels; the others are zero before and behind it."""
    mean = x.sum(-1, keepdim=True) / width
    var = live(x - mean, width).square().sum(-1, keepdim=True) / width
    return live((x - mean) / (var + 1e-6).sqrt() * norm.weight + norm.bias, width)


def masked_block(block: HieraBlock, x: Tensor, c: dict[str, Any], stage: int, within: int) -> Tensor:
    """A block of the largest network in which channels, heads and neurons are zeroed, none is cut off."""
    width, heads, hidden = (c[name][stage] for name in ("embed_dim", "num_heads", "mlp_hidden"))
    before = width
    if within == 0:
        before = c["embed_dim"][stage - 1] if stage else c["stem_dim"] or width
    attn, inner = block.attn, heads * c["head_dim"] if c["head_dim"] else width
    normed = live_norm(block.norm1, x, before)
    q, k, v = (live(part, inner) for part in attn.qkv(normed).chunk(3, dim=-1))
    pools = within == 0 < stage <= c["q_pool"]
    if within == 0 and (stage or c["stem_dim"]):
        assert block.proj is not None
        x = live(block.proj(normed), width)
    x = x[..., : block.norm2.weight.numel()]  # the stem may be wider than its stage
    if pools:
        x, q = max_pooled(x, dim=1), max_pooled(q, dim=1)
    local = (stage if within else max(stage - 1, 0)) < c["mask_unit_stages"]
    side = 2 ** (len(c["depth"]) - 1) * c["patch_size"]
    units = c["image_size"][0] * c["image_size"][1] // side**2 if local else 1
    d = inner // heads
    # B, units, heads, tokens of a unit, d
    q, k, v = (
        t[..., :inner].unflatten(1, (-1, units)).unflatten(-1, (heads, d)).permute(0, 2, 3, 1, 4)
        for t in (q, k, v)
    )
    mixed = (q @ k.transpose(-2, -1) * d**-0.5).softmax(-1) @ v
    mixed = mixed.permute(0, 3, 1, 2, 4).flatten(3).flatten(1, 2)
    mixed = F.pad(mixed, (0, attn.proj.in_features - inner))
    x = x + live(attn.proj(mixed), width)
    normed = live_norm(block.norm2, x, width)
    return x + live(block.mlp.fc2(live(F.gelu(block.mlp.fc1(normed)), hidden)), width)


def masked_forward(elastic: TurboViT, x: Tensor, arch: Architecture) -> Tensor:
    c, whole = plain_config(elastic.space, arch), elastic.shared
    assert isinstance(whole, Hiera)
    x = live(whole.patch_embed(x) + whole.pos_embed, c["stem_dim"] or c["embed_dim"][0])
    x = unrolled(x, whole.grid, whole.levels)
    most = whole.config["depth"]
    for number, block in enumerate(whole.blocks):
        stage, within = place_of(most, number)
        if within < c["depth"][stage]:
            assert isinstance(block, HieraBlock)
            x = masked_block(block, x, c, stage, within)
    return whole.head.fc(live_norm(whole.head.norm, x.mean(1), c["embed_dim"][-1]))  # type: ignore[no-any-return]


@features
@torch.no_grad()
def test_masked_equals_sliced_equals_extracted(options: dict[str, Any]) -> None:
    elastic = net(**options)
    x = elastic.example_input(3).double()
    for arch in some(elastic.space, 8):
        sliced = elastic(x, arch)
        torch.testing.assert_close(masked_forward(elastic, x, arch), sliced, rtol=0, atol=1e-9)
        assert torch.equal(elastic.extract(arch)(x), sliced)
        assert sliced.std(dim=0).min() > 1e-5


@features
def test_equal_keys_are_equal_functions(options: dict[str, Any]) -> None:
    """All that differ in one choice from a middle one or the largest: what a key could forget."""
    elastic = net(**options)
    space = elastic.space
    near = [
        space.architecture(dict(centre.values) | {choice.name: option})
        for centre in space.uniform(3)[1:]
        for choice in space.choices
        for option in choice.options
    ]
    steps = {key: step for arch in near for key, step in keyed(elastic, arch)}  # of the last with this key
    with torch.no_grad():
        for arch in near:
            x = elastic.example_input(4).double()
            expected = elastic(x, arch)
            for key in elastic.path(arch):
                x = steps[key](x)
            assert torch.equal(x, expected)


def keyed(elastic: TurboViT, arch: Architecture) -> Iterator[tuple[Hashable, Callable[[Tensor], Tensor]]]:
    for key, (_, step) in zip(elastic.path(arch), elastic.steps(arch), strict=True):
        yield key, step


def test_stages_are_shared_as_far_as_they_can_be() -> None:
    space = net().space
    elastic = net()
    values = space.smallest.to_dict() | {"depth": [2, 2, 2], "mask_unit_stages": 2}

    def keys(**other: Any) -> tuple[Hashable, ...]:
        return elastic.path(space.architecture(values | other))

    def shared(**other: Any) -> int:
        pairs = zip(keys(), keys(**other), strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), len(keys()))

    assert shared(depth=[2, 2, 3]) == 1 + 2 * 6
    assert shared(depth=[2, 1, 2]) == 1 + 2 * 3
    assert shared(mask_unit_stages=1) == 1 + 2 * 3  # the first block of stage 1 follows stage 0
    assert shared(num_heads=2) == 1
    assert shared(mlp_ratio=2) == 2  # the first attention, too
    assert shared(embed_dim=16) == shared(wide_stem=True) == 0
    wide = space.architecture(values | {"embed_dim": 16})
    stems = [elastic.path(arch)[0] for arch in (wide, _wide(space, wide))]
    assert stems[0] == stems[1]  # both have 16 channels; the blocks behind them differ


def _wide(space: SearchSpace, arch: Architecture) -> Architecture:
    return space.architecture(arch.to_dict() | {"wide_stem": True})


def test_blocks_of_later_stages_are_the_same_weights_at_any_depth() -> None:
    elastic = net()
    space = elastic.space
    shallow = space.architecture(space.largest.to_dict() | {"depth": [1, 1, 2]})
    pairs = {
        "blocks.0.": "blocks.0.",
        "blocks.1.": "blocks.2.",
        "blocks.2.": "blocks.5.",
        "blocks.3.": "blocks.6.",
    }
    whole, part = dict(elastic.shared.named_parameters()), elastic.tensors(shallow)
    assert {name.split(".")[1] for name in part if name.startswith("blocks.")} == set("0123")
    for own, theirs in pairs.items():
        for rest in ("attn.qkv.weight", "mlp.fc2.weight", "norm1.bias"):
            assert torch.equal(part[own + rest], whole[theirs + rest])


def test_heads_of_a_constant_width_are_prefixes_of_queries_keys_and_values() -> None:
    elastic = net(head_dim=6, num_heads=(1, 2, 3))
    arch = elastic.space.architecture(elastic.space.largest.to_dict() | {"num_heads": 2})
    whole = dict(elastic.shared.named_parameters())["blocks.0.attn.qkv.weight"]
    assert whole.shape == (3 * 3 * 6, 16)
    expected = whole.view(3, 3, 6, 16)[:, :2].reshape(-1, 16)
    assert torch.equal(elastic.tensors(arch)["blocks.0.attn.qkv.weight"], expected)


@features
@torch.no_grad()
def test_sorting_leaves_the_largest_network_as_it_was(options: dict[str, Any]) -> None:
    elastic = net(**options)
    x = elastic.example_input(8).double()
    before = elastic(x, elastic.space.largest)
    smaller = elastic(x, elastic.space.smallest)
    fc2 = elastic.shared.get_parameter("blocks.1.mlp.fc2.weight").clone()
    elastic.adapt([x])
    torch.testing.assert_close(elastic(x, elastic.space.largest), before, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(elastic(x, elastic.space.smallest), smaller)
    assert not torch.equal(elastic.shared.get_parameter("blocks.1.mlp.fc2.weight"), fc2)


@torch.no_grad()
def test_sorting_puts_the_important_heads_and_neurons_in_front() -> None:
    elastic = net(head_dim=6, num_heads=(1, 2), embed_dim=(16,), mlp_ratio=(1, 2))
    for module in elastic.shared.modules():
        if isinstance(module, Attention):
            module.proj.weight[:, : module.proj.in_features // 2] *= 0.01
        if isinstance(module, HieraBlock):
            module.mlp.fc2.weight[:, : module.mlp.fc2.in_features // 2] *= 0.01
    x, half = elastic.example_input(16).double(), elastic.space.largest.to_dict()
    arch = elastic.space.architecture(half | {"num_heads": 1, "mlp_ratio": 1})
    distance = [(elastic(x, arch) - elastic(x, elastic.space.largest)).norm()]
    elastic.adapt([x])
    distance.append((elastic(x, arch) - elastic(x, elastic.space.largest)).norm())
    assert distance[1] < 0.3 * distance[0]


def test_a_place_behind_the_last_block_is_a_mistake() -> None:
    assert [place_of([2, 1], i) for i in range(3)] == [(0, 0), (0, 1), (1, 0)]
    with pytest.raises(IndexError):
        place_of([2, 1], 3)
