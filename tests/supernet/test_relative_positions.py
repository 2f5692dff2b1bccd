"""Relative positions against loops over pairs of tokens."""

import pytest
import torch

from supernet.plain.layers import Attention, RelativeAttention

GRID, REACH, HEADS, DIM = (3, 4), 2, 2, 6


def attention(prefix: int) -> RelativeAttention:
    attn = RelativeAttention(
        10, HEADS, DIM, grid=GRID, prefix_tokens=prefix, reach=REACH,
        qkv_bias=True, proj_bias=True, qk_norm=False, eps=1e-5,
    ).double()  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in attn.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return attn


def vector(table: object, query: int, key: int, prefix: int) -> torch.Tensor:
    """Of one pair of tokens, as the papers say it."""
    rows, columns = table.row_table, table.column_table  # type: ignore[attr-defined]
    if query < prefix or key < prefix:
        return rows[0] + columns[0]
    (a, b), (c, d) = (divmod(token - prefix, GRID[1]) for token in (query, key))
    down, right = (max(-REACH, min(REACH, apart)) for apart in (c - a, d - b))
    return rows[down + REACH + 1] + columns[right + REACH + 1]


@pytest.mark.parametrize("prefix", [0, 1, 3])
@torch.no_grad()
def test_keys_and_values_know_the_distance(prefix: int) -> None:
    attn = attention(prefix)
    tokens = prefix + GRID[0] * GRID[1]
    x = torch.randn(2, tokens, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    q, k, v = attn.heads(x)
    out = torch.zeros_like(q)
    for query in range(tokens):
        scores = torch.stack(
            [
                (q[:, :, query] * (k[:, :, key] + vector(attn.rel_pos_k, query, key, prefix))).sum(-1)
                for key in range(tokens)
            ],
            dim=-1,
        )
        shares = (scores / DIM**0.5).softmax(dim=-1)
        for key in range(tokens):
            value = v[:, :, key] + vector(attn.rel_pos_v, query, key, prefix)
            out[:, :, query] += shares[:, :, key, None] * value
    expected = attn.proj(out.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attn(x), expected)


@torch.no_grad()
def test_without_vectors_it_is_plain_attention() -> None:
    attn = attention(1)
    for table in (attn.rel_pos_k, attn.rel_pos_v):
        for parameter in table.parameters():
            parameter.zero_()
    plain = Attention(10, HEADS, DIM, qkv_bias=True, proj_bias=True, qk_norm=False, eps=1e-5).double()
    plain.load_state_dict({k: v for k, v in attn.state_dict().items() if "rel_pos" not in k})
    x = torch.randn(2, 13, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(attn(x), plain(x))


def test_the_tables_of_autoformer_have_thirty_entries() -> None:
    attn = RelativeAttention(
        8, 1, 64, grid=(14, 14), prefix_tokens=1, reach=14,
        qkv_bias=True, proj_bias=True, qk_norm=False, eps=1e-5,
    )  # fmt: skip
    tables = [p for name, p in attn.named_parameters() if name.endswith("_table")]
    assert [tuple(p.shape) for p in tables] == [(30, 64)] * 4
    assert attn.rel_pos_k().shape == (197, 197, 64)
