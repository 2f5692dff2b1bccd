"""What only a browser shows of the pages: addresses and the back button, what is typed, keyboard, themes."""

from collections.abc import Iterator

import pytest
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from test_dashboard_browser import errors, shown, wait

pytestmark = pytest.mark.browser

DRAWN = "return document.querySelectorAll('#{} .main-svg').length > 0"


@pytest.fixture
def page(browser: Chrome) -> Iterator[Chrome]:
    """The browser, which shows pages as it did before afterwards."""
    yield browser
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def drawn(browser: Chrome, figure: str) -> None:
    wait(browser, lambda b: b.execute_script(DRAWN.format(figure)))


def test_jobs_are_searched_selected_and_compared(page: Chrome, address: str) -> None:
    page.get(f"{address}/")
    shown(page, "on-two", inside="#jobs")
    wait(page, lambda b: b.find_element(By.ID, "jobs-search")).send_keys("digit")
    wait(page, lambda b: "on-two" not in b.find_element(By.ID, "jobs").text)
    assert page.current_url == f"{address}/?q=digit"
    page.back()
    shown(page, "on-two", inside="#jobs")
    wait(page, lambda b: b.find_element(By.ID, "jobs-search").get_attribute("value") == "")
    for name in ("digit-pairs", "on-two"):
        wait(page, lambda b, name=name: b.find_element(By.CSS_SELECTOR, f"a[title='Select {name}']")).click()
        shown(page, name, inside="#selection")
    wait(page, lambda b: b.find_element(By.LINK_TEXT, "Compare them")).click()
    drawn(page, "compared")
    shown(page, "Which front is better", inside="#compare-tables")
    wait(page, lambda b: b.find_element(By.LINK_TEXT, "parameters")).click()
    wait(page, lambda b: "parameters" in b.find_element(By.CSS_SELECTOR, "#compared .xtitle").text)
    page.back()
    wait(page, lambda b: "latency" in b.find_element(By.CSS_SELECTOR, "#compared .xtitle").text)
    assert errors(page) == []


def test_a_limit_that_is_typed_is_an_address(page: Chrome, address: str) -> None:
    page.get(f"{address}/decide?job=1")
    drawn(page, "decided")
    field = wait(page, lambda b: b.find_element(By.ID, "exact-1"))
    field.send_keys("1" + Keys.ENTER)
    wait(page, lambda b: "limit.latency@" in b.current_url)
    left = "#decide-answer strong"  # as 9 of 15
    wait(page, lambda b: len({*b.find_element(By.CSS_SELECTOR, left).text.split()}) == 3)
    bar = page.find_element(By.ID, "limit-1")
    bar.send_keys(Keys.ARROW_RIGHT)
    wait(page, lambda b: not b.current_url.endswith("=1"))
    wait(page, lambda b: b.find_element(By.CSS_SELECTOR, "#decide-table td a")).click()
    shown(page, "nas extract", inside="#short-list")
    page.refresh()
    shown(page, "nas extract", inside="#short-list")
    assert "pin=1:" in page.current_url.replace("%3A", ":")
    assert errors(page) == []


# Where the lower and the upper half of the second axis of the coordinates are, in pixels of the window.
HALF = """
const gd = document.querySelector('#coordinates .js-plotly-plot');
gd.scrollIntoView({block: 'center'});
const box = gd.getBoundingClientRect(), axes = gd._fullLayout;
const x = box.left + axes.xaxis._offset + axes.xaxis.d2p(1), y = box.top + axes.yaxis._offset;
return [x - 12, y + axes.yaxis.d2p(0.5), x + 12, y + axes.yaxis.d2p(-0.02)];
"""


def test_a_box_over_an_axis_chooses_a_part_of_it(page: Chrome, address: str) -> None:
    page.get(f"{address}/why?job=1")
    drawn(page, "coordinates")
    wait(page, lambda b: b.find_elements(By.CSS_SELECTOR, "#coordinates .scatterlayer .trace"))
    left, top, right, bottom = (round(place) for place in page.execute_script(HALF))
    drag = ActionChains(page)
    drag.w3c_actions.pointer_action.move_to_location(left, top)
    drag.w3c_actions.pointer_action.pointer_down()
    drag.w3c_actions.pointer_action.move_to_location(round((left + right) / 2), round((top + bottom) / 2))
    drag.w3c_actions.pointer_action.move_to_location(right, bottom)
    drag.w3c_actions.pointer_action.pointer_up()
    drag.perform()
    wait(page, lambda b: b.current_url.count("brush.") == 1)
    shown(page, "Choose all again", inside="#why-brushed")
    assert errors(page) == []


def test_the_first_stop_of_the_keyboard_leads_to_the_content(page: Chrome, address: str) -> None:
    page.get(f"{address}/")
    shown(page, "digit-pairs", inside="#jobs")
    ActionChains(page).send_keys(Keys.TAB).perform()
    assert page.switch_to.active_element.text == "Skip to the content"
    ActionChains(page).send_keys(Keys.ENTER).send_keys(Keys.TAB).perform()
    assert page.switch_to.active_element.get_attribute("id") == "jobs-search"


def colours(browser: Chrome, theme: str) -> tuple[str, str]:
    """Of the ground of a page, and of the numbers of an axis."""
    feature = {"name": "prefers-color-scheme", "value": theme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    ground = "return getComputedStyle(document.body).backgroundColor"
    text = "return getComputedStyle(document.querySelector('#compared .xtick text')).fill"
    return browser.execute_script(ground), browser.execute_script(text)


def test_pages_follow_the_systems_theme(page: Chrome, address: str) -> None:
    page.get(f"{address}/compare?job=1")
    wait(page, lambda b: b.find_elements(By.CSS_SELECTOR, "#compared .xtick text"))
    (light_ground, light_text), (dark_ground, dark_text) = (
        colours(page, theme) for theme in ("light", "dark")
    )
    assert brightness(light_ground) > 200 > 100 > brightness(light_text)
    assert brightness(dark_ground) < 60 < 150 < brightness(dark_text)


def brightness(colour: str) -> float:
    numbers = [float(part) for part in colour.partition("(")[2].strip(")").split(",")[:3]]
    return sum(numbers) / 3
