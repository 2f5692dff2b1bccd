"""The pages of devices in a real browser: from the list to a device and its job."""

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from test_dashboard_browser import DRAWN, errors, shown, wait

pytestmark = pytest.mark.browser

FIGURES = ("held-out", "halves", "kinds", "residuals")
ALL_DRAWN = """
const plots = arguments[0].map(id => document.querySelector(`#${id} .js-plotly-plot`));
return plots.every(gd => gd && gd._fullData && gd._fullData.length > 0);
"""


def test_from_the_list_to_what_a_job_found_out(browser: Chrome, address: str) -> None:
    browser.get(f"{address}/")
    wait(browser, lambda b: b.find_elements(By.LINK_TEXT, "Devices"))
    browser.find_element(By.LINK_TEXT, "Devices").click()
    shown(browser, "lab last seen", inside="#devices")
    browser.find_element(By.LINK_TEXT, "cpu-1-thread").click()
    shown(browser, "a perfect predictor would show 1.5 %", inside="#score")
    wait(browser, lambda b: b.execute_script(ALL_DRAWN, FIGURES))
    browser.find_element(By.LINK_TEXT, "show").click()
    shown(browser, "no latency predictor for this device yet", inside="#device-job")
    assert errors(browser) == []


def test_the_front_of_another_device_keeps_it_while_subnets_are_chosen(browser: Chrome, address: str) -> None:
    browser.get(f"{address}/job/on-two")
    wait(browser, lambda b: b.execute_script(DRAWN))
    shown(browser, "Latency on", inside="#latency-of")
    browser.find_element(By.CSS_SELECTOR, "#latency-of a").click()
    wait(browser, lambda b: "?device=" in b.current_url and b.execute_script(DRAWN))
    shown(browser, "measured on lab", inside="#front")
    link = browser.find_element(By.CSS_SELECTOR, "#front-table a")
    key = link.text
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", link)
    link.click()
    shown(browser, key, inside="#subnet-key")
    shown(browser, "lab", inside="#panel dd a")
    assert f"&subnet={key}" in browser.current_url
    assert errors(browser) == []
