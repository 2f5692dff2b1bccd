"""The start page: what is shown of jobs, and which of them an address chooses."""

import base64
import json
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from dash import dcc
from dash.development.base_component import Component
from filled_store import failed_job, finished_job

from dashboards.addresses import Query
from dashboards.home.choice import chosen_jobs, facets, groups
from dashboards.home.page import board_view, sparkline
from nas.results.running.board import BOARD, board
from nas.store import NewEvent, NewJob, Store, Submission

PLAIN: dict[str, Any] = dict.fromkeys(BOARD) | {
    **{"live": False, "evaluations": 7, "tags": (), "priority": 0, "metric": "accuracy", "curve": ()},
    "created_at": pd.Timestamp("2026-11-30"),
}


def made(*rows: dict[str, Any]) -> pd.DataFrame:
    """A board with these rows, the newest first."""
    whole = [PLAIN | {"id": i, "name": f"j{i}", "shown": "succeeded"} | row for i, row in enumerate(rows, 1)]
    return pd.DataFrame(whole, columns=BOARD, dtype=object)


BOARD_OF_FOUR = made(
    {
        "name": "pets",
        "family": "matformer",
        "data": "flowers",
        "tags": ("paper",),
        "best": 0.7,
        "seconds": 9.0,
    },
    {"name": "Cats", "family": "matformer, turbovit", "data": "digits", "note": "for Pets", "sweep": "lr"},
    {"name": "dogs", "family": "turbovit", "shown": "failed", "error": "No data.\nAt all.", "sweep": "lr"},
    {"name": "birds", "family": "turbovit", "tags": ("paper", "old"), "best": 0.9, "sweep": "lr"},
)


def names(search: str) -> list[str]:
    return list(chosen_jobs(BOARD_OF_FOUR, Query.read(search))["name"])


def test_an_address_searches_filters_and_orders() -> None:
    assert names("") == ["pets", "Cats", "dogs", "birds"]
    assert names("?q=PETS") == ["pets", "Cats"]
    assert names("?q=pets+digits") == ["Cats"]
    assert names("?family=turbovit") == ["Cats", "dogs", "birds"]
    assert names("?family=turbovit&state=succeeded") == ["Cats", "birds"]
    assert names("?tag=old&tag=none") == ["birds"]
    assert names("?data=elsewhere") == []
    assert names("?sort=name") == ["birds", "Cats", "dogs", "pets"]
    assert names("?sort=best")[:2] == ["birds", "pets"]
    assert names("?sort=time")[0] == "pets"


def test_a_smaller_quality_may_be_the_better_one() -> None:
    rows = made({"metric": "bits_per_byte", "best": 2.0}, {"metric": "bits_per_byte", "best": 1.5})
    assert list(chosen_jobs(rows, Query.read("?sort=best"))["best"]) == [1.5, 2.0]


def test_a_facet_counts_the_jobs_that_the_others_leave() -> None:
    listed = facets(BOARD_OF_FOUR, Query.read("?tag=paper&family=matformer"))
    assert [(one.value, one.count, one.is_chosen) for one in listed["family"]] == [
        ("matformer", 1, True),
        ("turbovit", 1, False),
    ]
    assert [(one.value, one.count) for one in listed["tag"]] == [("paper", 1)]


def test_jobs_are_grouped_by_their_sweep() -> None:
    grouped = groups(BOARD_OF_FOUR, by_sweep=True)
    assert [(name, list(rows["name"])) for name, rows in grouped] == [
        ("", ["pets"]),
        ("lr", ["Cats", "dogs", "birds"]),
    ]
    text = told(board_view(BOARD_OF_FOUR, Query.read("?group=sweep")))
    assert "Sweep lr: " in text
    assert "best accuracy 90.0 %" in text


def told(components: Any) -> str:
    return json.dumps(components, default=lambda part: part.to_plotly_json(), ensure_ascii=False)


def links(components: list[Component]) -> dict[str, str]:
    """The addresses of all links by their words."""
    return {
        told(link.children): link.href
        for part in components
        for link in part._traverse()
        if isinstance(link, dcc.Link)
    }


def test_selected_jobs_lead_to_their_comparison() -> None:
    picked = board_view(BOARD_OF_FOUR, Query.read("?pick=4&state=succeeded&pick=2&pick=99"))
    assert "2 selected: birds, Cats. " in told(picked)
    assert links(picked)['"Compare them"'] == "/compare?job=4&job=2"
    assert links(picked)['"Select none"'] == "?state=succeeded"
    alone = board_view(BOARD_OF_FOUR, Query.read("?pick=4"))
    assert '"Compare them"' not in links(alone)
    assert "Select another one" in told(alone)


def test_notes_can_be_written_by_whoever_may() -> None:
    text = told(board_view(BOARD_OF_FOUR, Query(), may_write=True))
    assert "/job/pets?edit=remarks" in text
    assert "edit=remarks" not in told(board_view(BOARD_OF_FOUR, Query()))
    assert "No data." in text
    assert "At all." not in text


def test_an_empty_store_says_how_to_begin() -> None:
    text = told(board_view(made(), Query()))
    assert text.count("nas ") == 3
    assert "nas run job.yaml" in text


def test_long_lists_are_cut_and_say_so() -> None:
    text = told(board_view(made(*[{}] * 230), Query()))
    assert "200 of 230 are shown" in text
    assert '"/job/j200"' in text
    assert '"/job/j201"' not in text


def test_long_names_are_cut_and_told_in_full() -> None:
    name = f"{'a-very-long-name-' * 8}-1"
    parts = board_view(made({"name": name}), Query())
    link = next(one for part in parts for one in part._traverse() if getattr(one, "title", None) == name)
    assert len(link.children) == 40
    assert link.href == f"/job/{name}"


def test_a_sparkline_rises_from_the_bottom_to_the_top() -> None:
    svg = base64.b64decode(sparkline([0.1, 0.2, 0.5]).partition(",")[2]).decode()
    points = [tuple(map(float, one.split(","))) for one in svg.split('points="')[1].split('"')[0].split()]
    assert points[0] == (0.0, 29.0)
    assert points[-1] == (140.0, 3.0)
    assert points[1][1] == pytest.approx(29 - 26 / 4, abs=0.06)
    assert "nan" not in sparkline([0.3, 0.3])


def test_the_board_of_a_store(store_url: str) -> None:
    with Store.open(store_url) as store:
        finished_job(store, "done", count=20)
        store.set_tags(store.job("done"), ["paper"])
        failed_job(store, "broken", "Why not.")
        waiting = NewJob(
            "waits",
            "waits",
            {"config": {"data": {"name": "digits"}}, "seed": 0, "provenance": {}},
            Submission(),
        )
        store.submit([waiting])
        config = {"search": {"evaluations": 200}, "supernets": [{"family": "a"}, {"family": "b"}]}
        lease = store.acquire(store.create_job("runs", config=config, seed=0, provenance={}))
        store.begin_stage(lease, "search", "key")
        steps = range(1, 131)
        curve = [NewEvent("hypervolume", {"hypervolume": n / 200}, stage="search", step=n) for n in steps]
        store.add_events(lease, curve)
        rows = board(store).set_index("name")
        store_best = max(e.value or 0 for e in store.evaluations(store.job("done"), "report"))
        lost = interrupted(store)
    assert list(rows.index) == ["runs", "waits", "broken", "done"]
    runs, waits, broken, done = (rows.loc[name] for name in rows.index)
    assert (runs["shown"], runs["family"], runs["words"]) == ("running", "a, b", "search, 130 of 200 subnets")
    assert runs["share"] == 0.65
    assert runs["curve"][-1] == 0.65
    assert len(runs["curve"]) == 44
    assert list(runs["curve"]) == sorted(runs["curve"])
    assert (waits["position"], waits["data"], waits["reason"]) == (1, "digits", "no worker runs")
    assert (broken["shown"], broken["best"], broken["family"]) == ("failed", None, "matformer")
    assert (done["best"], done["tags"], done["family"]) == (store_best, ("paper",), "matformer")
    assert lost == "interrupted"


def interrupted(store: Store) -> str:
    """How a job is shown whose process is gone."""
    with store.write() as connection:
        connection.execute(sa.text("UPDATE jobs SET lease_until = 0"))
    return str(board(store).set_index("name").loc["runs", "shown"])


def test_an_address_is_read_changed_and_written_again() -> None:
    query = Query.read("?a=1&b=x%26y&a=2&c=")
    assert query.pairs == (("a", "1"), ("b", "x&y"), ("a", "2"))
    assert query.replaced("a", 3).text == "?a=3&b=x%26y"
    assert query.toggled("a", 1).text == "?a=2&b=x%26y"
    assert query.toggled("b", "z").all("b") == ("x&y", "z")
    assert Query.read(query.text) == Query(query.pairs)
    assert [Query.read(f"?n={n}").number("n") for n in ("1e3", "nan", "inf", "x", "")] == [
        1000,
        None,
        None,
        None,
        None,
    ]
    assert Query.read("&".join(["a=1"] * 5000)) == Query()
