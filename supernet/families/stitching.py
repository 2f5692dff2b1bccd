"""Stitching family: pretrained anchors, and linear layers that lead from one into another.

Sources: Pan et al., "Stitchable Neural Networks" (arXiv 2302.06586) and "Stitched ViTs are Flexible Vision
Backbones" (arXiv 2307.00154).
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.families.stitching import layout_of, stitch_of
from search_spaces.shapes.anchors import read_anchors
from supernet.initialisation import init_weights
from supernet.least_squares import solved
from supernet.plain.swin import StitchedSwin, Swin
from supernet.plain.vit import StitchedViT, ViT
from supernet.supernet import Joined, WithoutInit

PLAIN: Mapping[str, type[ViT] | type[Swin]] = {"vit": ViT, "swin": Swin}
STITCHED: Mapping[str, type[StitchedViT] | type[StitchedSwin]] = {"vit": StitchedViT, "swin": StitchedSwin}


def build(space: SearchSpace, *, seed: int = 0) -> "Stitching":
    """A supernet of a `stitching` space with random anchors; `load_anchors` gives it pretrained ones."""
    return Stitching(space, seed=seed)


def anchor_options(module: nn.Module) -> dict[str, Any]:
    """The kind and the numbers of a plain module as an anchor.

    Raises UsageError for one that cannot be an anchor.
    """
    kind = next((kind for kind, plain in PLAIN.items() if type(module) is plain), None)
    if kind is None:
        raise UsageError(
            f"a {type(module).__name__}, which cannot be stitched again.",
            "Give folders with whole ViTs or Swins.",
        )
    return {"kind": kind} | dict(module.config)  # type: ignore[arg-type]


class StitchingLayer(nn.Module):
    """The linear layer between two anchors: weight (n_out, n_in) and bias (n_out,) for all tokens.

    With `rank` r the weight is frozen and `lora_b @ lora_a / r` is added to it: `lora_a` (r, n_in) is drawn,
    `lora_b` (n_out, r) begins at zero, the bias is trained. The two are added anew in every pass and put
    together for good only when a network is extracted, so that no state says whether they are.
    Source: SN-Netv2 (arXiv 2307.00154), low-rank update of stitching layers.
    """

    weight: Tensor

    def __init__(self, n_in: int, n_out: int, *, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.bias = nn.Parameter(torch.zeros(n_out))
        if rank:
            self.register_buffer("weight", torch.zeros(n_out, n_in))
            self.lora_a = nn.Parameter(torch.zeros(rank, n_in))
            self.lora_b = nn.Parameter(torch.zeros(n_out, rank))
        else:
            self.weight = nn.Parameter(torch.zeros(n_out, n_in))

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Random weights: what an initialisation from features has to beat."""
        bound = self.weight.shape[1] ** -0.5
        self.weight.normal_(std=bound, generator=generator)
        self.bias.zero_()
        if self.rank:
            # Kaiming-uniform with a = sqrt(5), as nn.Linear is drawn.
            self.lora_a.uniform_(-bound, bound, generator=generator)
            self.lora_b.zero_()

    @torch.no_grad()
    def set(self, weight: Tensor, bias: Tensor) -> None:
        """Makes the layer this affine map; the update begins at zero again."""
        self.weight.copy_(weight)
        self.bias.copy_(bias)
        if self.rank:
            self.lora_b.zero_()

    def merged(self) -> Tensor:
        """The weight that the layer multiplies with."""
        return self.weight + self.lora_b @ self.lora_a / self.rank if self.rank else self.weight

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.merged(), self.bias)


class _Shared(nn.Module):
    """`anchors` and `stitches` are trained; `originals` are the anchors as they came, if they are kept."""

    def __init__(
        self, anchors: Iterable[nn.Module], stitches: Iterable[nn.Module], originals: Iterable[nn.Module]
    ) -> None:
        super().__init__()
        self.anchors, self.stitches = nn.ModuleList(anchors), nn.ModuleList(stitches)
        self.originals = nn.ModuleList(originals).requires_grad_(False)


class Stitching(Joined):
    """Anchors, one stitching layer for each group of cuts, and unchanged copies of the anchors.

    An anchor as a member of the space has its original weights and no step trains it, unless the space says
    `originals: false`.
    """

    def __init__(self, space: SearchSpace, *, seed: int) -> None:
        options = space.options
        anchors = read_anchors(options["anchors"], {})
        self._configs = [anchor.config for anchor in anchors]
        self._kind = anchors[0].kind
        layout = layout_of(options)
        self._layers, self._layer_of = layout.layers, layout.layer_of
        stitches = [
            StitchingLayer(
                anchors[cuts[0].front].width(cuts[0].last),
                anchors[cuts[0].end].width(cuts[0].first),
                rank=options["rank"],
            )
            for cuts in self._layers
        ]
        with WithoutInit():
            shared = _Shared(
                (self._anchor(i) for i in range(len(anchors))),
                stitches,
                (self._anchor(i) for i in range(len(anchors)) if options["originals"]),
            )
        super().__init__(space, shared)
        self.shared: _Shared
        self._stage_names = [[name for name, _ in self._divided(anchor)] for anchor in shared.anchors]
        if options["originals"]:
            self.frozen = frozenset(space.preset(name) for name in space.preset_values)
        generator = torch.Generator().manual_seed(seed)
        for anchor in self.shared.anchors:
            init_weights(anchor, generator)
        for stitch in stitches:
            stitch.draw(generator)
        self._keep_originals()

    def load_anchors(self, states: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Gives the anchors at these positions these weights, as trained and as original ones."""
        for i, state in states.items():
            try:
                self.shared.anchors[i].load_state_dict(dict(state), strict=True)
            except RuntimeError as error:
                reason = str(error).splitlines()[-1].strip()
                raise UsageError(f"The weights do not fit anchor {i} of this job: {reason}") from error
        self._keep_originals()

    def plain(self, arch: Architecture) -> nn.Module:
        segments = stitch_of(arch).segments
        if len(segments) == 1:
            return self._anchor(segments[0].anchor)
        used = sorted({segment.anchor for segment in segments})
        return STITCHED[self._kind](
            anchors=[self._configs[i] for i in used],
            segments=[[used.index(s.anchor), s.begin, s.end] for s in segments],
        )

    def tensors(self, arch: Architecture) -> dict[str, Tensor]:
        stitch = stitch_of(arch)
        if len(stitch.segments) == 1:
            source = self.shared.originals or self.shared.anchors
            return dict(source[stitch.segments[0].anchor].named_parameters())
        of_anchor = [dict(anchor.named_parameters()) for anchor in self.shared.anchors]
        made: dict[str, Tensor] = {}
        for i, cut in enumerate(stitch.cuts):
            layer = self._stitch(self._layer_of[cut])
            made |= {f"stitches.{i}.weight": layer.merged(), f"stitches.{i}.bias": layer.bias}
        for name, _ in self._skeleton(arch).named_parameters():
            if name.startswith("segments."):
                _, index, rest = name.split(".", 2)
                made[name] = of_anchor[stitch.segments[int(index)].anchor][rest]
        return made

    @property
    def networks(self) -> int:
        return len(self.shared.anchors)

    def shared_block(self, arch: Architecture, name: str) -> str:
        segments = stitch_of(arch).segments
        if len(segments) == 1:
            source = "originals" if self.shared.originals else "anchors"
            return f"{source}.{segments[0].anchor}.{name}"
        _, index, rest = name.split(".", 2)
        return f"anchors.{segments[int(index)].anchor}.{rest}"

    def segments(self, name: str) -> int:
        return 3 if ".attn.qkv." in name else 1

    def path(self, arch: Architecture) -> tuple[Hashable, ...]:
        stitch = stitch_of(arch)
        last = len(stitch.segments) - 1
        source = "originals" if not last and self.shared.originals else "anchors"
        keys: list[Hashable] = []
        for i, segment in enumerate(stitch.segments):
            if i:
                keys.append(("stitch", self._layer_of[stitch.cuts[i - 1]]))
            stem, *blocks, head = self._stage_names[segment.anchor]
            here = blocks[segment.begin : segment.end]
            here = [*([] if i else [stem]), *here, *([head] if i == last else [])]
            # Behind a stitching layer a block does not merge its tokens before.
            keys += ((source, segment.anchor, name, i > 0 and name is here[0]) for name in here)
        return tuple(keys)

    def adapt(self, batches: Iterable[Tensor]) -> None:
        """Sets the stitching layers by least squares on the features of the anchors, in evaluation mode."""
        anchors = [anchor.eval() for anchor in self.shared.anchors]
        for i, (weight, bias) in enumerate(solved(anchors, self._layers, batches)):
            self._stitch(i).set(weight, bias)

    def example_input(self, batch: int) -> Tensor:
        config = self._configs[0]
        generator = torch.Generator().manual_seed(0)
        return torch.randn(batch, config["in_chans"], *config["image_size"], generator=generator)

    def _anchor(self, index: int) -> nn.Module:
        return PLAIN[self._kind](**self._configs[index])

    def _stitch(self, index: int) -> StitchingLayer:
        layer = self.shared.stitches[index]
        assert isinstance(layer, StitchingLayer)
        return layer

    @torch.no_grad()
    def _keep_originals(self) -> None:
        for original, anchor in zip(self.shared.originals, self.shared.anchors, strict=False):
            original.load_state_dict(anchor.state_dict())
