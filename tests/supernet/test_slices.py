"""Prefix slices against indexing written out, and what running a prefix of an FFN means."""

import pytest
import torch
from elastic_nets import net
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.nested import prefix_slice
from supernet.plain.vit import ViT


def numbered(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).view(shape)


def test_a_slice_is_the_leading_part_of_every_dimension():
    tensor = numbered(6, 4, 3, 3)
    assert torch.equal(prefix_slice(tensor, (2, 3, 3, 3)), tensor[:2, :3])
    assert torch.equal(prefix_slice(numbered(7), (3,)), torch.tensor([0, 1, 2]))


def test_a_fused_projection_is_cut_in_each_of_its_three_parts():
    qkv = numbered(12, 5)
    q, k, v = qkv[0:4], qkv[4:8], qkv[8:12]
    assert torch.equal(prefix_slice(qkv, (6, 3), segments=3), torch.cat([q[:2], k[:2], v[:2]])[:, :3])
    assert torch.equal(prefix_slice(qkv[:, 0], (6,), segments=3), torch.cat([q[:2], k[:2], v[:2]])[:, 0])


def test_a_slice_is_contiguous_and_the_whole_is_the_tensor_itself():
    tensor = torch.zeros(8, 8)
    assert prefix_slice(tensor, (8, 8)) is tensor
    assert prefix_slice(tensor, (8, 3)).is_contiguous()
    assert prefix_slice(tensor, (6, 8), segments=2).is_contiguous()


@pytest.mark.parametrize(
    ("shape", "segments"), [((6, 3), 3), ((6, 5), 3), ((4, 3), 1), ((12, 2), 1), ((5,), 1)]
)
def test_a_gradient_is_that_of_the_slice_and_zero_elsewhere(shape: tuple[int, ...], segments: int):
    whole = torch.zeros((12, 5)[: len(shape)], requires_grad=True)
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    prefix_slice(whole, shape, segments=segments).backward(given)
    expected = torch.zeros_like(whole)
    each, rows = len(whole) // segments, shape[0] // segments
    for i in range(segments):
        corner = (slice(i * each, i * each + rows), *(slice(n) for n in shape[1:]))
        expected[corner] = given[i * rows : (i + 1) * rows]
    assert whole.grad is not None
    assert torch.equal(whole.grad, expected)
    assert whole.grad.stride() == whole.stride()


def test_more_than_there_is_cannot_be_taken():
    with pytest.raises(AssertionError, match="other numbers"):
        prefix_slice(numbered(12, 5), (6, 8))


@pytest.mark.parametrize("gated", [False, True])
def test_an_ffn_keeps_its_first_neurons(gated: bool):
    supernet = net(gated=gated, depth=(1,), embed_dim=(8,))
    arch = supernet.space.architecture(
        {"embed_dim": 8, "depth": 1, "num_heads": 4, "mlp_ratio": [0.5]},
    )
    k, full = 4, 32
    whole, part = dict(supernet.shared.named_parameters()), supernet.tensors(arch)
    w_in, b_in = whole["blocks.0.mlp.fc1.weight"], whole["blocks.0.mlp.fc1.bias"]
    rows = [*range(k), *range(full, full + k)] if gated else list(range(k))
    assert torch.equal(part["blocks.0.mlp.fc1.weight"], w_in[rows])
    assert torch.equal(part["blocks.0.mlp.fc1.bias"], b_in[rows])
    assert torch.equal(part["blocks.0.mlp.fc2.weight"], whole["blocks.0.mlp.fc2.weight"][:, :k])
    assert torch.equal(part["blocks.0.mlp.fc2.bias"], whole["blocks.0.mlp.fc2.bias"])


def test_an_attention_keeps_its_first_heads():
    supernet = net(depth=(1,))
    arch = supernet.space.architecture({"embed_dim": 8, "depth": 1, "num_heads": 2, "mlp_ratio": [1]})
    whole, part = dict(supernet.shared.named_parameters()), supernet.tensors(arch)
    qkv, inner = whole["blocks.0.attn.qkv.weight"], 16
    rows = [segment * inner + i for segment in range(3) for i in range(2 * 4)]
    assert torch.equal(part["blocks.0.attn.qkv.weight"], qkv[rows][:, :8])
    assert torch.equal(part["blocks.0.attn.proj.weight"], whole["blocks.0.attn.proj.weight"][:8, :8])


class Ffn(nn.Module):
    """An FFN that runs its first `k` neurons as a slice, or all of them with a mask before the activation."""

    def __init__(self, act: str) -> None:
        super().__init__()
        self.act = getattr(F, act)
        generator = torch.Generator().manual_seed(0)
        self.w_in, self.w_out = (torch.randn(shape, generator=generator) for shape in [(32, 8), (8, 32)])
        self.b_in = torch.randn(32, generator=generator)

    def sliced(self, x: Tensor, k: int) -> Tensor:
        w_in, b_in, w_out = (
            prefix_slice(t, shape)
            for t, shape in [(self.w_in, (k, 8)), (self.b_in, (k,)), (self.w_out, (8, k))]
        )
        return self.act(x @ w_in.T + b_in) @ w_out.T

    def masked(self, x: Tensor, k: int) -> Tensor:
        mask = (torch.arange(32) < k).float()
        return self.act((x @ self.w_in.T + self.b_in) * mask) @ self.w_out.T


@pytest.mark.parametrize("act", ["gelu", "silu", "relu"])
def test_a_mask_equals_a_slice_where_the_activation_keeps_zero(act: str):
    ffn, x = Ffn(act), torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    for k in (1, 8, 31):
        assert (ffn.masked(x, k) - ffn.sliced(x, k)).abs().max() <= 2e-5


@pytest.mark.parametrize("act", ["sigmoid", "softplus"])
def test_a_mask_is_no_slice_where_the_activation_moves_zero(act: str):
    ffn, x = Ffn(act), torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    assert (ffn.masked(x, 8) - ffn.sliced(x, 8)).abs().max() > 0.5


@pytest.mark.parametrize("gated", [False, True])
def test_the_supernet_computes_the_ffn_of_the_paper(gated: bool):
    supernet = net(gated=gated, depth=(1,), act="silu", embed_dim=(16,))
    block = supernet.shared.blocks[0]
    arch = supernet.space.architecture({"embed_dim": 16, "depth": 1, "num_heads": 4, "mlp_ratio": [1]})
    subnet = supernet.extract(arch)
    assert isinstance(subnet, ViT)
    x, k = torch.randn(3, 16, generator=torch.Generator().manual_seed(2)), 16
    w, b = block.mlp.fc1.weight, block.mlp.fc1.bias
    hidden = F.silu(x @ w[:k].T + b[:k])
    if gated:
        hidden = hidden * (x @ w[64 : 64 + k].T + b[64 : 64 + k])
    expected = hidden @ block.mlp.fc2.weight[:, :k].T + block.mlp.fc2.bias
    torch.testing.assert_close(subnet.blocks[0].mlp(x), expected, rtol=1e-5, atol=1e-5)
