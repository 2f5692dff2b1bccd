"""Every page at three widths in both themes: nothing is cut, and axe-core finds no serious fault.

With ELASTIFORM_PICTURES=FOLDER all of them are put there as pictures, to be looked at.
"""

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from test_dashboard_browser import errors, front_keys, wait

pytestmark = pytest.mark.browser

WIDTHS = (390, 1280, 2560)
THEMES = ("light", "dark")
AXE = "axe_playwright_python"  # a package that brings axe-core's script; nothing of it is imported


@dataclass(frozen=True)
class Page:
    """name: of its pictures.  path: in which FRONT[i] is the i-th subnet of the front of on-two.
    title: of the window.  figures: those that show data.
    """

    name: str
    path: str
    title: str
    figures: tuple[str, ...] = ()


OF_A_JOB = "front", "hypervolume", "predicted", "training", "layers"
OF_A_DEVICE = "held-out", "halves", "kinds", "residuals"
PAGES = (
    Page("home", "/", "Jobs"),
    Page("compare", "/compare?job=1&job=3", "Compare 2 jobs", ("compared",)),
    Page("decide", "/decide?job=3&pin=3:FRONT[0]&pin=3:FRONT[2]", "Decide about on-two", ("decided",)),
    Page(
        "why",
        "/why?job=3&other=FRONT[1]",
        "Why, of on-two",
        ("importance-figure", "coordinates", "brushed", "blocks", "why-layers", "why-kinds"),
    ),
    Page("trust", "/trust?job=3", "How far to trust on-two", ("contention",)),
    Page("run", "/run?job=1", "Run of digit-pairs", ("run-training",)),
    Page("job", "/job/on-two?subnet=FRONT[2]", "on-two", OF_A_JOB),
    Page("running-job", "/job/half-way", "half-way", OF_A_JOB[:1]),
    Page("devices", "/devices", "Devices"),
    Page("device", "/device/1", "cpu-1-thread", OF_A_DEVICE),
    Page("no-page", "/nowhere", "No such page"),
)
# Whether these figures show data, and all figures are as wide as the place that they have.
DRAWN = """
const plots = [...document.querySelectorAll('.js-plotly-plot')].filter(gd => gd.offsetParent);
const named = arguments[0].map(id => document.querySelector(`#${id} .js-plotly-plot`));
return document.querySelectorAll('#page h1').length === 1
  && named.every(gd => gd && gd._fullData && gd._fullData.some(trace => trace.visible === true))
  && plots.every(gd => gd._fullLayout && Math.abs(gd._fullLayout.width - gd.clientWidth) < 2);
"""
# What is cut: texts of figures that reach beyond them, and parts of the page that hide what they hold.
CUT = """
const cut = [];
for (const text of document.querySelectorAll('.js-plotly-plot .main-svg text')) {
  const box = text.getBoundingClientRect(), frame = text.closest('.js-plotly-plot').getBoundingClientRect();
  if (!text.textContent.trim() || !box.width) continue;
  const beyond = Math.max(
    frame.left - box.left, box.right - frame.right, frame.top - box.top, box.bottom - frame.bottom);
  if (beyond > 2) cut.push(`${text.closest('.dash-graph')?.id}: ${text.textContent}, ${beyond} px`);
}
for (const part of document.querySelectorAll('#page *:not(.unseen)')) {
  const hides = ['hidden', 'clip'].includes(getComputedStyle(part).overflowX);
  if (hides && !part.closest('.js-plotly-plot') && part.scrollWidth > part.clientWidth + 2)
    cut.push(`${part.tagName} ${part.id || part.className}: ${part.textContent.slice(0, 60)}`);
}
return cut;
"""
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
FAULTS = """
const done = arguments[arguments.length - 1];
const where = node => `${node.html} ${node.any.map(check => check.message)}`;
axe.run(document, {resultTypes: ['violations']}).then(result => done(
  result.violations.filter(one => ['serious', 'critical'].includes(one.impact))
    .map(one => `${one.id}, ${one.help}: ${one.nodes.slice(0, 5).map(where).join(' | ')}`)));
"""


@pytest.fixture(scope="module", params=PAGES, ids=[page.name for page in PAGES])
def page(
    request: pytest.FixtureRequest, browser: Chrome, address: str, shown_store: str
) -> Iterator[tuple[Chrome, Page]]:
    """The browser with a page open, whose window and theme are as before afterwards."""
    chosen, keys = request.param, front_keys(shown_store, "on-two")
    path = chosen.path
    for i, key in enumerate(keys):
        path = path.replace(f"FRONT[{i}]", key)
    looks(browser, 1280, "light")
    browser.get(f"{address}{path}")
    yield browser, chosen
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def looks(browser: Chrome, width: int, theme: str, height: int = 1000) -> None:
    size: dict[str, Any] = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def picture(browser: Chrome, path: Path, width: int, theme: str) -> None:
    """The whole page, not only what the window shows."""
    looks(browser, width, theme, browser.execute_script("return document.documentElement.scrollHeight"))
    assert browser.save_screenshot(str(path))


def test_nothing_is_cut_at_any_width(page: tuple[Chrome, Page]) -> None:
    browser, chosen = page
    pictures, faults = os.environ.get("ELASTIFORM_PICTURES"), {}
    for width in WIDTHS:
        for theme in THEMES if pictures else THEMES[:1]:  # which change colours and no sizes
            looks(browser, width, theme)
            wait(browser, lambda b: b.execute_script(DRAWN, chosen.figures))
            faults[width, theme] = (browser.execute_script(CUT), browser.execute_script(OVERFLOW))
            if pictures:
                picture(browser, Path(pictures) / f"{chosen.name}-{width}-{theme}.png", width, theme)
    assert {look: fault for look, fault in faults.items() if fault != ([], 0)} == {}
    assert browser.title == f"{chosen.title} – Elastiform"
    assert browser.execute_script("return document.documentElement.lang") == "en"
    assert errors(browser) == []


@pytest.mark.parametrize("theme", THEMES)
def test_axe_finds_no_serious_fault(page: tuple[Chrome, Page], theme: str) -> None:
    browser, chosen = page
    looks(browser, 1280, theme)
    wait(browser, lambda b: b.execute_script(DRAWN, chosen.figures))
    browser.execute_script(axe())
    assert browser.execute_async_script(FAULTS) == []


def axe() -> str:
    spec = importlib.util.find_spec(AXE)
    assert spec is not None, "axe-core is not here: run `make axe`"
    assert spec.origin is not None
    return (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")
