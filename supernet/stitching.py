"""Stitching family: pretrained anchors, and linear layers that lead from one into another.

Sources: Pan et al., "Stitchable Neural Networks" (arXiv 2302.06586) and "Stitched ViTs are Flexible Vision
Backbones" (arXiv 2307.00154).
"""

from collections.abc import Hashable, Iterable, Mapping

import torch
from torch import Tensor, nn

from search_spaces import Architecture, SearchSpace
from search_spaces._anchors import read_anchors
from search_spaces._errors import UsageError
from search_spaces.stitching import layout_of, stitch_of
from supernet._base import Supernet, WithoutInit
from supernet._init import init_weights
from supernet._least_squares import solved
from supernet._plain_swin import StitchedSwin, Swin
from supernet._plain_vit import StitchedViT, ViT
from supernet._stitching_layer import StitchingLayer

PLAIN: Mapping[str, type[ViT] | type[Swin]] = {"vit": ViT, "swin": Swin}
STITCHED: Mapping[str, type[StitchedViT] | type[StitchedSwin]] = {"vit": StitchedViT, "swin": StitchedSwin}


def build(space: SearchSpace, *, seed: int = 0) -> "Stitching":
    """A supernet of a `stitching` space with random anchors; `load_anchors` gives it pretrained ones."""
    return Stitching(space, seed=seed)


class _Shared(nn.Module):
    """`anchors` and `stitches` are trained; `originals` are the anchors as they came, if they are kept."""

    def __init__(
        self, anchors: Iterable[nn.Module], stitches: Iterable[nn.Module], originals: Iterable[nn.Module]
    ) -> None:
        super().__init__()
        self.anchors, self.stitches = nn.ModuleList(anchors), nn.ModuleList(stitches)
        self.originals = nn.ModuleList(originals).requires_grad_(False)


class Stitching(Supernet):
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
        """Gives the anchors at these positions these weights, as trained and as original ones.

        Raises UsageError for weights that do not fit an anchor's numbers.
        """
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
