"""Latency of `turbovit_like` beside timm's hierarchical networks, on the CPU with one thread, at 224 px.

Weights are random. All networks run in turns, each timing between two of a calibrator: ratios (± standard
error) hold on a busy machine, milliseconds (± half the interquartile range of the timings) only on this one.
MACs: multiply-accumulates of convolutions, linear layers and the two products of attention, once each; what
torch's FlopCounterMode reports, halved, for all alike. `@256`: images are enlarged within the network to the
side at which timm tells its accuracy. All go through timm's `reparameterize_model`; an asterisk says that it
has fused something, and the costs are those of the fused network.

    python benchmarks/hierarchical.py --figure docs/turbovit-latency.png   # prints the table; half an hour
    python benchmarks/hierarchical.py --models hiera_tiny_224 hiera_tiny_ours --batches 1
"""

import argparse
import json
import math
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import plotly.graph_objects as go
import timm
import torch
from timm.utils.model import reparameterize_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import search_spaces
from dashboards.figures.look import BLACK, BLUE, GREY, ORANGE, framed
from predictors.devices import torch_cpu
from predictors.measurement.rounds import Measurement, measure
from search_spaces.families.turbovit import plain_config
from supernet.plain.hiera import Hiera

SIDE = 224
REFERENCE = "turbovit_like"
# Name -> preset, and what is different from it.
OURS: Mapping[str, tuple[str, dict[str, bool]]] = {
    REFERENCE: ("turbovit_like", {}),
    "turbovit_like_stem64": ("turbovit_like", {"wide_stem": False}),
    "hiera_tiny_ours": ("hiera_tiny", {}),
}
# ImageNet-1k top-1 % as published by timm, None where it is for larger images.
TIMM: Mapping[str, float | None] = {
    "hiera_tiny_224": 82.83, "levit_384": 82.60, "efficientformer_l3": 82.56, "mvitv2_tiny": 82.41,
    "efficientvit_b2": 82.16, "convnext_tiny": 82.07, "pvt_v2_b2": 82.06, "twins_svt_small": 81.69,
    "poolformer_s36": 81.43, "swin_tiny_patch4_window7_224": 81.39, "mobilevitv2_200@256": 81.15,
    "mobilevitv2_200": None, "pit_s_224": 81.11, "fastvit_sa12@256": 80.85, "fastvit_sa12": None,
    "efficientformer_l1": 80.50, "deit_small_patch16_224": 79.86,
}  # fmt: skip
SERIES = {1: (BLUE, ""), 8: (ORANGE, "/")}
FLAGS = ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=5000")


@dataclass(frozen=True)
class Row:
    """A network, and its timings and their ratio to those of `turbovit_like` (± standard error) by batch."""

    name: str
    params: int
    macs: int
    fused: bool
    measured: dict[int, Measurement] = field(default_factory=dict)
    ratios: dict[int, tuple[float, float]] = field(default_factory=dict)


def unfused(name: str) -> nn.Module:
    """A network with random weights."""
    if name in OURS:
        (preset, changes), space = OURS[name], search_spaces.get("turbovit")
        arch = space.architecture(dict(space.preset(preset).values) | changes)
        return Hiera(**plain_config(space, arch))
    return timm.create_model(name.partition("@")[0])


def build(name: str) -> nn.Module:
    """A network with random weights as it is timed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = reparameterize_model(unfused(name).eval())
    side = int(name.partition("@")[2] or SIDE)
    return net if side == SIDE else nn.Sequential(nn.Upsample(size=(side, side)), net)


def row(name: str) -> Row:
    """The network without timings."""
    net = build(name).eval()
    before, params = (sum(p.numel() for p in each.parameters()) for each in (unfused(name), net))
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, SIDE, SIDE))
    return Row(name, params, counter.get_total_flops() // 2, params != before)


def timed(rows: Sequence[Row], batch: int, rounds: int, seed: int) -> None:
    """Adds the timings of one batch size to the rows."""
    measured = measure(
        torch_cpu.build(batch=batch),
        {name: partial(build, name) for name in {REFERENCE: None} | {row.name: None for row in rows}},
        torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)),
        seed=seed,
        rounds=rounds,
        max_rounds=rounds,
        cache_bytes=2**32,
        extras=False,
    )
    unit = measured[REFERENCE]
    assert isinstance(unit, Measurement), unit
    for row in rows:
        found = measured[row.name]
        assert isinstance(found, Measurement), f"{row.name}: {found.reason}"  # it has run once, in `row`
        row.measured[batch] = found
        row.ratios[batch] = ratio(found, unit)


def ratio(found: Measurement, unit: Measurement) -> tuple[float, float]:
    """With its standard error."""
    times = found.latency_ms / unit.latency_ms
    errors = (m.stderr_ms / m.latency_ms for m in (found, unit))
    return times, 0.0 if found is unit else times * math.hypot(*errors)


def cells(row: Row, batch: int) -> list[str]:
    found = row.measured[batch]
    times, error = row.ratios[batch]
    ms = f"{found.latency_ms:.0f} ± {found.spread_ms / 2:.0f}"
    return [ms, f"{1e3 * batch / found.latency_ms:.1f}", f"{times:.2f} ± {error:.2f}"]


def print_table(rows: Sequence[Row], batches: Sequence[int]) -> None:
    titles = [f"{what}, batch {batch}" for batch in batches for what in ("ms", "img/s", "ratio")]
    print(f"| network | M params | G MACs | top-1 % | {' | '.join(titles)} |")
    print(f"|---|---|---|---|{'---|' * len(titles)}")
    for row in rows:
        top1 = TIMM.get(row.name)
        name = row.name + " *" * row.fused
        costs = f"{row.params / 1e6:.2f} | {row.macs / 1e9:.2f} | {f'{top1:.2f}' if top1 else '–'}"
        print(f"| {name} | {costs} | {' | '.join(cell for b in batches for cell in cells(row, b))} |")


def label(row: Row) -> str:
    if row.name in OURS:
        return f"<b>{row.name}</b>"
    return f"{row.name} · {top1:.2f} %" if (top1 := TIMM[row.name]) else f"{row.name}@{SIDE}"


def figure(rows: Sequence[Row], batches: Sequence[int]) -> go.Figure:
    """Ratios as bars, the fastest at the top."""
    shown = sorted(rows, key=lambda row: -row.ratios[batches[0]][0])
    drawn = go.Figure()
    for batch in reversed(batches):
        ratios = [row.ratios[batch] for row in shown]
        colour, shape = SERIES.get(batch, (GREY, ""))
        drawn.add_bar(
            y=[f"{label(row)} " for row in shown],
            x=[value for value, _ in ratios],
            error_x={"array": [error for _, error in ratios], "color": BLACK, "thickness": 1.2, "width": 3},
            orientation="h",
            name=f"batch {batch}",
            marker={"color": colour, "pattern": {"shape": shape, "fgcolor": "white", "size": 5}},
        )
    note = "Bars: ± standard error. %: top-1 as timm publishes it; that of turbovit_like is not known"
    framed(drawn, "Latency relative to turbovit_like: CPU, one thread, 224 px", note)
    drawn.add_vline(x=1, line={"color": BLACK, "width": 1.5, "dash": "dash"})
    drawn.update_xaxes(title="latency / latency of turbovit_like", ticksuffix="x", rangemode="tozero")
    drawn.update_layout(legend_traceorder="reversed", bargap=0.28, width=1000, height=130 + 38 * len(shown))
    return drawn


def write_png(drawn: go.Figure, path: Path) -> None:
    """The figure as headless Chromium draws it."""
    size = f"--window-size={drawn.layout.width},{drawn.layout.height}"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figure.html"
        html = drawn.to_html(full_html=False, config={"displayModeBar": False})
        page.write_text(f"<body style='margin:0'>{html}", encoding="utf-8")
        command = ["chromium", *FLAGS, size, f"--screenshot={path.resolve()}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True)


def main(argv: Sequence[str] | None = None) -> None:
    names = [*OURS, *TIMM]
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--models", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--figure", type=Path, help="a PNG of the ratios; needs chromium")
    parser.add_argument("--json", type=Path, help="all timings")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = [row(name) for name in args.models]
    for batch in args.batches:
        timed(rows, batch, args.rounds, seed=batch)
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    print_table(rows, args.batches)
    if args.figure:
        write_png(figure(rows, args.batches), args.figure)


if __name__ == "__main__":
    main()
