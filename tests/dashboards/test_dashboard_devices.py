"""The pages of devices through HTTP: the list, one device, a job on two, and older jobs."""

import json
from typing import Any

import pytest
from filled_store import FAILURE, HOSTILE
from flask.testing import FlaskClient
from test_dashboard_app import update, words

from dashboards.app import chosen_device, create_app, device_parts, job_front, job_parts
from dashboards.job import panel
from nas.results import frames
from nas.store import NewEvaluation, NewSubnet, Store
from predictors.measurement.labels import Measurement

PARTS = "device-head.children device-jobs.children device-job.children device-clock.disabled"


@pytest.fixture(scope="module")
def client(filled_url: str) -> FlaskClient:
    return create_app(filled_url).server.test_client()


@pytest.fixture
def store(filled_url: str) -> Any:
    with Store.open(filled_url, read_only=True) as opened:
        yield opened


def device_id(store: Store, name: str) -> int:
    return next(device.id for device in store.devices() if device.name == name)


def fill(client: FlaskClient, device: int, search: str = "") -> dict[str, Any]:
    inputs = {"device-clock.n_intervals": 0, "url.search": search}
    answer = update(client, PARTS, inputs, state={"device.data": device})
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return answer.get_json()["response"]


def text(part: dict[str, Any]) -> str:
    return json.dumps(part["children"], ensure_ascii=False)


def graphs(part: Any) -> dict[str, Any]:
    """The figures in a part of a page, by the id of their graph."""
    if isinstance(part, list):
        return {name: figure for item in part for name, figure in graphs(item).items()}
    if not isinstance(part, dict):
        return {}
    props = part.get("props", {})
    own = {props["id"]: props["figure"]} if part.get("type") == "Graph" else {}
    return own | graphs(props.get("children"))


def test_every_page_of_devices_has_a_frame(client: FlaskClient, store: Store) -> None:
    def shown(path: str) -> str:
        inputs, state = {"url.pathname": path}, {"url.search": ""}
        answer = update(client, "page.children", inputs, state=state, changed="url.pathname")
        return json.dumps(answer.get_json()["response"]["page"]["children"])

    assert "devices-clock" in shown("/devices")
    assert "device-clock" in shown(f"/device/{device_id(store, 'lab')}")
    for missing in ("99", "x", "1x", "%00"):
        assert "No such device" in shown(f"/device/{missing}")
    assert "No such page" in shown("/device/")


def test_the_list_of_devices(client: FlaskClient, store: Store) -> None:
    answer = update(client, "devices.children", {"devices-clock.n_intervals": 0})
    shown = answer.get_json()["response"]["devices"]["children"]
    rows = shown["props"]["children"][0]["props"]["children"]["props"]["children"][1]["props"]["children"]
    cells = [[cell["props"]["children"] for cell in row["props"]["children"]] for row in rows]
    own, lab = cells
    assert own[0]["props"] == {
        "children": "cpu-1-thread",
        "href": f"/device/{device_id(store, own[0]['props']['children'])}",
    }
    assert own[1:7] == ["–", "1", "–", "–", "no", "–"]
    counted = frames.devices(store).set_index("device").loc["cpu-1-thread"]
    assert own[7:] == [f"{counted['measurements']}", "1", "1.5 %", "2.50 ms"]
    assert lab[1:6] == ["torch_cpu", "4", "8", "fp32", "yes"]
    assert lab[6].startswith("lab last seen 20")
    assert lab[7:] == ["6", "0", "–", "–"]


def test_a_device_shows_what_a_job_found_out(client: FlaskClient, store: Store) -> None:
    parts = fill(client, device_id(store, "cpu-1-thread"))
    assert "made up" in text(parts["device-head"])
    jobs, job = text(parts["device-jobs"]), text(parts["device-job"])
    assert all(name in jobs for name in ("digit-pairs", "generated", "on-two"))
    assert "1.9 % (perfect: 1.5 %)" in jobs
    assert "Mean error 1.9 % on subnets held out; a perfect predictor would show 1.5 %." in job
    assert "How it was chosen: work: leave-one-out errors are MACs 8.1 %, work 1.9 %." in job
    assert "roofline (work), fitted to 24 subnets" in job
    assert "3 of 24 measurements were made while the machine did other work as well" in job
    assert all(cell in job for cell in ("launches", "us a layer", "25 %", "9.5"))
    assert FAILURE in job
    found = graphs(parts["device-job"]["children"])
    assert set(found) == {"held-out", "halves", "kinds", "residuals"}
    assert all(figure["data"] for figure in found.values())
    assert parts["device-clock"]["disabled"] is True


def test_a_job_of_the_query_is_shown(client: FlaskClient, store: Store) -> None:
    own, job = device_id(store, "cpu-1-thread"), store.job("digit-pairs")
    shown = text(fill(client, own, f"?job={job.id}")["device-job"])
    assert "digit-pairs" in shown
    assert "no latency predictor for this device yet" in shown
    for other in ("?job=99", "?job=x", "?job=", f"?job={store.job('waiting').id}"):
        assert "on-two" in text(fill(client, own, other)["device-job"])


def test_an_older_predictor_is_shown_without_what_it_lacks(client: FlaskClient, store: Store) -> None:
    parts = fill(client, device_id(store, "lab"))
    job = text(parts["device-job"])
    assert "how much of it is noise of the measurements is not known" in job
    assert "does not tell what the device takes" in job
    assert '"None."' in job
    found = graphs(parts["device-job"]["children"])
    assert len(found) == 4
    assert all(figure["layout"]["annotations"][0]["text"] for figure in found.values())
    assert '{\\"A\\": \\"1\\"}' in text(parts["device-head"]).replace('\\\\"', '\\"')


def test_a_device_without_jobs_and_a_store_without_devices(store_url: str) -> None:
    with Store.open(store_url) as store:
        client = create_app(store_url).server.test_client()
        empty = update(client, "devices.children", {"devices-clock.n_intervals": 0})
        assert "nas devices add NAME" in empty.get_data(as_text=True)
        device = store.register_device(HOSTILE, {"cpu": "x"})
        head, jobs, job, done = device_parts(store, device.id)
    assert HOSTILE in words(head)
    assert "No job has measured on this device yet." in words(jobs)
    assert (job, done) == ([], True)


def test_the_page_follows_a_job_that_measures(store_url: str) -> None:
    with Store.open(store_url) as store:
        device = store.register_device("cpu", {"cpu": "x"})
        job = store.create_job("j", config={}, seed=0, provenance={})
        with store.acquire(job) as lease:
            subnet = NewSubnet("k", {"depth": 1}, 1, 1)
            timed = (subnet, Measurement(1.0))
            store.add_measurements(lease, [timed], device_id=device.id, purpose="sample")
            *_, found, done = device_parts(store, device.id)
            assert done is False
            assert "no latency predictor for this device yet" in words(found)
            lease.finish("succeeded")
        assert device_parts(store, device.id)[-1] is True


def test_a_job_leads_to_its_devices(store: Store) -> None:
    two, one = store.job("on-two"), store.job("digit-pairs")
    own, lab = device_id(store, "cpu-1-thread"), device_id(store, "lab")
    head = words(job_parts(store, two.id)[0])
    assert all(f'"/device/{device}"' in head for device in (own, lab))
    assert f'"?device={lab}"' in head
    assert f'"?device={own}"' not in head  # it is the one that is shown
    there = words(job_parts(store, two.id, device_id=lab)[0])
    assert (f'"?device={own}"' in there, f'"?device={lab}"' in there) == (True, False)
    single = words(job_parts(store, one.id)[0])
    assert f'"/device/{own}"' in single
    assert "?device=" not in single
    assert "/device/" not in words(job_parts(store, store.job("waiting").id)[0])


def test_the_front_of_another_device(store: Store) -> None:
    job, lab = store.job("on-two"), device_id(store, "lab")
    here = job_front(store, job.id, selected=None)
    there = job_front(store, job.id, selected=None, device_id=lab)
    names = [str(trace.name) for trace in there.data]
    assert any("measured on lab" in name for name in names)
    assert not any("searched" in name or "cpu-1-thread" in name for name in names)
    assert any("searched" in str(trace.name) for trace in here.data)
    rows = frames.finalists(store, job, lab).dropna(subset=["measured_ms"])
    shown = next(trace for trace in there.data if "90 % interval" in str(trace.name))
    assert sorted(shown.x) == sorted(rows["predicted_ms"])
    table = words(job_parts(store, job.id, device_id=lab)[1])
    assert f"?device={lab}&subnet=" in table
    assert words(job_parts(store, job.id)[1]).count("?device=") == 0


def test_the_panel_tells_latency_interval_memory_and_energy(store_url: str) -> None:
    subnets = [NewSubnet(key, {"depth": 1}, 10, 20) for key in ("full", "bare", "tried")]
    told = {"latency_ms": 1.0, "predicted_ms": 1.1, "predicted_low_ms": 1.05, "predicted_high_ms": 1.2}
    with Store.open(store_url) as store:
        device = store.register_device("cpu", {"cpu": "x"})
        with store.acquire(store.create_job("j", config={}, seed=0, provenance={})) as lease:
            evaluate(store, lease, subnets, told)
            for subnet, purpose, peak, energy in zip(
                subnets,
                ("finalist", "finalist", "search"),
                (3 * 2**20, None, None),
                (4.25, None, 7.0),
                strict=True,
            ):
                timed = Measurement(1.0, 0.02, peak_memory_bytes=peak, energy_mj=energy)
                store.add_measurements(lease, [(subnet, timed)], device_id=device.id, purpose=purpose)
            lease.finish("succeeded")
        full, bare, tried = (words(panel.subnet_panel(store, store.job("j"), s.key)) for s in subnets)
    assert all(
        part in full for part in ("1.00 ± 0.02 ms, outside the interval", "1.10 ms", "1.05 to 1.20 ms")
    )
    assert "3.0 MiB" in full
    assert "4.25 mJ" in full
    assert bare.count("not available") == 2
    assert "Seen by the search and measured" in tried
    assert "7 mJ" in tried
    assert '"/device/1"' in full


def evaluate(store: Store, lease: Any, subnets: list[NewSubnet], told: dict[str, float]) -> None:
    search = [NewEvaluation(s, 0.5, batch=0, position=i, objectives=told) for i, s in enumerate(subnets)]
    report = [NewEvaluation(s, 0.5, split="report", stderr=0.01) for s in subnets[:2]]
    store.add_evaluations(lease, [*search, *report])


def test_devices_of_a_query() -> None:
    asked = (
        "?device=2&subnet=k",
        "?subnet=k",
        "",
        None,
        "?device=x",
        "?device=",
        "?device=²",
        "?device=" + "9" * 30,
    )
    assert [chosen_device(search) for search in asked] == [2] + [None] * 7
