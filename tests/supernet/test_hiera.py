"""The plain Hiera: its token order, its attention against windows of an image, and who sees whom."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import search_spaces
import supernet
from search_spaces import SearchSpace
from supernet.plain.hiera import Hiera, MaskUnitAttention, unrolled

FOUR = [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15]
EIGHT = [
    *(0, 4, 32, 36, 2, 6, 34, 38, 16, 20, 48, 52, 18, 22, 50, 54),
    *(1, 5, 33, 37, 3, 7, 35, 39, 17, 21, 49, 53, 19, 23, 51, 55),
    *(8, 12, 40, 44, 10, 14, 42, 46, 24, 28, 56, 60, 26, 30, 58, 62),
    *(9, 13, 41, 45, 11, 15, 43, 47, 25, 29, 57, 61, 27, 31, 59, 63),
]


def order(rows: int, columns: int, levels: int) -> Tensor:
    """For every place of the unrolled order the token of the raster."""
    return unrolled(torch.arange(rows * columns).view(1, -1, 1), (rows, columns), levels).flatten()


def test_golden_orders() -> None:
    assert order(4, 4, 2).tolist() == FOUR
    assert order(8, 8, 3).tolist() == EIGHT
    assert order(3, 5, 0).tolist() == list(range(15))
    large = order(56, 56, 3).tolist()
    assert large[:8] == [0, 8, 16, 24, 32, 40, 48, 448]
    assert large[49:53] == [4, 12, 20, 28]
    assert (large[196], large[784], large[3135]) == (2, 1, 3135)
    assert sorted(large) == list(range(3136))


@pytest.mark.parametrize(("rows", "columns"), [(56, 56), (16, 40), (8, 8)])
def test_the_closed_form_of_the_order(rows: int, columns: int) -> None:
    """The 2x2 neighbours that are pooled first are the slowest digit, the mask unit is the fastest."""
    found, units = order(rows, columns, 3), rows // 8 * (columns // 8)
    for y in range(rows):
        for x in range(columns):
            digits = [2 * ((y >> level) % 2) + (x >> level) % 2 for level in range(3)]
            unit = columns // 8 * (y // 8) + x // 8
            assert found[((digits[0] * 4 + digits[1]) * 4 + digits[2]) * units + unit] == columns * y + x


def test_what_is_left_after_pooling_is_the_order_of_the_smaller_grid() -> None:
    tokens = torch.randn(2, 16 * 24, 3, generator=torch.Generator().manual_seed(0))
    image = tokens.transpose(1, 2).unflatten(2, (16, 24))
    x = unrolled(tokens, (16, 24), 3)
    for level in (2, 1, 0):
        x, image = x.unflatten(1, (4, -1)).amax(1), F.max_pool2d(image, 2)
        raster = image.flatten(2).transpose(1, 2)
        assert torch.equal(x, unrolled(raster, image.shape[2:], level))


def windows(x: Tensor, side: int) -> Tensor:
    """An image (B, H, R, S, d) as its windows (B, H, R/side, S/side, side^2, d)."""
    b, h, rows, columns, d = x.shape
    x = x.reshape(b, h, rows // side, side, columns // side, side, d)
    return x.permute(0, 1, 2, 4, 3, 5, 6).reshape(b, h, rows // side, columns // side, side * side, d)


def window_attention(attn: MaskUnitAttention, tokens: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """The same on raster tokens: explicit windows, `max_pool2d` on the queries' image, softmax by hand."""
    rows, columns, h, d = *grid, attn.num_heads, attn.head_dim
    q, k, v = attn.qkv(tokens).chunk(3, dim=-1)
    q, k, v = (t.reshape(len(t), rows, columns, h, d).permute(0, 3, 1, 2, 4) for t in (q, k, v))
    side_q = side
    if attn.pools:
        pooled = F.max_pool2d(q.permute(0, 1, 4, 2, 3).flatten(1, 2), 2)  # B, H d, R/2, S/2
        q = pooled.unflatten(1, (h, d)).permute(0, 1, 3, 4, 2)
        side_q, rows, columns = side // 2, rows // 2, columns // 2
    q, k, v = windows(q, side_q), windows(k, side), windows(v, side)
    out = (q @ k.transpose(-2, -1) * d**-0.5).softmax(-1) @ v
    out = out.reshape(len(out), h, rows // side_q, columns // side_q, side_q, side_q, d)
    out = out.permute(0, 2, 4, 3, 5, 1, 6).reshape(len(out), rows * columns, h * d)
    return attn.proj(out)


@pytest.mark.parametrize("levels", [3, 2, 1])
@pytest.mark.parametrize("pools", [False, True])
@torch.no_grad()
def test_mask_unit_attention_is_window_attention(levels: int, pools: bool) -> None:
    """With units of 2^levels tokens a side, on a grid that is not square."""
    torch.manual_seed(0)
    side = 2**levels
    grid = (2 * side, 3 * side)
    attn = MaskUnitAttention(12, 16, 2, 8, units=6, pools=pools, eps=1e-6)
    tokens = torch.randn(2, grid[0] * grid[1], 12)
    expected = window_attention(attn, tokens, grid, side)
    if pools:
        expected = unrolled(expected, (side, 3 * side // 2), levels - 1)
    else:
        expected = unrolled(expected, grid, levels)
    found = attn(unrolled(tokens, grid, levels))
    assert (found - expected).abs().max() < 1e-6
    whole = MaskUnitAttention(12, 16, 2, 8, units=1, pools=pools, eps=1e-6)
    whole.load_state_dict(attn.state_dict())
    assert (whole(unrolled(tokens, grid, levels)) - expected).abs().max() > 1e-3


def made(space: SearchSpace, seed: int = 0, **values: Any) -> Hiera:
    """A network with random weights, those too that start at zero or one."""
    arch = space.architecture(space.smallest.to_dict() | values)
    module = supernet.build(space).plain(arch)
    assert isinstance(module, Hiera)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


SMALL: dict[str, Any] = {
    "image_size": (64, 96),
    "patch_size": 4,
    "num_classes": 5,
    "embed_dim": (8,),
    "depth": ((2,), (2,), (2,), (2,)),
    "num_heads": (1,),
    "mlp_ratio": (2,),
    "mask_unit_stages": (1, 2, 3),
    "wide_stem": (False, True),
    "stem_dim": 12,
}


@pytest.mark.parametrize("mask_unit_stages", [1, 2, 3])
@torch.no_grad()
def test_a_token_reaches_its_own_unit_only(mask_unit_stages: int) -> None:
    """Up to the first block of the stage behind, which attends before it is told to look everywhere."""
    module = made(search_spaces.get("turbovit", **SMALL), mask_unit_stages=mask_unit_stages)
    units, unit = 2 * 3, 4
    x = torch.randn(1, 16 * 24, 8)
    changed = x.clone()
    changed[:, 7 * units + unit] += 1
    reached = []
    for block in module.blocks:
        x, changed = block(x), block(changed)
        different = (x != changed).any(-1).view(-1, units)
        reached.append([u for u in range(units) if different[:, u].any()])
    local = 2 * mask_unit_stages + 1
    assert reached == [[unit]] * local + [list(range(units))] * (8 - local)


def test_a_pixel_reaches_its_own_unit_and_the_stems_border() -> None:
    module = made(search_spaces.get("turbovit", **SMALL))
    x = torch.randn(1, 3, 64, 96)
    changed = x.clone()
    changed[:, :, 32 + 16, 32 + 16] += 1  # in the middle of the unit in row 1, column 1
    different = (module.embed(x) != module.embed(changed)).any(-1).view(-1, 6)
    assert [u for u in range(6) if different[:, u].any()] == [4]


def test_outputs_of_the_stages_of_hiera_tiny() -> None:
    space = search_spaces.get("hiera")
    with torch.device("meta"):
        module: Any = supernet.build(space).plain(space.preset("hiera_tiny"))
        x = torch.empty(2, 3, 224, 224)
    shapes = {}
    for name, stage in module.stages():
        x = stage(x)
        shapes[name] = tuple(x.shape)
    ends = [shapes[f"blocks.{i}"] for i in (0, 2, 9, 11)]
    assert ends == [(2, 56 * 56, 96), (2, 28 * 28, 192), (2, 14 * 14, 384), (2, 7 * 7, 768)]
    assert shapes["head"] == (2, 1000)
    assert Hiera(**made(search_spaces.get("turbovit", **SMALL)).config).input_shape == (3, 64, 96)


@pytest.mark.parametrize("name", ["hiera_tiny", "hiera_base_plus", "hiera_huge"])
def test_costs_are_those_of_the_module(name: str) -> None:
    space = search_spaces.get("hiera")
    with torch.device("meta"):
        module = supernet.build(space).plain(space.preset(name)).eval()
        x = torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter:
        module(x)
    cost = space.cost(space.preset(name))
    assert counter.get_total_flops() == 2 * cost.macs
    assert sum(p.numel() for p in module.parameters()) == cost.params


@pytest.mark.parametrize(
    "options", [{"q_pool": 1}, {"q_pool": 0}, {"head_dim": 6, "num_heads": (1, 2)}, {"patch_kernel": 1}]
)
def test_costs_of_unusual_modules(options: dict[str, Any]) -> None:
    space = search_spaces.get("turbovit", **(SMALL | options))
    net = supernet.build(space)
    for arch in space.uniform(3):
        module = net.plain(arch).eval()
        with FlopCounterMode(display=False) as counter:
            logits = module(torch.randn(2, 3, 64, 96))
        assert logits.shape == (2, 5)
        assert counter.get_total_flops() == 2 * 2 * space.cost(arch).macs
        assert sum(p.numel() for p in module.parameters()) == space.cost(arch).params


@torch.no_grad()
def test_a_block_written_out() -> None:
    """A projecting shortcut starts from the normalised tokens; one that does not, from the tokens."""
    module = made(search_spaces.get("turbovit", **SMALL))
    x = torch.randn(2, 16 * 24, 8)
    first, second = module.blocks[0], module.blocks[2]

    def norm(layer: Any, x: Tensor) -> Tensor:
        mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        return (x - mean) / (var + 1e-6).sqrt() * layer.weight + layer.bias

    def rest(block: Any, x: Tensor) -> Tensor:
        return x + block.mlp.fc2(F.gelu(block.mlp.fc1(norm(block.norm2, x))))

    plain = rest(first, x + first.attn(norm(first.norm1, x)))
    torch.testing.assert_close(first(x), plain, rtol=1e-5, atol=1e-5)
    normed = norm(second.norm1, x)
    shortcut = second.proj(normed).unflatten(1, (4, -1)).max(1).values
    torch.testing.assert_close(second(x), rest(second, shortcut + second.attn(normed)), rtol=1e-5, atol=1e-5)
    assert first.proj is None
    wide = made(search_spaces.get("turbovit", **SMALL), wide_stem=True)
    assert wide.blocks[0].proj.weight.shape == (8, 12)
    assert wide.patch_embed.proj.weight.shape == (12, 3, 7, 7)
