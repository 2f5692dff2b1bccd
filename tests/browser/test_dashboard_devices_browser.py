"""The pages of devices in a real browser: from the list to a device and its job, at any width and theme."""

from collections.abc import Iterator
from pathlib import Path

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
# How far anything but a table reaches beyond the window.
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Contrast of text and ground of the page, by WCAG's relative luminance.
CONTRAST = """
const light = text => {
  const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const style = getComputedStyle(document.body), lights = [light(style.color), light(style.backgroundColor)];
return (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
"""


@pytest.fixture
def screen(browser: Chrome) -> Iterator[Chrome]:
    """The browser, whose window and theme are as before afterwards."""
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def looks(browser: Chrome, *, width: int, theme: str) -> None:
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def picture(browser: Chrome, path: Path) -> None:
    """The whole page, not only what the window shows."""
    height = browser.execute_script("return document.documentElement.scrollHeight")
    width = browser.execute_script("return document.documentElement.clientWidth")
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert browser.save_screenshot(str(path))


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_from_the_list_to_what_a_job_found_out(
    screen: Chrome, address: str, width: int, theme: str, tmp_path: Path
) -> None:
    looks(screen, width=width, theme=theme)
    screen.get(f"{address}/")
    wait(screen, lambda b: b.find_elements(By.LINK_TEXT, "Devices"))
    screen.find_element(By.LINK_TEXT, "Devices").click()
    shown(screen, "lab last seen", inside="#devices")
    assert screen.execute_script(OVERFLOW) == 0
    picture(screen, tmp_path / f"devices-{width}-{theme}.png")
    screen.find_element(By.LINK_TEXT, "cpu-1-thread").click()
    shown(screen, "a perfect predictor would show 1.5 %", inside="#score")
    wait(screen, lambda b: b.execute_script(ALL_DRAWN, FIGURES))
    assert screen.execute_script(OVERFLOW) == 0
    assert screen.execute_script(CONTRAST) > 7
    picture(screen, tmp_path / f"device-{width}-{theme}.png")
    screen.find_element(By.LINK_TEXT, "show").click()
    shown(screen, "no latency predictor for this device yet", inside="#device-job")
    assert errors(screen) == []


def test_the_front_of_another_device_keeps_it_while_subnets_are_chosen(screen: Chrome, address: str) -> None:
    screen.get(f"{address}/job/on-two")
    wait(screen, lambda b: b.execute_script(DRAWN))
    shown(screen, "Latency on", inside="#latency-of")
    screen.find_element(By.CSS_SELECTOR, "#latency-of a").click()
    wait(screen, lambda b: "?device=" in b.current_url and b.execute_script(DRAWN))
    shown(screen, "measured on lab", inside="#front")
    link = screen.find_element(By.CSS_SELECTOR, "#front-table a")
    key = link.text
    screen.execute_script("arguments[0].scrollIntoView({block: 'center'})", link)
    link.click()
    shown(screen, key, inside="#subnet-key")
    shown(screen, "lab", inside="#panel dd a")
    assert f"&subnet={key}" in screen.current_url
    assert errors(screen) == []
