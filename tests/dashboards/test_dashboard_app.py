"""The dashboard without a browser: pages, callbacks through HTTP, and what it refuses."""

import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pandas as pd
import pytest
import sqlalchemy as sa
from filled_store import HOSTILE, finished_job
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from dashboards import pages
from dashboards.app import chosen, chosen_device, create_app, job_parts, listen, page, serve
from dashboards.job import panel
from nas.errors import ConflictError, StoreError
from nas.results import frames
from nas.results.running.stage_progress import StageProgress
from nas.store import Store, default_url
from search_spaces.errors import UsageError

HOST = {"Host": "127.0.0.1:8050"}
FILL = (
    "front.figure job-head.children front-table.children hypervolume.figure predicted.figure training.figure"
    " generator.children"
)


@pytest.fixture(scope="module")
def client(filled_url: str) -> FlaskClient:
    return create_app(filled_url).server.test_client()


@pytest.fixture
def store(filled_url: str) -> Any:
    with Store.open(filled_url, read_only=True) as opened:
        yield opened


def prop(name: str, value: Any = None) -> dict[str, Any]:
    of, _, what = name.partition(".")
    return {"id": of, "property": what, "value": value}


def update(
    client: FlaskClient, output: str, inputs: dict[str, Any], *, state: Any = None, changed: str = ""
) -> TestResponse:
    """What the page in a browser sends when an input of a callback changes."""
    names = output.split()
    outputs = [{"id": name.partition(".")[0], "property": name.partition(".")[2]} for name in names]
    body = {
        "output": names[0] if len(names) == 1 else f"..{'...'.join(names)}..",
        "outputs": outputs[0] if len(names) == 1 else outputs,
        "inputs": [prop(name, value) for name, value in inputs.items()],
        "state": [prop(name, value) for name, value in (state or {}).items()],
        "changedPropIds": [changed] if changed else [],
    }
    return client.post("/_dash-update-component", json=body, headers=HOST)


def words(components: Any) -> str:
    """All text of Dash components."""
    return json.dumps(components, default=lambda part: part.to_plotly_json(), ensure_ascii=False)


def test_the_shell_loads_nothing_from_elsewhere(client: FlaskClient) -> None:
    answer = client.get("/", headers=HOST)
    text = answer.get_data(as_text=True)
    assert answer.status_code == 200
    assert "assets/elastiform.css" in text
    assert 'src="//' not in text
    assert "http://" not in text
    assert "https://" not in text


def test_the_list_of_jobs(client: FlaskClient) -> None:
    answer = update(client, "jobs.children", {"jobs-clock.n_intervals": 0, "url.search": ""})
    text = answer.get_data(as_text=True)
    assert [name in text for name in ("digit-pairs", "waiting", "succeeded", "failed", "queued")] == [
        True
    ] * 5
    assert "onerror" in text
    none = update(client, "jobs.children", {"jobs-clock.n_intervals": 0, "url.search": "?q=nothing+such"})
    assert "No job is like that" in none.get_data(as_text=True)


def test_links_lead_to_the_jobs(store: Store) -> None:
    for job in store.jobs():
        link = pages.job_link(job.id, job.name)
        assert quote(unquote(link)) == quote(f"/job/{job.name}")
        assert f'"data": {job.id}' in words(page(store, link))
    assert pages.job_link(7, "..") == "/job/7"


def test_every_path_has_a_page(client: FlaskClient) -> None:
    def shown(path: str) -> str:
        inputs, state = {"url.pathname": path}, {"url.search": ""}
        answer = update(client, "page.children", inputs, state=state, changed="url.pathname")
        return json.dumps(answer.get_json()["response"]["page"]["children"])

    assert "jobs-clock" in shown("/")
    assert "job-clock" in shown("/job/digit-pairs")
    assert "No such page" in shown("/elsewhere")
    assert "No such page" in shown("/job/")
    missing = shown("/job/digit-pears")
    assert "No such job" in missing
    assert "Did you mean 'digit-pairs'?" in missing
    assert '"href": "/"' in missing


def fill(client: FlaskClient, job_id: int, **how: Any) -> dict[str, Any]:
    inputs = {"job-clock.n_intervals": 0, "url.search": how.get("search", ""), "front-view.data": None}
    outputs = f"{FILL} job-clock.disabled"
    answer = update(client, outputs, inputs, state={"job.data": job_id}, changed=how.get("changed", ""))
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return answer.get_json()["response"]


def test_a_finished_job_is_shown_in_full(client: FlaskClient, store: Store) -> None:
    job = store.job("digit-pairs")
    parts = fill(client, job.id)
    finalists = frames.finalists(store, job)
    front = next(t for t in parts["front"]["figure"]["data"] if "front" in t.get("name", ""))
    assert set(front["customdata"]) <= set(finalists["subnet"])
    assert all(key in words(parts["front-table"]["children"]) for key in front["customdata"])
    assert all(parts[name]["figure"]["data"] for name in ("hypervolume", "predicted", "training"))
    assert parts["job-clock"]["disabled"] is True


def test_only_a_job_with_a_generator_shows_its_curve(client: FlaskClient, store: Store) -> None:
    (shown,) = fill(client, store.job("generated").id)["generator"]["children"]
    best, rate = shown["props"]["children"]["props"]["figure"]["data"]
    assert best["x"] == rate["x"] == [0, 10, 20, 30, 40]
    for without in ("digit-pairs", "waiting"):
        assert fill(client, store.job(without).id)["generator"]["children"] == []


def test_choosing_a_subnet_draws_a_ring_and_nothing_else(client: FlaskClient, store: Store) -> None:
    job = store.job("digit-pairs")
    key = frames.finalists(store, job)["subnet"].iloc[0]
    parts = fill(client, job.id, search=f"?subnet={key}", changed="url.search")
    assert list(parts) == ["front"]
    assert parts["front"]["figure"]["data"][-1]["name"] == "selected"


def test_a_job_without_a_front_says_so(client: FlaskClient, store: Store) -> None:
    parts = fill(client, store.job("waiting").id)
    assert parts["job-clock"]["disabled"] is False
    assert "no front yet" in words(parts["front-table"]["children"])
    assert parts["front"]["figure"]["layout"]["annotations"][0]["text"] == "No subnet has been evaluated yet."
    assert "No subnet yet" in words(panel.hint(store, store.job("waiting")))
    assert "Choose a subnet" in words(panel.hint(store, store.job("digit-pairs")))


def test_a_failed_job_shows_its_error(store: Store) -> None:
    head = words(job_parts(store, store.job(HOSTILE).id)[0])
    assert "The loss became <b>NaN</b> at step 120." in head
    assert "failed" in head


def test_an_interrupted_job_names_the_command(store_url: str) -> None:
    with Store.open(store_url) as store:
        job = store.create_job("it's", config={}, seed=0, provenance={})
        lease = store.acquire(job)
        assert "interrupted" not in words(job_parts(store, job.id)[0])
        with store.write() as connection:
            connection.execute(sa.text("UPDATE jobs SET lease_until = 0"))
        head = words(job_parts(store, job.id)[0])
        assert lease.job.name == "it's"
    assert "interrupted" in head
    assert """nas resume 'it'\\"'\\"'s'""" in head


def test_a_click_puts_the_subnet_into_the_address(client: FlaskClient) -> None:
    def click(value: Any, before: str = "") -> TestResponse:
        inputs, state = {"front.clickData": value}, {"url.search": before}
        return update(client, "url.search", inputs, state=state, changed="front.clickData")

    answer = click({"points": [{"customdata": "a b&c"}]})
    search = answer.get_json()["response"]["url"]["search"]
    assert chosen(search) == "a b&c"
    assert chosen_device(search) is None
    kept = click({"points": [{"customdata": "k"}]}, "?device=2&subnet=j").get_json()["response"]["url"]
    assert (chosen(kept["search"]), chosen_device(kept["search"])) == ("k", 2)
    assert [click(value).status_code for value in (None, {"points": []}, {"points": [{"x": 1}]})] == [204] * 3


def show_panel(client: FlaskClient, job_id: int, search: str) -> str:
    inputs = {"url.search": search, "job.data": job_id}
    answer = update(client, "panel.children", inputs, changed="url.search")
    return json.dumps(answer.get_json()["response"]["panel"]["children"], ensure_ascii=False)


def test_the_panel_of_a_finalist(client: FlaskClient, store: Store, filled_url: str) -> None:
    job = store.job("digit-pairs")
    row = frames.finalists(store, job).iloc[0]
    text = show_panel(client, job.id, f"?subnet={row.subnet}")
    assert f"nas extract digit-pairs --subnet {row.subnet} -o {row.subnet} --store {filled_url}" in text
    assert f"{100 * row.quality:.1f} ± 0.8 %" in text
    assert f"{row.measured_ms:.3f} ± {row.spread_ms:.3f} ms" in text
    assert f"({row.params:,})" in text
    assert "embed_dim" in text
    assert "blocks.0" in text


def test_the_panel_of_a_subnet_that_only_the_search_saw(client: FlaskClient, store: Store) -> None:
    job = store.job("digit-pairs")
    seen = set(frames.evaluations(store, job)["subnet"]) - set(frames.finalists(store, job)["subnet"])
    text = show_panel(client, job.id, f"?subnet={seen.pop()}")
    assert "Seen by the search only" in text
    assert "measured" not in text.replace("neither measured", "")
    assert "No such subnet" in show_panel(client, job.id, "?subnet=nobody")


def test_the_panel_of_a_probed_subnet_shows_its_reactions(client: FlaskClient, store: Store) -> None:
    job = store.job("generated")
    (probed,) = frames.events(store, job, "probe")["subnet"]
    others = set(frames.finalists(store, job)["subnet"]) - {probed}
    assert "Rise of the loss without each block" in show_panel(client, job.id, f"?subnet={probed}")
    other = show_panel(client, job.id, f"?subnet={others.pop()}")
    assert "Layers by block" in other
    assert "Rise of the loss" not in other


def test_a_space_that_cannot_be_built_costs_only_the_layers(store_url: str) -> None:
    with Store.open(store_url) as store:
        key = finished_job(store, "j", count=15)[0].subnet.key
        with store.write() as connection:
            broken = '{"space": {"family": "somebodys.module", "options": {}}}'
            connection.execute(sa.text("UPDATE stages SET result = :r WHERE name = 'space'"), {"r": broken})
        text = words(panel.subnet_panel(store, store.job("j"), key))
    assert "The layers cannot be shown. The stored search space names the module 'somebodys.module'" in text
    assert "nas extract j" in text


def test_the_extract_command_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    assert panel.extract_command("j", "k3", url=default_url()) == "nas extract j --subnet k3 -o k3"
    hostile = panel.extract_command("a'; rm -rf ~", "k3", url=default_url())
    assert hostile == """nas extract 'a'"'"'; rm -rf ~' --subnet k3 -o k3"""
    secret = panel.extract_command("j", "k3", url="postgresql://me:secret@db/nas")
    assert "secret" not in secret
    assert secret.endswith("--store 'postgresql://me:***@db/nas'")


def test_durations() -> None:
    assert [pages.duration(s) for s in (None, float("nan"), 59.4, 65, 7830)] == [
        "–", "–", "59 s", "1 min 05 s", "2 h 10 min",
    ]  # fmt: skip


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8050", "localhost:1", "LOCALHOST", "[::1]:8050"])
def test_own_hosts_are_answered(client: FlaskClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "127.0.0.2",
        "127.0.0.1:8050@x",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/", "/_dash-layout", "/assets/elastiform.css"])
def test_forged_hosts_are_refused(client: FlaskClient, host: str, path: str) -> None:
    assert client.get(path, headers={"Host": host}).status_code == 403


def test_headers_forbid_everything_from_elsewhere(client: FlaskClient) -> None:
    headers = client.get("/", headers=HOST).headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["connect-src"] == "'self'"
    scripts = policy["script-src"].split()
    assert scripts[0] == "'self'"
    assert all(script.startswith("'sha256-") for script in scripts[1:])
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_only_way_to_post_is_the_callback(filled_url: str) -> None:
    app = create_app(filled_url)
    rules = app.server.url_map.iter_rules()
    assert {rule.rule for rule in rules if set(rule.methods or ()) - {"GET", "HEAD", "OPTIONS"}} == {
        "/_dash-update-component"
    }
    assert not app.server.debug


def test_the_store_is_not_changed(client: FlaskClient, filled_url: str, store: Store) -> None:
    file = Path(filled_url.removeprefix("sqlite:///"))
    before = (file.read_bytes(), file.stat().st_mtime_ns)
    for job in store.jobs():
        fill(client, job.id)
        show_panel(client, job.id, "?subnet=x")
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    with pytest.raises(StoreError), store.read() as connection:
        connection.execute(sa.text("DELETE FROM jobs"))


def test_a_broken_store_leaves_the_page_as_it_is(client: FlaskClient) -> None:
    answer = update(
        client, "panel.children", {"url.search": "?subnet=x", "job.data": 999}, changed="url.search"
    )
    assert (answer.status_code, answer.get_data()) in [(200, b'{"multi":true,"response":{}}'), (204, b"")]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", ""])
def test_other_hosts_cannot_be_listened_on(filled_url: str, host: str) -> None:
    with pytest.raises(UsageError, match="has no login"):
        serve(filled_url, host=host)


def test_bad_ports_and_stores_are_one_sentence(filled_url: str, store_url: str, capfd: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(
            ConflictError, match=r"Port \d+ of 127\.0\.0\.1 cannot be used: Address already in use\."
        ):
            serve(filled_url, port=taken.getsockname()[1])
    with pytest.raises(UsageError, match="70000 is not a port"):
        serve(filled_url, port=70_000)
    with pytest.raises(StoreError, match="does not exist"):
        serve(store_url)
    assert capfd.readouterr() == ("", "")


def test_the_server_answers_and_prints_nothing(filled_url: str, capfd: Any) -> None:
    server = listen(filled_url, port=0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/") as answer:
            assert answer.status == 200
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert capfd.readouterr() == ("", "")


def test_settings_of_the_environment_open_no_door(filled_url: str) -> None:
    environment = os.environ | {
        "DASH_MCP_ENABLED": "true",
        "DASH_URL_BASE_PATHNAME": "/x/",
        "DASH_DEBUG": "1",
    }
    code = (
        "import sys; from dashboards.app import create_app; app = create_app(sys.argv[1]);"
        "rules = [rule.rule for rule in app.server.url_map.iter_rules()];"
        "print([rule for rule in rules if 'mcp' in rule or rule.startswith('/x')])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, filled_url], env=environment, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "[]"), ran.stderr


def test_a_job_whose_name_is_a_number_has_its_own_page(store_url: str) -> None:
    with Store.open(store_url) as store:
        first = store.create_job("2", config={}, seed=0, provenance={})
        second = store.create_job("b", config={}, seed=0, provenance={})
        assert pages.job_link(first.id, "2") == "/job/1"
        for job in (first, second):
            assert f'"data": {job.id}' in words(page(store, pages.job_link(job.id, job.name)))


def test_the_head_of_a_job_tells_step_time_left_and_what_speaks_against_its_front(store_url: str) -> None:
    with Store.open(store_url) as store:
        finished_job(store, "a", count=20)
        row = frames.jobs(store).to_dict("records")[0]
        progress = StageProgress("search", 48, 200, "subnets", 720.0)
        told = {"progress": progress, "cautions": ("The order is <b>noise</b>.",)}
        head = words(pages.job_head(row, pd.DataFrame(), **told))
        assert "stage search, 48 of 200 subnets, about 12 min 00 s left" in head
        assert "The order is <b>noise</b>." in head
        with store.acquire(store.job("a")) as lease:
            store.begin_stage(lease, "finalists", "key")
            store.finish_stage(lease, "finalists", {"baseline": {"classes": 1, "examples": 1}})
            lease.finish("succeeded")
        head = words(job_parts(store, store.job("a").id)[0])
        assert "is not more than two standard errors above chance" in head
