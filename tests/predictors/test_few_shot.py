"""Few measurements with tables of other devices, on made devices whose truth is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import search_spaces
from predictors.few_shot import BOTH, ROOFLINE, SOURCES, FewShot, Table, few_shot
from predictors.regression.metrics import Floats, rank_correlation
from search_spaces.errors import UsageError

COUNT, MEASURED = 300, 10
RNG = np.random.default_rng(0)
WORK = RNG.gamma(2.0, 1.0, (COUNT, 3))  # what architectures do
HIDDEN = RNG.gamma(2.0, 1.0, (COUNT, 2))  # what they do besides, and nobody counts
NAMES = tuple(f"net-{i}" for i in range(COUNT))


def device(counted: tuple[float, ...], hidden: tuple[float, ...], seed: int) -> Floats:
    noise = np.random.default_rng(seed).normal(0, 0.01, COUNT)
    truth: Floats = (1 + WORK @ np.array(counted) + HIDDEN @ np.array(hidden)) * np.exp(noise)
    return truth


ALIKE = {
    "one": device((1.0, 0.2, 0.0), (2.0, 0.0), 1),
    "two": device((0.0, 1.0, 0.5), (0.0, 2.0), 2),
    "three": device((0.5, 0.0, 1.0), (1.0, 1.0), 3),
}
TARGET = 3 * device((0.5, 0.6, 0.25), (1.0, 1.0), 4)  # as the first two together
STRANGERS = {
    name: np.random.default_rng(seed).gamma(2.0, 1.0, COUNT) + 0.1 for seed, name in enumerate("xyz")
}
PLAIN = device((1.0, 0.3, 0.7), (0.0, 0.0), 5)  # of counted work alone


def table(columns: dict[str, Floats]) -> Table:
    return Table(NAMES, tuple(columns), np.stack(list(columns.values()), axis=1))


def asked(columns: dict[str, Floats], truth: Floats, *, work: Floats | None = WORK, seed: int = 0) -> FewShot:
    places = np.random.default_rng(seed).permutation(COUNT)[:MEASURED]
    return few_shot(table(columns), {NAMES[i]: float(truth[i]) for i in places}, work=work)


def error(result: FewShot, truth: Floats) -> float:
    return float(np.abs(result.mean_ms / truth - 1).mean())


@pytest.mark.parametrize("seed", range(2))
def test_other_devices_tell_what_the_work_does_not(seed: int) -> None:
    alone = asked(STRANGERS, TARGET, seed=seed)
    helped = asked(ALIKE, TARGET, seed=seed)
    assert helped.taken in (SOURCES, BOTH)
    # The hidden work is half of all: no sum of the counted one comes near.
    assert error(helped, TARGET) < 0.06 < 0.12 < error(alone, TARGET)
    assert rank_correlation(helped.mean_ms, TARGET) > 0.9 > rank_correlation(alone.mean_ms, TARGET)


@pytest.mark.parametrize("seed", range(2))
def test_devices_that_mislead_are_not_followed(seed: int) -> None:
    result = asked(STRANGERS, PLAIN, seed=seed)
    assert result.taken == ROOFLINE
    assert error(result, PLAIN) < 0.05 < asked(STRANGERS, PLAIN, work=None, seed=seed).errors[SOURCES]


def test_without_work_the_sources_alone_are_asked() -> None:
    result = asked(ALIKE, TARGET, work=None)
    assert list(result.errors) == [SOURCES]
    assert error(result, TARGET) < 0.06
    inside = np.abs(result.mean_ms - TARGET) <= 1.6449 * result.std_ms
    assert inside.mean() > 0.8
    assert result.of(NAMES[7]) == (result.mean_ms[7], result.std_ms[7])
    assert result.why.startswith("sources: leave-one-out errors are sources ")


def test_layers_are_as_good_as_work() -> None:
    space = search_spaces.get("matformer")
    codes = space.sample_choices(np.random.default_rng(0), 60)
    networks = [space.layers(arch) for arch in space.decode(codes)]
    truth = 1 + space.costs(codes)["macs"] * 1e-5
    names = tuple(map(str, range(len(networks))))
    strangers = Table(names, ("x",), np.random.default_rng(1).gamma(2.0, 1.0, (len(names), 1)))
    result = few_shot(strangers, {name: float(truth[int(name)]) for name in names[:10]}, networks=networks)
    assert result.taken == ROOFLINE
    assert error(result, truth) < 0.05


def test_tables_come_from_frames_and_files(tmp_path: Path) -> None:
    whole = table(ALIKE)
    frame = pd.DataFrame(whole.latency_ms, index=list(NAMES), columns=list(ALIKE))
    frame.to_csv(tmp_path / "table.csv")
    for read in (Table.of(frame), Table.read(tmp_path / "table.csv")):
        assert (read.names, read.devices) == (whole.names, whole.devices)
        np.testing.assert_allclose(read.latency_ms, whole.latency_ms)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("net,a\nx,1\ny,fast\n", "cannot be read"),
        ("net,a,b\nx,1,2\ny,3\n", "cannot be read"),
        ("net,a\n", "is empty"),
        ("net,a\nx,1\ny,-2\n", "latency of 'y' on 'a' is not a positive number"),
        ("net,a\nx,1\nx,2\n", "architecture 'x' is in the table twice"),
        ("net,a,a\nx,1,2\n", "device 'a' is in the table twice"),
    ],
)
def test_bad_tables_are_told_in_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        Table.read(tmp_path / "table.csv")
    with pytest.raises(UsageError, match="cannot be read"):
        Table.read(tmp_path / "other.csv")
    with pytest.raises(UsageError, match="cannot be read"):
        Table.of([[1.0]])


@pytest.mark.parametrize(
    ("measured", "more", "message"),
    [
        ({"net-0": 1.0, "net-1": 1.0}, {}, "2 architectures are measured, and 3 are needed"),
        ({"net-0": 1.0, "net-1": 0.0, "net-2": 1.0}, {}, "not a positive number"),
        ({"net-0": 1.0, "net": 1.0, "net-2": 1.0}, {}, "no architecture 'net', which was measured"),
        ({"net-0": 1.0, "net-1": 1.0, "net-2": 1.0}, {"work": WORK[:5]}, "and 5 are described"),
        ({"net-0": 1.0, "net-1": 1.0, "net-2": 1.0}, {"work": -WORK}, "numbers that are not negative"),
        ({"net-0": 1.0, "net-1": 1.0, "net-2": 1.0}, {"networks": [[]]}, "and 1 are described"),
    ],
)
def test_bad_input_is_told_in_one_sentence(
    measured: dict[str, float], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        few_shot(table(ALIKE), measured, **more)
