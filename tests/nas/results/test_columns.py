"""What a front tells is declared once: what is added there, or taken away, is so in every view."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from filled_store import finished_job, measured_job
from plotly.utils import PlotlyJSONEncoder

from dashboards import pages
from dashboards.figures import front_figure
from dashboards.figures.look import cell
from dashboards.job import panel
from nas.cli import fronts, main
from nas.results import columns, frames, job_devices
from nas.results.columns import COLUMNS, Column, Kind, View, at, columns_of, document, is_known
from nas.results.members import Member
from nas.store import Store
from nas.store import tables as t

VALUES: dict[Kind, Any] = {
    Kind.TEXT: "some",
    Kind.SUBNET: "k3f9",
    Kind.DEVICE: "lab",
    Kind.ARCHITECTURE: {"depth": 2},
    Kind.COUNT: 1_234_567,
    Kind.BYTES: 3 * 2**20,
    Kind.NUMBER: 0.1234,
    Kind.QUALITY: 0.75,
    Kind.SHARE: 0.75,
    Kind.DIFFERENCE: -0.02,
    Kind.LATENCY: 2.5,
    Kind.PREDICTION: 2.5,
    Kind.INTERVAL: (2.0, 3.0),
}
EVERYWHERE = dict.fromkeys((str(view) for view in View), 95)


def made(key: str, kind: Kind = Kind.COUNT, read: Callable[[Any], Any] | None = None) -> Column:
    """A column of which nobody knows, in every view."""
    places = at(**EVERYWHERE | {"hover": (95, f"{key} {{value}}")})
    return Column(key, f"{key} in words", kind, places, unit="mJ", read=read)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}") as opened:
        finished_job(opened, "first", count=20)
        measured_job(opened, "on-two")
        yield opened


def views_of(store: Store, capsys: pytest.CaptureFixture[str]) -> dict[View, str]:
    """Each view of the front of `first` as text."""
    printed = {}
    for view, flag in ((View.TABLE, []), (View.CSV, ["--csv"]), (View.JSON, ["--json"])):
        capsys.readouterr()
        assert main(["front", "first", "--quiet", "--store", store.url, *flag]) == 0
        printed[view] = capsys.readouterr().out
    finalists = frames.finalists(store, store.job("first"))
    facts = panel.subnet_facts(store, store.job("first"), finalists["subnet"][0])
    assert facts is not None
    shown = {
        View.PAGE: pages.front_table(finalists).to_plotly_json(),
        View.HOVER: [trace.hovertext for trace in front_figure(finalists).data],
        View.PANEL: facts.figures,
    }
    return printed | {view: json.dumps(part, cls=PlotlyJSONEncoder) for view, part in shown.items()}


def test_a_column_that_is_added_appears_everywhere(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = views_of(store, capsys)
    density = made("density", read=lambda row: 1000 * row["macs"] / row["params"])
    monkeypatch.setattr(columns, "COLUMNS", (*COLUMNS, density))
    after = views_of(store, capsys)
    names = {View.TABLE: "DENSITY", View.CSV: ",density", View.JSON: '"density": ', View.HOVER: "density "}
    names |= {View.PAGE: '"Density in words"', View.PANEL: '"density in words"'}
    assert set(names) == set(View)
    for view, name in names.items():
        assert name not in before[view], view
        assert name in after[view], view
    entry = json.loads(after[View.JSON])["front"][0]
    assert entry["density"] == 1000 * entry["macs"] / entry["params"]
    row = next(csv.DictReader(io.StringIO(after[View.CSV])))
    assert float(row["density"]) == entry["density"]
    value = columns_value(after[View.TABLE], "DENSITY")
    assert value == cell(density, entry)
    for view in (View.PAGE, View.HOVER, View.PANEL):
        assert value in after[view], view


def columns_value(table: str, name: str) -> str:
    """What the first row of a printed table has at the end of the column."""
    head, first = table.splitlines()[:2]
    end = head.index(name) + len(name)
    return " ".join(first[:end].split()[-2:])


@pytest.mark.parametrize("key", ["macs", "predicted_ms"])
def test_a_column_that_is_taken_away_disappears_everywhere(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    (column,) = [column for column in COLUMNS if column.key == key]
    row: dict[str, Any] = frames.finalists(store, store.job("first")).to_dict("records")[0]
    before = views_of(store, capsys)
    monkeypatch.setattr(columns, "COLUMNS", tuple(other for other in COLUMNS if other is not column))
    after = views_of(store, capsys)
    for view in column.views:
        name = column.called(view, value=cell(column, row))
        if view is View.TABLE:
            name = name.upper().replace("_", " ")
        elif view is View.PAGE:
            name = name[0].upper() + name[1:]
        elif view is View.JSON:
            name = f'"{name.split(".")[-1]}"'
        name = name if view in (View.TABLE, View.CSV, View.JSON) else json.dumps(name)[1:-1]
        assert name in before[view], view
        assert name not in after[view], view


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
def test_every_view_has_a_form_for_every_kind(kind: Kind) -> None:
    column, row = made("x", kind), {"metric": "accuracy", "x": VALUES[kind]}
    texts = [fronts.cell(column, row, None), cell(column, row)]
    assert all(isinstance(text, str) and text not in ("", "–") for text in texts)
    for missing in (None, float("nan")):
        row["x"] = missing
        assert fronts.cell(column, row, None) is None
        assert cell(column, row) == "–"


def test_keys_and_places_are_there_once() -> None:
    assert max(Counter(column.key for column in COLUMNS).values()) == 1
    for view in View:
        shown = [column for column in COLUMNS if view in column.views]
        assert len(shown) >= 6, view
        for many in (
            Counter(column.views[view].place for column in shown),
            Counter(column.called(view, metric="m", choice="c") for column in shown),
        ):
            assert max(many.values()) == 1, (view, many)


def test_csv_has_every_field_of_a_member_in_its_order() -> None:
    told = {"qualities": ["accuracy", "balanced_accuracy"], "on_devices": [], "tokens_a_run": []}
    where_there_is_such_a_thing = [*frames.ON_DEVICE, *frames.DRAFT, "by_device", "precision"]
    told |= {name: [] for name in where_there_is_such_a_thing}
    names = [name for field in fields(Member) for name in told.get(field.name, [field.name])]
    assert [column.key for column in columns_of(View.CSV, [])] == names


def test_what_is_optional_is_there_where_it_is_known_or_wanted() -> None:
    rows: list[dict[str, Any]] = [{"finetuned": None}, {"finetuned": float("nan")}]
    assert "finetuned" not in [column.key for column in columns_of(View.PAGE, rows)]
    rows.append({"finetuned": 0.5})
    assert "finetuned" in [column.key for column in columns_of(View.PAGE, rows)]
    assert "job" not in [column.key for column in columns_of(View.TABLE, rows)]
    assert columns_of(View.TABLE, rows, chosen=("job",))[0].key == "job"
    assert not is_known(float("nan"))
    assert is_known(0)


def test_a_document_has_an_object_for_each_part_of_a_path() -> None:
    row = {"metric": "accuracy", "quality": 0.5, "balanced_accuracy": 0.4, "accuracy": 0.5, "on_devices": ()}
    row |= {"scratch": 0.6}
    whole = document(row)
    assert whole["quality"] == {"metric": "accuracy", "value": 0.5, "stderr": None, "balanced_accuracy": 0.4}
    assert whole["retrained"] == {"scratch": {"value": 0.6, "stderr": None}}
    assert "latencies" not in whole


def test_language_models_are_told_in_tokens_a_second(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*words: str) -> str:
        capsys.readouterr()
        assert main([*words, "--quiet", "--store", store.url]) == 0
        return capsys.readouterr().out

    assert "TOKENS/S" not in told("front", "first")
    assert "tokens" not in told("show", "first") + told("show", "first", "--json")
    assert "tokens_per_s" not in told("front", "first", "--json") + told("front", "first", "--csv")
    before = store.job("first")
    for workload, tokens in (({"decode": {"context": 64}}, 4), ({"prefill": 64}, 4 * 64)):
        device = next(row for row in store.devices() if row.id == job_devices.own_device(store, before))
        fingerprint = device.fingerprint | {"workload": workload, "batch": 4}
        with store.write() as connection:
            connection.execute(
                t.devices.update().where(t.devices.c.id == device.id).values(fingerprint=fingerprint)
            )
        assert "TOKENS/S" in told("front", "first")
        members = json.loads(told("front", "first", "--json"))["front"]
        speeds = [1000 * tokens / one["latency"]["measured_ms"] for one in members]
        assert [one["latency"]["tokens_per_s"] for one in members] == [round(s, 1) for s in speeds]
        rows = list(csv.DictReader(io.StringIO(told("front", "first", "--csv"))))
        assert [float(row["tokens_per_s"]) for row in rows] == [round(s, 1) for s in speeds]
        shown = json.loads(told("show", "first", "--json"))["tokens_per_s"]
        assert [(one["least"], one["most"]) for one in shown] == [
            (round(min(speeds), 1), round(max(speeds), 1))
        ]
        assert "tokens/s" in told("show", "first")
        finalists = frames.finalists(store, before)
        assert "tokens a second" in json.dumps(
            [trace.hovertext for trace in front_figure(finalists).data], cls=PlotlyJSONEncoder
        )
        facts = panel.subnet_facts(store, before, finalists["subnet"][0])
        assert facts is not None
        assert "tokens a second" in dict(facts.figures)
