"""Texts continued by subnets that share weights: what a switch keeps, what it cannot keep."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import search_spaces
import supernet
from nas.exported import elastic as writing
from nas.exported.elastic import ElasticMember, export_elastic
from nas.exported.elastic_runtime import Elastic
from search_spaces import Architecture, SearchSpace

SIZES: dict[str, Any] = {"vocabulary": 61, "context": 16, "head_dim": 4, "heads_per_kv": 2}
CHOICES: dict[str, Any] = {"embed_dim": [16], "depth": [1, 2], "num_heads": [2, 4], "mlp_hidden": [16, 32]}
TEXT = torch.randint(61, (2, 7), generator=torch.Generator().manual_seed(0))
MORE = torch.randint(61, (2, 4), generator=torch.Generator().manual_seed(1))


def subnets(space: SearchSpace) -> dict[str, Architecture]:
    def of(depth: int, heads: int, *hidden: int | None) -> Architecture:
        values = {"embed_dim": 16, "depth": depth, "num_heads": heads, "mlp_hidden": list(hidden)}
        return space.architecture(values)

    return {
        "narrow": of(2, 4, 16, 16),
        "mixed": of(2, 4, 32, 16),
        "wide": of(2, 4, 32, 32),
        "other heads": of(2, 2, 32, 32),
        "other layers": of(1, 4, 32),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = supernet.build(search_spaces.get("matlm", **SIZES, **CHOICES), seed=0).eval()
    with torch.no_grad():
        for number, weights in enumerate(net.parameters()):
            weights.normal_(std=0.5, generator=torch.Generator().manual_seed(number))
    members = [
        ElasticMember(
            arch,
            {
                "key": name,
                "quality": -number,
                "stderr": None,
                "params": net.space.cost(arch).params,
                "macs": net.space.cost(arch).macs,
                "latency_ms": {"cpu": 1.0 + number},
            },
        )
        for number, (name, arch) in enumerate(subnets(net.space).items())
    ]
    target = tmp_path_factory.mktemp("nets") / "it"
    info = {"job": "made", "metric": "bits_per_byte", "goal": "min", "inputs": "made inputs"}
    with pytest.MonkeyPatch.context() as patched:  # that outputs are right is asked elsewhere
        patched.setattr(writing, "_checked", lambda *_: 0.0)
        export_elastic(net, members, target, example=net.example_input(3), info=info)
    return target


@pytest.fixture
def elastic(folder: Path) -> Elastic:
    return Elastic.load(folder)


@torch.no_grad()
def remembered(module: Any, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of a text that the subnet reads as a whole, by layer."""
    x, kept = module.embed(tokens), []
    for block in module.blocks:
        _, keys, values = block.attn.heads_at(block.norm1(x))
        kept.append((keys, values))
        x = block(x)
    return kept


@torch.no_grad()
def read_behind(module: Any, tokens: Tensor, past: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Logits of tokens that follow a text of which only keys and values are known; softmax written out."""
    begin, x = past[0][0].shape[2], module.embed(tokens)
    for block, (keys, values) in zip(module.blocks, past, strict=True):
        q, k, v = block.attn.heads_at(block.norm1(x), begin)
        k, v = (
            torch.cat(both, dim=2).repeat_interleave(block.attn.heads_per_kv, dim=1)
            for both in ((keys, k), (values, v))
        )
        hidden = torch.ones(tokens.shape[1], k.shape[2], dtype=torch.bool).triu(begin + 1)
        scores = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).masked_fill(hidden, -torch.inf)
        mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
        x = block.fed(x + block.attn.proj(mixed))
    return module.logits(x)


@pytest.mark.parametrize("key", ["narrow", "wide", "other heads", "other layers"])
def test_token_by_token_is_what_the_whole_text_gives(key: str, elastic: Elastic) -> None:
    whole = elastic.use(key)(torch.cat([TEXT, MORE], dim=1))
    decoding = elastic.decode(key)
    parts = [decoding(TEXT), *(decoding(MORE[:, i : i + 1]) for i in range(MORE.shape[1]))]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-4)
    again = elastic.decode(key)
    torch.testing.assert_close(
        torch.cat([again(TEXT), again(MORE)], dim=1), whole, rtol=1e-4, atol=1e-4
    )  # several tokens behind others at once


def test_behind_a_switch_tokens_attend_to_what_the_first_subnet_has_remembered(elastic: Elastic) -> None:
    decoding = elastic.decode("narrow")
    decoding(TEXT)
    decoding.use("wide")
    logits = decoding(MORE)
    narrow, wide = elastic.use("narrow"), elastic.use("wide")
    expected = read_behind(wide, MORE, remembered(narrow, TEXT))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    alone = elastic.decode("wide")
    alone(TEXT)
    assert not torch.allclose(alone(MORE), logits, rtol=1e-2, atol=1e-2)  # who read the text matters


def test_no_switch_changes_no_bit(elastic: Elastic) -> None:
    still, moved = elastic.decode("wide"), elastic.decode("wide")
    expected, logits = [still(TEXT)], [moved(TEXT)]
    for number in range(MORE.shape[1]):
        token = MORE[:, number : number + 1]
        moved.use("wide")
        moved.use("narrow")
        moved.use("wide")  # before the other one has read anything
        expected.append(still(token))
        logits.append(moved(token))
    assert all(map(torch.equal, logits, expected))


@pytest.mark.parametrize("other", ["other heads", "other layers"])
def test_another_attention_is_refused_or_reads_the_text_again(other: str, elastic: Elastic) -> None:
    decoding = elastic.decode("wide")
    decoding(TEXT)
    with pytest.raises(ValueError, match=rf"{other} has other layers, heads or widths than wide"):
        decoding.use(other)
    assert decoding.member["key"] == "wide"
    decoding.use(other, recompute=True)
    alone = elastic.decode(other)
    expected = alone(torch.cat([TEXT, MORE], dim=1))[:, -MORE.shape[1] :]
    assert torch.equal(decoding(MORE), expected)


def test_texts_are_generated_across_switches(elastic: Elastic) -> None:
    decoding, tokens = elastic.decode("wide"), []
    for number, token in enumerate(decoding.generate(TEXT, 5)):
        tokens.append(token)
        decoding.use(["narrow", "mixed", "wide"][number % 3])
    wide = elastic.decode("wide")
    first = wide(TEXT)[:, -1:].argmax(dim=-1)
    assert torch.equal(tokens[0], first)
    second = read_behind(elastic.use("narrow"), first, remembered(elastic.use("wide"), TEXT))
    assert torch.equal(tokens[1], second.argmax(dim=-1))
    assert torch.cat(tokens, dim=1).shape == (2, 5)


def test_what_cannot_be_continued(elastic: Elastic) -> None:
    decoding = elastic.decode("wide")
    with pytest.raises(ValueError, match="a text of 1 to 16 tokens is continued, not of 0"):
        decoding(TEXT[:, :0])
    decoding(TEXT)
    with pytest.raises(ValueError, match="a text of 1 to 16 tokens is continued, not of 17"):
        decoding(torch.zeros(2, 10, dtype=torch.int64))
    assert decoding(MORE).shape == (2, 4, 61)  # what was refused has left nothing behind
