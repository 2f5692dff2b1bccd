"""`nas serve` in a real browser: signing in once, the dashboard below a prefix, a change by a form."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filled_store import HOSTILE, finished_job
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from test_dashboard_browser import DRAWN, errors, shown, wait

from dashboards.opened import OpenedStore
from nas.cli.server.access import host_check
from nas.cli.server.app import application
from nas.cli.server.listening import Server
from nas.cli.server.routes import Service
from nas.cli.server.tokens import Tokens
from nas.store import NewJob, Store, Submission

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
