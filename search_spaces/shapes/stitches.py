"""Which stitches there are between given depths: SN-Net's and SN-Netv2's enumerations, in their order.

A cut (j, k) ends the front after its block j and begins the end at its block k. Blocks are counted flat, over
all stages of a hierarchical anchor; cuts lie inside stages, where both anchors have the same tokens.
Sources: Pan et al., "Stitchable Neural Networks" (arXiv 2302.06586); "Stitched ViTs are Flexible Vision
Backbones" (arXiv 2307.00154); the order of members, and with it the published ids, is the released code's.
"""

import itertools
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

from search_spaces.bounds import MOST_STITCHES
from search_spaces.errors import UsageError

Stages: TypeAlias = tuple[int, ...]  # blocks of each stage; a plain transformer has one stage
_SEGMENT = re.compile(r"(\d{1,6})\[(\d{1,6}):(\d{1,6})\]")


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """Blocks `begin` to `end - 1` of an anchor."""

    anchor: int
    begin: int
    end: int

    def __str__(self) -> str:
        return f"{self.anchor}[{self.begin}:{self.end}]"


@dataclass(frozen=True, slots=True, order=True)
class Cut:
    """From anchor `front` after its block `last` to anchor `end` at its block `first`."""

    front: int
    end: int
    last: int
    first: int


@dataclass(frozen=True, slots=True)
class Stitch:
    """Segments of anchors in a row; one alone is the anchor itself. Text: `0[0:8]>1[7:12]`."""

    segments: tuple[Segment, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """The stitch that `str` wrote. Raises UsageError for anything else."""
        matches = [_SEGMENT.fullmatch(part) for part in text.split(">")]
        segments = tuple(Segment(*map(int, match.groups())) for match in matches if match)
        if len(segments) < len(matches):
            raise UsageError(f"{text[:80]!r} is not a stitch.", "Example: 0[0:8]>1[7:12].")
        return cls(segments)

    @property
    def cuts(self) -> tuple[Cut, ...]:
        return tuple(
            Cut(a.anchor, b.anchor, a.end - 1, b.begin) for a, b in itertools.pairwise(self.segments)
        )

    def __str__(self) -> str:
        return ">".join(map(str, self.segments))


@dataclass(frozen=True, slots=True)
class Layout:
    """All members in the published order, None where an id is not used, and the cuts of every layer."""

    members: tuple[Stitch | None, ...]
    layers: tuple[tuple[Cut, ...], ...]

    @property
    def layer_of(self) -> Mapping[Cut, int]:
        """Which stitching layer serves a cut."""
        return {cut: index for index, cuts in enumerate(self.layers) for cut in cuts}


def v1(
    anchors: Sequence[Stages],
    *,
    kernel: int,
    stride: int,
    lengthening: bool,
    nearest: bool,
    chains: bool,
) -> Layout:
    """SN-Net: one cut from a smaller anchor to a larger one; with `chains` also two cuts through three.

    kernel, stride: of the sliding windows between stages of equal depth.  lengthening: whether the end may
    begin at or before the front's last block.  nearest: neighbours in `anchors` only.
    Raises UsageError when two anchors have no cut between them.
    """
    pairs = [p for p in itertools.combinations(range(len(anchors)), 2) if not nearest or p[1] - p[0] == 1]
    layers = {pair: _layers(pair, anchors, kernel, stride, lengthening=lengthening) for pair in pairs}
    cuts = {pair: list(itertools.chain.from_iterable(layers[pair])) for pair in pairs}
    # The release counts members stage by stage, then pair by pair. The order of layers names stored weights.
    every = [cut for pair in pairs for cut in cuts[pair]]
    whole = (_whole(i, stages) for i, stages in enumerate(anchors))
    once = (_joined(anchors, cut) for cut in sorted(every, key=lambda cut: _stage(anchors[cut.end], cut)))
    twice = (
        stitch
        for a, b, c in (itertools.combinations(range(len(anchors)), 3) if chains else ())
        if (a, b) in cuts and (b, c) in cuts
        for stitch in _two_cuts(anchors, cuts[a, b], cuts[b, c])
    )
    members = _bounded(itertools.chain(whole, once, twice))
    return Layout(members, tuple(itertools.chain.from_iterable(layers.values())))


def v2(anchors: Sequence[Stages], *, whole_small: bool) -> Layout:
    """SN-Netv2: up to two cuts between two anchors, in both directions.

    whole_small: also all blocks of the small anchor under the large one's head. The release enumerates this
    member without using it; left out, its id is None.
    Raises UsageError unless there are two anchors and the second's stages are whole multiples as deep.
    """
    if len(anchors) != 2:
        raise UsageError(f"Stitching scheme v2 takes two anchors, not {len(anchors)}.", "Set scheme: v1.")
    small, large = anchors
    if len(small) != len(large) or any(b % a for a, b in zip(small, large, strict=True)):
        raise UsageError(
            f"Stitching scheme v2 needs a large anchor whose depth is a multiple of the small one's, not "
            f"{_depths(large)} blocks over {_depths(small)}.",
            "Set scheme: v1.",
        )
    forth, back = list(_fast_to_slow(small, large)), list(_slow_to_fast(small, large))
    last = Cut(0, 1, sum(small) - 1, sum(large))
    members: Iterator[Stitch | None] = itertools.chain(
        (_whole(0, small), _whole(1, large)),
        (_joined(anchors, cut) for cut in forth),
        (_joined(anchors, last) if whole_small else None,),
        (_joined(anchors, cut) for cut in back),
        _two_cuts(anchors, back, forth),
        _two_cuts(anchors, forth, back),
    )
    layers = [*forth, *([last] if whole_small else []), *back]
    return Layout(_bounded(members), tuple((cut,) for cut in layers))


def window_cuts(depth: int, *, kernel: int, stride: int, lengthening: bool) -> list[list[tuple[int, int]]]:
    """The pairs (j, k) of every sliding window over two stages of `depth` blocks; each pair once.

    Windows that add no pair are left out.
    """
    windows = []
    seen = 0  # pairs of blocks before this one were in an earlier window, if they are in this one
    for start in range(0, depth, stride):
        ids = range(start, min(start + kernel, depth))
        new = [(j, k) for j in ids for k in ids if max(j, k) >= seen and (lengthening or j < k)]
        seen = ids.stop
        if new:
            windows.append(new)
        if seen == depth:
            break
    return windows


def _bounded(members: Iterator[Stitch | None]) -> tuple[Stitch | None, ...]:
    """All of them. Raises UsageError for more than anybody can use."""
    bounded = tuple(itertools.islice(members, MOST_STITCHES + 1))
    if len(bounded) > MOST_STITCHES:
        raise UsageError(
            f"There are more than {MOST_STITCHES:,} stitches between these anchors.",
            "Take a smaller kernel, fewer anchors, or leave chains away.",
        )
    return bounded


def nearest_cuts(front: int, end: int) -> list[list[tuple[int, int]]]:
    """The pairs (j, k) by nearest mapping from `front` blocks to a deeper stage of `end`, for each j."""
    mapped = [(k * front // end, k) for k in range(end)]
    return [cuts for layer in range(front) if (cuts := [(j, k) for j, k in mapped if j == layer and j < k])]


def _layers(
    pair: tuple[int, int], anchors: Sequence[Stages], kernel: int, stride: int, *, lengthening: bool
) -> list[tuple[Cut, ...]]:
    front, end = (anchors[i] for i in pair)
    layers: list[tuple[Cut, ...]] = []
    for j0, k0, j_count, k_count in _stages(front, end):
        groups = (
            window_cuts(j_count, kernel=kernel, stride=stride, lengthening=lengthening)
            if j_count == k_count
            else nearest_cuts(j_count, k_count)
        )
        layers += [tuple(Cut(*pair, j0 + j, k0 + k) for j, k in group) for group in groups]
    if not layers:
        raise UsageError(
            f"Anchors {pair[0]} and {pair[1]} with {_depths(front)} and {_depths(end)} blocks have no cut "
            "between them.",
            "Scheme v1 stitches a smaller anchor to one at least as deep; raise kernel, or set scheme: v2.",
        )
    return layers


def _fast_to_slow(small: Stages, large: Stages) -> Iterator[Cut]:
    for i0, k0, d0, d1 in _stages(small, large):
        yield from (Cut(0, 1, i0 + i, k0 + d1 // d0 * (i + 1)) for i in range(d0 - 1))


def _slow_to_fast(small: Stages, large: Stages) -> Iterator[Cut]:
    for m0, i0, d0, d1 in _stages(small, large):
        yield from (Cut(1, 0, i0 + d1 // d0 * m - 1, m0 + m) for m in range(1, d0))


def _stages(front: Stages, end: Stages) -> Iterator[tuple[int, int, int, int]]:
    """First blocks and depths of the stages that are stitched: all, but not the last of several."""
    starts = [(sum(front[:i]), sum(end[:i])) for i in range(len(front))]
    for (j0, k0), depths in list(zip(starts, zip(front, end, strict=True), strict=True))[
        : max(1, len(front) - 1)
    ]:
        yield j0, k0, *depths


def _stage(end: Stages, cut: Cut) -> int:
    """The stage of the end, and with it of the front, in which a cut lies."""
    return bisect_right(list(itertools.accumulate(end)), cut.first)


def _two_cuts(anchors: Sequence[Stages], first: Iterable[Cut], second: Sequence[Cut]) -> Iterator[Stitch]:
    """Stitches with a cut of `first` and then one of `second`, at least one block between them."""
    return (_joined(anchors, a, b) for a in first for b in second if b.last >= a.first)


def _whole(index: int, stages: Stages) -> Stitch:
    return Stitch((Segment(index, 0, sum(stages)),))


def _joined(anchors: Sequence[Stages], *cuts: Cut) -> Stitch:
    begins = [0, *(cut.first for cut in cuts)]
    ends = [*(cut.last + 1 for cut in cuts), sum(anchors[cuts[-1].end])]
    indices = [cuts[0].front, *(cut.end for cut in cuts)]
    return Stitch(tuple(map(Segment, indices, begins, ends)))


def _depths(stages: Stages) -> str:
    return "/".join(map(str, stages))
