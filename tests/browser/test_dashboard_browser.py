"""The dashboard in a real browser: it loads without an error, and a click on a point leads to a command."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from filled_store import HOSTILE
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from dashboards.figures import front_rows
from nas.results import frames
from nas.store import Store

pytestmark = pytest.mark.browser

PATIENCE_SECONDS = 60
# Where the i-th point of the trace that begins with "front" is, in pixels of the window.
PLACE = """
const gd = document.querySelector('#front .js-plotly-plot');
const trace = gd._fullData.find(t => t.name.startsWith('front'));
const i = trace.customdata.indexOf(arguments[0]);
const box = gd.getBoundingClientRect(), axes = gd._fullLayout;
return [box.left + axes.xaxis._offset + axes.xaxis.d2p(trace.x[i]),
        box.top + axes.yaxis._offset + axes.yaxis.d2p(trace.y[i])];
"""
DRAWN = """
const gd = document.querySelector('#front .js-plotly-plot');
return !!gd && !!gd._fullData && gd._fullData.some(t => (t.name || '').startsWith('front'))
       && document.querySelectorAll('#training .legend').length > 0;
"""


def wait(browser: Chrome, ready: Callable[[Chrome], Any]) -> Any:
    # The page may be drawn anew between finding an element and reading it.
    passed_over = [StaleElementReferenceException]
    patient = WebDriverWait(browser, PATIENCE_SECONDS, poll_frequency=0.1, ignored_exceptions=passed_over)
    return patient.until(ready)


def shown(browser: Chrome, text: str, *, inside: str = "#page") -> None:
    """Waits until the text is to be read on the page."""
    wait(browser, lambda b: text in "".join(e.text for e in b.find_elements(By.CSS_SELECTOR, inside)))


def errors(browser: Chrome) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def front_keys(url: str, job: str) -> list[str]:
    with Store.open(url, read_only=True) as store:
        return list(front_rows(frames.finalists(store, store.job(job)))["subnet"])


def click_point(browser: Chrome, key: str) -> None:
    x, y = browser.execute_script(PLACE, key)
    pointer = ActionChains(browser)
    pointer.w3c_actions.pointer_action.move_to_location(round(x) - 3, round(y) - 3)
    pointer.w3c_actions.pointer_action.pause(0.2)
    pointer.w3c_actions.pointer_action.move_to_location(round(x), round(y))
    pointer.perform()
    # Plotly takes a click for the point under its hover label.
    wait(browser, lambda b: key in "".join(e.text for e in b.find_elements(By.CSS_SELECTOR, ".hoverlayer")))
    ActionChains(browser).click().perform()


def test_from_the_list_to_the_extract_command(browser: Chrome, address: str, shown_store: str) -> None:
    browser.get(f"{address}/")
    shown(browser, "digit-pairs", inside="#jobs")
    browser.find_element(By.LINK_TEXT, "digit-pairs").click()
    wait(browser, lambda b: b.execute_script(DRAWN))
    shown(browser, "Choose a subnet", inside="#panel")
    first, *_, last = front_keys(shown_store, "digit-pairs")
    for key in (last, first):
        click_point(browser, key)
        shown(browser, key, inside="#subnet-key")
        command = browser.find_element(By.ID, "extract").text
        assert command == f"nas extract digit-pairs --subnet {key} -o {key} --store {shown_store}"
        wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, "#layers .barlayer .point"))
        assert browser.current_url == f"{address}/job/digit-pairs?subnet={key}"
    assert errors(browser) == []


def test_a_key_of_the_table_opens_the_subnet(browser: Chrome, address: str, shown_store: str) -> None:
    key = front_keys(shown_store, "digit-pairs")[1]
    browser.get(f"{address}/job/digit-pairs")
    shown(browser, key, inside="#front-table")
    wait(browser, lambda b: b.execute_script(DRAWN))
    link = browser.find_element(By.LINK_TEXT, key)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", link)
    link.click()
    shown(browser, key, inside="#subnet-key")
    browser.refresh()
    shown(browser, key, inside="#subnet-key")
    assert errors(browser) == []


def test_a_hostile_name_runs_no_script(browser: Chrome, address: str, shown_store: str) -> None:
    for path in ("/", f"/job/{quote(HOSTILE, safe='')}", f"/job/{quote(f'failed {HOSTILE}', safe='')}"):
        browser.get(f"{address}{path}")
        shown(browser, HOSTILE)
        assert not browser.find_elements(By.CSS_SELECTOR, "img[src=x]")
    shown(browser, f"The data set '{HOSTILE}' is empty.", inside=".error")
    browser.get(f"{address}/job/{quote(HOSTILE, safe='')}")
    wait(browser, lambda b: b.execute_script(DRAWN))
    shown(browser, "onerror=alert(1)>", inside="#front .gtitle")  # in lines, without the spaces between them
    click_point(browser, front_keys(shown_store, HOSTILE)[0])
    shown(browser, "nas extract", inside="#extract")
    # An alert would stand in the way of every further command.
    assert not browser.find_elements(By.CSS_SELECTOR, "img[src=x]")
    assert errors(browser) == []


def test_an_unknown_job_leads_back(browser: Chrome, address: str) -> None:
    browser.get(f"{address}/job/nobody")
    shown(browser, "No such job")
    browser.find_element(By.LINK_TEXT, "All jobs").click()
    shown(browser, "digit-pairs", inside="#jobs")
    assert errors(browser) == []


def test_nothing_is_asked_from_elsewhere(browser: Chrome, address: str) -> None:
    browser.get(f"{address}/job/digit-pairs")
    wait(browser, lambda b: b.execute_script(DRAWN))
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert len(asked) > 5
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    buttons = browser.find_elements(By.CSS_SELECTOR, "#front .modebar-btn")
    titles = {button.get_attribute("data-title") for button in buttons}
    assert len(titles) > 3
    assert not [title for title in titles if title and "share" in title.lower()]
