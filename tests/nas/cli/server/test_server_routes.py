"""What the server answers: every document is that of a verb, every change what a verb would have done."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from filled_store import HOSTILE
from made_evaluations import evaluated_job
from serving import READ, WRITE, Served, served, submit

from nas.cli import main
from nas.cli.server.api.routes import ROUTES
from nas.cli.server.metrics import metrics
from nas.cli.server.tokens import Tokens
from nas.store import Store
from tests.test_import_time import HEAVY

# Addresses by the verbs whose documents they are.
DOCUMENTS = {
    "/api/jobs": ("ls",),
    "/api/jobs?tag=none": ("ls", "--tag", "none"),
    "/api/jobs/digit-pairs": ("show", "digit-pairs"),
    "/api/jobs/3": ("show", "on-two"),
    f"/api/jobs/{quote(HOSTILE, safe='')}": ("show", HOSTILE),
    "/api/jobs/first": ("show", "first"),
    "/api/jobs/1/config": ("show", "1", "--config"),
    "/api/jobs/digit-pairs/front": ("front", "digit-pairs"),
    "/api/jobs/on-two/front?device=lab": ("front", "on-two", "--device", "lab"),
    "/api/jobs/1/front?where=params%3C%3D20000&where=latency_ms%3C%3D3": (
        *("front", "1", "--where", "params<=20000", "--where", "latency_ms<=3"),
    ),
    "/api/front?job=digit-pairs&job=generated": ("front", "digit-pairs", "generated"),
    "/api/jobs/first/log": ("logs", "first"),
    "/api/supernets": ("supernets",),
    "/api/workers": ("workers",),
    "/api/jobs/digit-pairs/compare?other=generated": ("compare", "digit-pairs", "generated"),
    "/api/jobs/digit-pairs/compare?other=generated&reference=accuracy%3D0.2&reference=latency_ms%3D90": (
        *("compare", "digit-pairs", "generated"),
        *("--reference", "accuracy=0.2", "--reference", "latency_ms=90"),
    ),
}
# Of those that need no store, or one whose predictors are fitted.
OTHERS = ("/api/devices", "/api/spaces", "/api/spaces/1", "/api/jobs/1/explain", "/api/jobs/1/what-if")
QUERIES = {"fronts": "?job=1", "compare": "?other=1", "explain": "?subnet=a"}
BODIES: dict[str, Any] = {
    "submit": {"file": "data: [1"},
    "priority": {"priority": 1},
    "note": {"note": "x"},
    "tags": {"tags": ["x"]},
    "remove": {"keep_supernet": True},
    "extract": {"knee": True},
}


def address(route: Any, job: str = "1") -> str:
    return re.sub(r"<[^>]+>", job, route.path) + QUERIES.get(route.name, "")


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("path", DOCUMENTS)
def test_a_document_is_that_of_the_verb(
    path: str, quiet_team: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = quiet_team.ask(path, token=READ)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.document == printed(capsys, *DOCUMENTS[path], "--store", quiet_team.url)
    assert answer.headers["Cache-Control"] == "no-store"


def test_devices_are_those_of_the_store(quiet_team: Served, capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(capsys, "devices", "ls", "--store", quiet_team.url)
    assert quiet_team.ask("/api/devices", token=READ).document == {
        key: told[key] for key in ("devices", "agents")
    }


def test_spaces_are_those_of_the_verb(quiet_team: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert quiet_team.ask("/api/spaces", token=READ).document == printed(capsys, "spaces", "ls")
    told = quiet_team.ask("/api/spaces/matformer_vit_b16", token=READ).document
    assert told == printed(capsys, "spaces", "show", "matformer_vit_b16")


@pytest.mark.parametrize("name", ["tests.made_space", "os.path", "search_spaces.families.matformer"])
def test_a_space_is_no_module(name: str, quiet_team: Served) -> None:
    answer = quiet_team.ask(f"/api/spaces/{name}", token=READ)
    assert (answer.status, answer.document["hint"]) == (404, "/api/spaces lists them.")


def test_questions_to_a_finished_job(store_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Store.open(store_url) as store:
        one, other = [row.key for row in store.subnets(evaluated_job(store, "made"))][:2]
    limits = ("params<=60e3, latency_ms<=2", "accuracy,latency_ms")
    asked = urlencode({"limits": limits[0], "objectives": limits[1]})
    pairs = {
        f"/api/jobs/made/explain?subnet={one}": ("explain", "made", one),
        f"/api/jobs/made/explain?subnet={one}&other={other}": ("explain", "made", one, other),
        "/api/jobs/1/what-if": ("what-if", "1"),
        f"/api/jobs/1/what-if?{asked}": ("what-if", "1", "--limits", limits[0], "--objectives", limits[1]),
        "/api/jobs/1/what-if?limits=": ("what-if", "1", "--limits", ""),
    }
    with served(store_url, Tokens(READ, WRITE)) as one_server:
        for path, words in pairs.items():
            answer = one_server.ask(path, token=READ)
            assert answer.status == 200, answer.text
            assert answer.document == printed(capsys, *words, "--store", store_url)
        for wrong, status in (
            ("explain", 400),
            ("explain?subnet=zzz", 404),
            ("explain?subnet=%7B", 400),
            (f"explain?subnet={one}&device=pi", 404),
            ("what-if?limits=nonsense", 400),
            ("what-if?go=5", 400),
            ("compare?other=nobody", 404),
            ("compare?other=made&reference=x", 400),
        ):
            assert one_server.ask(f"/api/jobs/made/{wrong}", token=READ).status == status, wrong


def test_every_route_that_answers_with_a_document_is_compared() -> None:
    compared = {re.sub(r"\?.*", "", path) for path in (*DOCUMENTS, *OTHERS)}
    patterns = {
        route.path: re.compile(re.sub(r"<[^>]+>", "[^/]+", route.path))
        for route in ROUTES
        if route.verb is not None and not route.writes and route.name != "supernet"
    }
    assert [
        path for path, one in patterns.items() if not any(one.fullmatch(other) for other in compared)
    ] == []


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_route_with_and_without_tokens(route: Any, quiet_team: Served) -> None:
    def status(token: str | None, **headers: str) -> int:
        body = None if route.body is None else BODIES.get(route.name, {})
        path = address(route, "999999")
        return quiet_team.ask(path, method=route.method, token=token, body=body, **headers).status

    assert status(None) == 401
    assert status("wrong-" + "x" * 30) == 401
    assert status(READ[:-1]) == 401
    assert status(None, Authorization="Basic cmVhZDpyZWFk") == 401
    there = ("jobs", "supernets", "workers", "devices", "fronts", "spaces")
    assert status(READ) == (403 if route.writes else 200 if route.name in there else 404)
    if route.writes:
        assert status(WRITE) == (400 if route.name == "submit" else 404)


@pytest.mark.parametrize("path", ["/", "/job/1", "/metrics", "/_dash-layout", "/_dash-dependencies", "/api"])
def test_every_page_needs_a_token(path: str, quiet_team: Served) -> None:
    assert quiet_team.ask(path).status == 401
    assert quiet_team.ask(path, token=READ).status == 200
    assert quiet_team.ask(path, token=WRITE).status == 200
    asked = quiet_team.ask(f"{path}?x=1", Accept="text/html,*/*")
    assert (asked.status, asked.headers["Location"]) == (303, f"/login?next={quote(path, safe='')}%3Fx%3D1")


def test_what_is_open_to_everybody(quiet_team: Served) -> None:
    assert quiet_team.ask("/healthz").document == {"ok": True}
    assert quiet_team.ask("/login").status == 200
    assert quiet_team.ask("/favicon.ico").status == 204
    assert quiet_team.ask("/assets/elastiform.css").status == 200


@pytest.mark.parametrize(
    "path", ["/api/nothing", "/api/", "/api/jobs/1/2/3", "/api/jobs/nobody", "/api/jobs/99"]
)
def test_what_is_not_there_is_404_as_json(path: str, quiet_team: Served) -> None:
    answer = quiet_team.ask(path, token=READ)
    assert (answer.status, answer.headers["Content-Type"]) == (404, "application/json")
    assert answer.document["error"].startswith("There is no ")


def test_a_wrong_method_is_405(quiet_team: Served) -> None:
    assert quiet_team.ask("/api/jobs/1", method="DELETE", token=WRITE).status == 405
    assert quiet_team.ask("/api/jobs/1/stop", token=WRITE).status in (404, 405)


def test_on_loopback_without_a_token_everybody_reads_and_nobody_writes(used_url: str) -> None:
    with served(used_url, Tokens()) as alone:
        assert alone.ask("/api/jobs").status == 200
        refused = alone.ask("/api/jobs/first/stop", method="POST")
        assert (refused.status, refused.document["hint"]) == (
            403,
            "It was started without --write-token-file.",
        )
    with served(used_url, Tokens(write=WRITE)) as alone:
        assert alone.ask("/api/jobs/first/stop", method="POST").status == 403
        assert alone.post("/api/jobs/first/stop").status == 200


# -- changes --


def test_a_job_is_paused_resumed_moved_and_stopped(team: Served) -> None:
    place = team.post("/api/jobs/second/priority", {"priority": 9}).document
    assert [(one["job"], one["position"], one["priority"]) for one in place] == [("second", 1, 9)]
    paused = team.post("/api/jobs/second/pause").document
    assert "is paused" in paused["message"]
    (row,) = [row for row in team.ask("/api/jobs", token=READ).document if row["name"] == "second"]
    assert (row["state"], row["queue"]["paused"]) == ("stopped", True)
    (resumed,) = team.post("/api/jobs/second/resume", {}).document
    assert (resumed["state"], resumed["position"]) == ("queued", 1)
    again = team.post("/api/jobs/second/resume")
    assert (again.status, "cannot be queued again" in again.document["error"]) == (409, True)
    assert "out of the queue" in team.post("/api/jobs/6/stop").document["message"]
    with Store.open(team.url, read_only=True) as store:
        assert store.job("second").state == "stopped"
        assert [job.name for job in store.waiting()] == ["first"]


def test_a_job_that_runs_is_told_to_stop(team: Served) -> None:
    with (
        Store.open(team.url) as store,
        store.acquire(store.create_job("j", config={}, seed=0, provenance={})),
    ):
        assert "stops after its current batch" in team.post("/api/jobs/j/stop").document["message"]
        assert store.job("j").stop_requested


@pytest.mark.parametrize("verb", ["stop", "pause", "resume"])
def test_what_has_ended_cannot_be_stopped(verb: str, team: Served) -> None:
    answer = team.post(f"/api/jobs/digit-pairs/{verb}")
    assert answer.status == 409
    assert "(state: succeeded)" in answer.document["error"]


def test_a_job_is_deleted(team: Served) -> None:
    held = team.post("/api/jobs/digit-pairs/remove", {"keep_supernet": "yes"})
    assert held.status == 400
    gone = team.post("/api/jobs/digit-pairs/remove").document
    assert (gone["id"], gone["job"], gone["rows"] > 30) == (1, "digit-pairs", True)
    assert set(gone) == {"id", "job", "supernets", "rows", "files", "bytes"}
    assert team.post("/api/jobs/digit-pairs/remove").status == 404
    with (
        Store.open(team.url) as store,
        store.acquire(store.create_job("j", config={}, seed=0, provenance={})),
    ):
        refused = team.post("/api/jobs/j/remove")
        assert (refused.status, store.job("j").state) == (409, "running")


def test_notes_and_tags(team: Served) -> None:
    assert (
        team.post("/api/jobs/1/note", {"note": " a <b>note</b>\n2 "}).document["note"] == "a <b>note</b>\n2"
    )
    assert team.post("/api/jobs/1/tags", {"tags": ["paper", "best"]}).document["tags"] == ["best", "paper"]
    shown = team.ask("/api/jobs/1", token=READ).document
    assert (shown["note"], shown["tags"]) == ("a <b>note</b>\n2", ["best", "paper"])
    tagged = team.ask("/api/jobs?tag=best", token=READ).document
    assert [row["name"] for row in tagged] == ["digit-pairs"]
    assert team.post("/api/jobs/1/tags", {"tags": []}).document["tags"] == []
    assert team.post("/api/jobs/1/note", {"note": ""}).document["note"] is None
    assert team.post("/api/jobs/1/tags", {"tags": ["a b"]}).status == 400
    assert team.post("/api/jobs/1/note", {"note": "\x1b[31m"}).status == 400


def test_a_log_goes_on_after_a_line(team: Served) -> None:
    lines = team.ask("/api/jobs/first/log", token=READ).document
    assert [line["text"] for line in lines] == ["one", "two <b>", "three"]
    more = team.ask(f"/api/jobs/first/log?after={lines[1]['id']}", token=READ).document
    assert [line["text"] for line in more] == ["three"]


def test_over_either_database(any_url: str) -> None:
    with Store.open(any_url) as store:
        submit(store, "first", "second")
    with served(any_url, Tokens(READ, WRITE)) as one:
        assert [job["name"] for job in one.ask("/api/jobs", token=READ).document] == ["second", "first"]
        assert one.ask("/api/jobs/first%27%3B%20--", token=READ).status == 404
        assert one.ask("/api/jobs/first%00", token=READ).status == 404
        assert one.ask("/api/jobs/first/front?device=%00", token=READ).status == 400
        assert one.post("/api/jobs/second/priority", {"priority": 3}).document[0]["position"] == 1
        assert one.post("/api/jobs/first/tags", {"tags": ["a"]}).document["tags"] == ["a"]
        assert one.post("/api/jobs/first/note", {"note": "\ud800"}).status == 400
        assert 'elastiform_jobs{state="queued"} 2\n' in one.ask("/metrics", token=READ).text


# -- what describes the server --


def test_the_openapi_document_has_every_route(quiet_team: Served) -> None:
    document = quiet_team.ask("/api/openapi.json", token=READ).document
    told = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert told == {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route.path), route.method.lower()) for route in ROUTES
    }
    for path, methods in document["paths"].items():
        for operation in methods.values():
            in_path = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert in_path == set(re.findall(r"{(\w+)}", path))
    submit_schema = document["paths"]["/api/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert set(submit_schema["schema"]["properties"]) == {
        *("file", "name", "priority", "after", "needs", "key", "sweep"),
    }
    assert submit_schema["schema"]["required"] == ["file"]
    assert document["openapi"].startswith("3.1")
    text = json.dumps(document)
    assert all(f'"{name}"' in text for name in re.findall(r"#/components/schemas/(\w+)", text))


def test_the_page_has_every_route_and_fetches_nothing(quiet_team: Served) -> None:
    text = quiet_team.ask("/api", token=READ).text
    paths = [route.path.replace("int:", "").replace("<", "&lt;").replace(">", "&gt;") for route in ROUTES]
    assert all(f"<code>{path}</code>" in text for path in paths)
    assert "<script" not in text
    assert "//" not in text
    assert "<textarea" not in text  # only who is signed in to write gets forms


def test_metrics(team: Served) -> None:
    with Store.open(team.url) as store:
        claim = store.take_job()
        assert claim is not None
        store.note_worker(f"elsewhere:7:1.00:{'0' * 32}")
        text = team.ask("/metrics", token=READ).text
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        values = dict(line.rsplit(" ", 1) for line in lines)
        states = [job.state for job in store.jobs()]
        for state in ("queued", "running", "succeeded", "failed"):
            assert int(values[f'elastiform_jobs{{state="{state}"}}']) == states.count(state)
        assert states.count("running") == 1
        assert float(values["elastiform_queue_age_seconds"]) >= 0
        states_of_workers = {
            state: values[f'elastiform_workers{{state="{state}"}}'] for state in ("busy", "idle")
        }
        assert states_of_workers == {"busy": "1", "idle": "1"}
        (lease,) = [value for name, value in values.items() if name.startswith("elastiform_lease_age")]
        assert 0 <= float(lease) <= 30
        assert int(values["elastiform_evaluations"]) == sum(
            len(store.evaluations(job)) for job in store.jobs()
        )
        claim.give_back()
    assert re.fullmatch(r"(#.*\n|\w+({\w+=\"[^\"\n]*\"(,\w+=\"[^\"\n]*\")*})? [\d.e+-]+\n)+", text)


def test_a_label_cannot_break_the_text(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(store_url) as store:
        submit(store, "j")
        monkeypatch.setattr("nas.cli.server.metrics.whose", lambda owner: 'a"} 1\nother{x="\\')
        claim = store.take_job()
        assert claim is not None
        text = metrics(store)
        assert r'worker="a\"} 1\nother{x=\"\\"} ' in text
        claim.give_back()


def test_a_store_that_is_gone_is_503(used_url: str) -> None:
    file = Path(used_url.removeprefix("sqlite:///"))
    with served(used_url, Tokens(READ, WRITE)) as one:
        away = shutil.move(file, file.with_name("away.sqlite"))
        for path in ("/api/jobs", "/metrics", "/healthz", "/api/jobs/1/front"):
            assert one.ask(path, token=READ).status == 503, path
        assert one.post("/api/jobs/1/stop").status == 503
        assert "sqlite" not in one.ask("/healthz").text
        assert not file.exists()
        shutil.move(away, file)
        assert one.ask("/api/jobs", token=READ).status == 200


@pytest.mark.parametrize("stripped", [False, True])
def test_below_a_prefix(used_url: str, stripped: bool) -> None:
    """Whether the proxy in front strips it or not."""
    with served(used_url, Tokens(READ, WRITE), prefix="/nas") as one:
        before = "" if stripped else "/nas"

        def ask(path: str, **how: Any) -> Any:
            return Served(one.url, one.port, one.service, before).ask(path, **how)

        assert len(ask("/api/jobs", token=READ).document) == 6
        index = ask("/", token=READ).text
        assert "/nas/_dash-component-suites/" in index
        assert '"/_dash' not in index
        layout = json.dumps(ask("/_dash-layout", token=READ).document)
        links = re.findall(r'"href": "([^"]*)"', layout)
        assert links == ["#page", "/nas/", "/nas/", "/nas/devices", "/nas/api"]
        assert ask("/job/1", Accept="text/html").headers["Location"] == "/nas/login?next=%2Fjob%2F1"
        signed = ask("/login", method="POST", body=f"token={READ}".encode(), **FORM)
        assert signed.headers["Location"] == "/nas/"
        assert "; Path=/nas" in signed.headers["Set-Cookie"]
        assert ask("/api/openapi.json", token=READ).document["servers"] == [{"url": "/nas"}]
        page = {
            "output": "page.children",
            "outputs": {"id": "page", "property": "children"},
            "inputs": [{"id": "url", "property": "pathname", "value": "/nas/device/1"}],
            "state": [{"id": "url", "property": "search", "value": ""}],
            "changedPropIds": ["url.pathname"],
        }
        assert "device-head" in ask("/_dash-update-component", method="POST", token=READ, body=page).text


FORM = {"Content_Type": "application/x-www-form-urlencoded"}
LOADED = """
import sys
from dashboards.opened import OpenedStore
from nas.cli.server.app import application
from nas.cli.server.api.service import Service
from nas.cli.server.tokens import Tokens
url, *paths = sys.argv[1:]
client = application(Service(url, OpenedStore(url)), Tokens(), is_allowed=lambda host: True).test_client()
assert {client.get(path).status_code for path in paths} == {200}
print(*{name.split(".")[0] for name in sys.modules})
"""


def test_reading_loads_nothing_heavy(quiet_team: Served) -> None:
    paths = [*DOCUMENTS, "/api/devices", "/metrics", "/api", "/api/openapi.json"]
    code = [sys.executable, "-c", LOADED, quiet_team.url, *paths]
    ran = subprocess.run(code, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    names = set(ran.stdout.split())
    assert "flask" in names
    assert names & HEAVY == set()
