"""`nas serve` in a real browser: signing in once, the dashboard below a prefix, a change by a form."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filled_store import HOSTILE, finished_job
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import staleness_of
from test_dashboard_browser import DRAWN, errors, shown, wait

from dashboards.opened import OpenedStore
from nas.cli.server.access import host_check
from nas.cli.server.api.service import Service
from nas.cli.server.app import application
from nas.cli.server.listening import Server
from nas.cli.server.tokens import Tokens
from nas.store import Job, NewJob, Store, Submission

pytestmark = pytest.mark.browser

READ, WRITE = "read-" + "r" * 30, "write-" + "w" * 30


@pytest.fixture
def team_url(tmp_path: Path) -> str:
    """The URL of a store with a finished job and a queued one of a hostile name."""
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    with Store.open(url) as store:
        finished_job(store, "digit-pairs", count=15)
        store.submit([NewJob(HOSTILE, HOSTILE, {"config": {}, "seed": 0, "provenance": {}}, Submission())])
    return url


@pytest.fixture
def team(team_url: str, browser: Chrome) -> Iterator[str]:
    """The address of a server with both tokens, below a prefix; the browser forgets it afterwards."""
    service = Service(team_url, OpenedStore(team_url))
    app = application(service, Tokens(READ, WRITE), is_allowed=host_check("127.0.0.1", []), prefix="/nas")
    server = Server(app, "127.0.0.1", 0, "/nas")
    thread = threading.Thread(target=server.run, args=[service.end])
    thread.start()
    address = f"http://127.0.0.1:{server.port}/nas"
    yield address
    browser.get(f"{address}/login")
    browser.delete_all_cookies()
    browser.get("about:blank")
    browser.get_log("browser")  # what was refused is told there, and other tests look
    server.stop()
    thread.join()


def sign_in(browser: Chrome, token: str) -> None:
    field = wait(browser, lambda b: b.find_element(By.ID, "token"))
    field.send_keys(token)
    field.submit()
    wait(browser, staleness_of(field))  # or the next page that is asked for would take this one's place


def test_signing_in_leads_to_the_page_that_was_asked_for(browser: Chrome, team: str) -> None:
    browser.get(f"{team}/job/digit-pairs")
    assert browser.current_url == f"{team}/login?next=%2Fjob%2Fdigit-pairs"
    sign_in(browser, "wrong-" + "x" * 30)
    shown(browser, "This token is none of this server's.", inside="main")
    browser.get_log("browser")  # 401 is told there
    sign_in(browser, READ)
    wait(browser, lambda b: b.execute_script(DRAWN))
    assert browser.current_url == f"{team}/job/digit-pairs"
    assert READ not in browser.page_source
    assert browser.execute_script("return document.cookie") == ""
    browser.find_element(By.LINK_TEXT, "Jobs").click()
    shown(browser, HOSTILE[:10], inside="#jobs")
    assert browser.current_url == f"{team}/"
    browser.find_element(By.LINK_TEXT, "digit-pairs").click()
    wait(browser, lambda b: b.execute_script(DRAWN))
    assert errors(browser) == []
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [url for url in asked if not url.startswith((team, "data:", "blob:"))] == []


def test_a_form_changes_what_it_says(browser: Chrome, team: str, team_url: str) -> None:
    browser.get(f"{team}/login?next=/api")
    sign_in(browser, WRITE)
    shown(browser, "Change", inside="main")
    assert errors(browser) == []
    form = browser.find_element(By.CSS_SELECTOR, "form#note")
    form.find_element(By.NAME, "job").send_keys("2")
    form.find_element(By.NAME, "note").send_keys("<img src=x onerror=alert(2)>")
    form.find_element(By.TAG_NAME, "button").click()
    wait(browser, lambda b: "onerror=alert(2)" in b.page_source)
    assert not browser.find_elements(By.CSS_SELECTOR, "img[src=x]")
    with Store.open(team_url, read_only=True) as store:
        assert store.job(HOSTILE).note == "<img src=x onerror=alert(2)>"
    browser.get(f"{team}/api")
    form = browser.find_element(By.CSS_SELECTOR, "form#stop")
    form.find_element(By.NAME, "job").send_keys("2")
    form.find_element(By.TAG_NAME, "button").click()
    wait(browser, lambda b: "out of the queue" in b.page_source)
    with Store.open(team_url, read_only=True) as store:
        assert store.job(HOSTILE).state == "stopped"


def on_job(browser: Chrome, address: str, form: str) -> WebElement:
    """The form of a job's page, once it is there."""
    browser.get(address)
    return wait(browser, lambda b: b.find_element(By.CSS_SELECTOR, f"form.{form}"))


def press(form: WebElement) -> None:
    form.find_element(By.CSS_SELECTOR, "button[type=submit]").click()


def test_a_jobs_page_has_what_changes_the_job(browser: Chrome, team: str, team_url: str) -> None:
    page = f"{team}/job/2"

    def job() -> Job:
        with Store.open(team_url, read_only=True) as store:
            return store.job(2)

    browser.get(f"{team}/login?next=/job/2")
    sign_in(browser, WRITE)
    priority = on_job(browser, page, "priority").find_element(By.NAME, "priority")
    priority.clear()
    priority.send_keys("7")
    press(browser.find_element(By.CSS_SELECTOR, "form.priority"))
    wait(browser, lambda b: job().priority == 7)
    press(on_job(browser, page, "pause"))
    resume = wait(browser, lambda b: b.find_element(By.CSS_SELECTOR, "form.resume"))
    assert browser.current_url == page
    assert (job().state, job().paused) == ("stopped", True)
    assert not browser.find_elements(By.CSS_SELECTOR, "form.stop, form.pause")
    press(resume)
    press(wait(browser, lambda b: b.find_element(By.CSS_SELECTOR, "form.stop")))
    wait(browser, lambda b: job().state == "stopped" and not job().paused)
    note = on_job(browser, page, "note")
    browser.find_element(By.CSS_SELECTOR, "details.remarks > summary").click()
    note.find_element(By.NAME, "note").send_keys("<img src=x onerror=alert(2)>")
    press(note)
    shown(browser, "<img src=x onerror=alert(2)>", inside="#job-head")
    assert not browser.find_elements(By.CSS_SELECTOR, "img[src=x]")
    tags = on_job(browser, page, "tags")
    browser.find_element(By.CSS_SELECTOR, "details.remarks > summary").click()
    tags.find_element(By.NAME, "tags").send_keys("paper\nbest")
    press(tags)
    shown(browser, "tags best, paper", inside="#job-head")
    assert errors(browser) == []


def test_what_cannot_be_done_from_a_jobs_page_is_told_with_the_way_back(
    browser: Chrome, team: str, team_url: str
) -> None:
    browser.get(f"{team}/login?next=/job/2")
    sign_in(browser, WRITE)
    stop = on_job(browser, f"{team}/job/2", "stop")
    with Store.open(team_url) as store:
        store.cancel(store.job(2))
    press(stop)
    shown(browser, "That was not done", inside="main")
    shown(browser, "(state: stopped)", inside="main")
    browser.get_log("browser")  # 409 is told there
    browser.find_element(By.LINK_TEXT, "Back").click()
    wait(browser, lambda b: b.find_element(By.CSS_SELECTOR, "form.resume"))
    assert browser.current_url == f"{team}/job/2"


def opened(browser: Chrome) -> Any:
    """The form that deletes a job, once what hides it is open; the page may be drawn anew meanwhile."""
    for details in browser.find_elements(By.CSS_SELECTOR, "details.remarks, details.remarks details"):
        if details.get_attribute("open") is None:
            details.find_element(By.TAG_NAME, "summary").click()
    form = browser.find_element(By.CSS_SELECTOR, "form.remove")
    return form if form.is_displayed() else None


def test_a_job_is_deleted_after_a_second_click(browser: Chrome, team: str, team_url: str) -> None:
    browser.get(f"{team}/login?next=/job/2")
    sign_in(browser, WRITE)
    remove = on_job(browser, f"{team}/job/2", "remove")
    assert not remove.is_displayed()
    press(wait(browser, opened))
    wait(browser, lambda b: b.current_url == f"{team}/")
    with Store.open(team_url, read_only=True) as store:
        assert [job.name for job in store.jobs()] == ["digit-pairs"]


def test_who_may_only_read_sees_no_form(browser: Chrome, team: str) -> None:
    browser.get(f"{team}/login?next=/job/2")
    sign_in(browser, READ)
    link = wait(browser, lambda b: b.find_element(By.LINK_TEXT, "Sign in to change this job"))
    assert not browser.find_elements(By.TAG_NAME, "form")
    link.click()
    sign_in(browser, WRITE)
    wait(browser, lambda b: b.find_element(By.CSS_SELECTOR, "form.stop"))
    assert browser.current_url == f"{team}/job/2"


def test_a_subnet_is_downloaded_from_its_panel(browser: Chrome, team: str, team_url: str) -> None:
    browser.get(f"{team}/login?next=/job/digit-pairs")
    sign_in(browser, WRITE)
    with Store.open(team_url, read_only=True) as store:
        key = store.subnets(store.job(1))[0].key
    form = on_job(browser, f"{team}/job/digit-pairs?subnet={key}", "extract")
    wait(browser, lambda b: len(b.find_elements(By.CSS_SELECTOR, "form.extract")) == 3)
    form = browser.find_element(By.CSS_SELECTOR, "#panel form.extract")
    sent = {
        field.get_attribute("name"): field.get_attribute("value")
        for field in form.find_elements(By.TAG_NAME, "input")
    }
    assert (sent["subnet"], sent["job"]) == (key, "1")
    chosen = {
        field.get_attribute("name"): field.get_attribute("value")
        for field in form.find_elements(By.TAG_NAME, "select")
    }
    assert chosen == {"format": "safetensors", "precision": "fp32"}
    press(form)  # its weights were never trained, so that there is nothing to download
    shown(browser, "That was not done", inside="main")
    browser.get_log("browser")


def test_a_page_of_another_server_changes_nothing(
    browser: Chrome, team: str, team_url: str, tmp_path: Path
) -> None:
    browser.get(f"{team}/login?next=/api")
    sign_in(browser, WRITE)
    shown(browser, "Change", inside="main")
    page = tmp_path / "evil.html"
    page.write_text(f'<form method="post" action="{team}/api/jobs/2/stop"><button>x</button></form>')
    browser.get(page.as_uri())
    browser.find_element(By.TAG_NAME, "button").click()
    wait(browser, lambda b: b.current_url.startswith(team))
    wait(browser, lambda b: "was sent by a page of another server" in b.page_source)
    with Store.open(team_url, read_only=True) as store:
        assert store.job(HOSTILE).state == "queued"
