"""The report page in headless Chromium: what a reader sees, clicks and types, on a desk and on a phone."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from spoco_bundle.formats.objects_table import objects_table
from spoco_bundle.report.mistakes import Mistake
from spoco_bundle.report.page import ImagePanel, render_page

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and its driver are not installed")

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
DESK, PHONE = (1280, 900), (390, 844)
SCREENS = [(size, scheme) for size in (DESK, PHONE) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two volumes and an image, with truth, embedding, curves and settings; names and ids as long as they come."""
    random = np.random.default_rng(0)
    panels = []
    for name, shape in (("a.tif", (12, 40, 60)), (f"{'long_' * 20}.ome.tif", (8, 64, 20)), ("flat.png", (50, 70))):
        labels = np.zeros(shape, np.int32)
        labels[..., 4:18, 2:9] = 7
        labels[..., 22:36, 10:17] = 123456
        image = random.normal(100 * (labels > 0), 9)[None].astype(np.float32)
        spacing = (2.0, 0.5, 0.5)[-len(shape) :]
        rows = objects_table(labels, spacing, "micrometer", np.where(np.arange(123456) == 6, 0.9, 0.1))
        planes = shape if len(shape) == 3 else (1,)
        embedding = {
            axis: (size // 2, random.random((*np.delete(shape, axis), 3)) if len(shape) == 3 else np.ones((*shape, 3)))
            for axis, size in enumerate(planes)
        }
        embedding = {axis: (0 if len(shape) == 2 else index, colours) for axis, (index, colours) in embedding.items()}
        panel = ImagePanel(name, image, labels, rows, spacing, np.roll(labels, 2, -1), embedding, {"objects": "2"})
        place = [3, 10, 20][-len(shape) :]
        panel.mistakes = [Mistake("merges", "object 7 covers nothing right", place, [[p, p + 4] for p in place])]
        panels.append(panel)
    settings = json.dumps({"dataset_dir": "/".join(["folder"] * 40), "seed": 0}, indent=2)
    curves = {"train/loss": [(0, 2.0), (10, 1.0), (20, 0.7)]}
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(
        render_page("Predict: results", panels, curves, settings, "spoco predict of data"), encoding="utf-8"
    )
    return file


def show(browser, file, size=DESK, scheme="light") -> None:
    """Opens a page as on a screen of this size, in CSS pixels, with this colour scheme."""
    width, height = size
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # empties it
    browser.get(file.as_uri())


def contrast(browser, element) -> float:
    """Contrast ratio of an element's text to the nearest background behind it, as WCAG defines it."""
    return browser.execute_script(
        """
        const light = (css) => {
          const [r, g, b] = css.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
            .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        let behind = arguments[0];
        while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
        const pair = [getComputedStyle(arguments[0]).color, getComputedStyle(behind).backgroundColor].map(light);
        return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
        """,
        element,
    )


@pytest.mark.parametrize(("size", "scheme"), SCREENS)
def test_page_fits_the_screen_can_be_read_and_asks_the_network_for_nothing(browser, page, size, scheme):
    show(browser, page, size, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    texts = "h1, .note, figcaption, .card span, label, th button, td, td button, pre"
    assert min(contrast(browser, text) for text in browser.find_elements(By.CSS_SELECTOR, texts)) > 4.5
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    for picture in browser.find_elements(By.CSS_SELECTOR, ".stack img:not([hidden])"):
        assert picture.get_property("naturalWidth") > 0
    for figure in browser.find_elements(By.CSS_SELECTOR, "[data-plane]"):
        assert figure.rect["height"] < size[1]  # picture and slider are seen together
        stack = figure.find_element(By.CSS_SELECTOR, ".stack").rect
        assert stack["height"] > 50 and stack["width"] > 50
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in asked  # the log records what is asked for
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}


def test_errors_of_the_script_would_be_seen(browser, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text("<!doctype html><link rel=icon href='data:,'><script>missing()</script>")
    show(browser, broken)
    assert "missing" in browser.get_log("browser")[0]["message"]


def test_arrow_keys_move_through_the_slices(browser, page):
    show(browser, page)
    for _ in range(4):  # the three layers of the first image, then its first slider
        browser.switch_to.active_element.send_keys(Keys.TAB)
    slider = browser.switch_to.active_element
    figure = slider.find_element(By.XPATH, "./..")
    base, caption = figure.find_element(By.CSS_SELECTOR, ".base"), figure.find_element(By.TAG_NAME, "output")
    place, picture = int(caption.text.split("= ")[1]), base.get_attribute("src")
    assert slider.value_of_css_property("outline-style") != "none"
    slider.send_keys(Keys.ARROW_RIGHT)
    assert caption.text == f"z = {place + 1}" == slider.get_attribute("aria-valuetext")
    assert base.get_attribute("src") != picture
    slider.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert caption.text == f"z = {place - 1}"
    slider.send_keys(Keys.HOME)
    assert caption.text == "z = 0"


@pytest.mark.parametrize("key", [Keys.ENTER, Keys.SPACE])
def test_table_is_sorted_from_the_keyboard(browser, page, key):
    show(browser, page)
    table = browser.find_element(By.TAG_NAME, "table")
    heads = {head.text.split()[0]: head for head in table.find_elements(By.TAG_NAME, "th")}

    def ids():
        return [cell.text for cell in table.find_elements(By.CSS_SELECTOR, "tbody td:first-child")]

    def order():
        return {
            name: head.get_attribute("aria-sort") for name, head in heads.items() if head.get_attribute("aria-sort")
        }

    assert ids() == ["7", "123456"] and order() == {"id": "ascending"}
    heads["id"].find_element(By.TAG_NAME, "button").send_keys(key)
    assert ids() == ["123456", "7"] and order() == {"id": "descending"}
    confidence = heads["confidence"].find_element(By.TAG_NAME, "button")
    confidence.send_keys(key)
    assert ids() == ["7", "123456"] and order() == {"confidence": "descending"}
    confidence.send_keys(key)
    assert ids() == ["123456", "7"] and order() == {"confidence": "ascending"}


def test_layers_and_objects_can_be_chosen_from_the_keyboard(browser, page):
    show(browser, page)
    section = browser.find_element(By.CSS_SELECTOR, "[data-panel]")

    def visible(layer):
        return section.find_element(By.CSS_SELECTOR, f"[data-shows={layer}]").is_displayed()

    assert visible("found") and not visible("truth") and not visible("embedding")
    for layer in ("found", "truth", "embedding"):
        section.find_element(By.CSS_SELECTOR, f"[data-layer={layer}]").send_keys(Keys.SPACE)
    assert not visible("found") and visible("truth") and visible("embedding")
    section.find_element(By.XPATH, ".//td/button[text()='123456']").send_keys(Keys.ENTER)
    shown = [output.text for output in section.find_elements(By.TAG_NAME, "output")]
    assert shown == ["z = 6", "y = 28", "x = 13"]  # the middle of rows 22 to 35 and columns 10 to 16
    embeddings = section.find_elements(By.CSS_SELECTOR, "[data-shows=embedding]")
    assert [picture.is_displayed() for picture in embeddings] == [True, False, False]  # only z = 6 has one


def test_what_is_clicked_is_marked_and_a_mistake_leads_to_its_place(browser, page):
    show(browser, page)
    section = browser.find_element(By.CSS_SELECTOR, "[data-panel]")
    assert not any(box.is_displayed() for box in section.find_elements(By.CSS_SELECTOR, ".mark"))
    section.find_element(By.XPATH, ".//td/button[text()='7']").send_keys(Keys.ENTER)
    stack = section.find_element(By.CSS_SELECTOR, ".stack").rect
    box = section.find_element(By.CSS_SELECTOR, ".mark")
    assert box.rect["x"] - stack["x"] == pytest.approx(2 / 60 * stack["width"], abs=2)
    assert box.rect["y"] - stack["y"] == pytest.approx(4 / 40 * stack["height"], abs=2)
    assert "away" not in box.get_attribute("class")
    marked = section.find_elements(By.CSS_SELECTOR, "tr.marked td:first-child")
    assert [cell.text for cell in marked] == ["7"]
    mistake = section.find_element(By.CSS_SELECTOR, "[data-mistake]")
    assert mistake.text == "object 7 covers nothing right"
    mistake.send_keys(Keys.ENTER)
    outputs = [output.text for output in section.find_elements(By.TAG_NAME, "output")]
    assert outputs == ["z = 3", "y = 10", "x = 20"]
    flat = browser.find_elements(By.CSS_SELECTOR, "[data-panel]")[2]
    flat.find_element(By.CSS_SELECTOR, "td button").send_keys(Keys.ENTER)
    assert flat.find_element(By.CSS_SELECTOR, ".mark").is_displayed(), "also in an image without sliders"


def test_the_box_of_the_embedding_is_ticked_only_where_one_is_shown(browser, page):
    show(browser, page)
    section = browser.find_element(By.CSS_SELECTOR, "[data-panel]")
    box = section.find_element(By.CSS_SELECTOR, "[data-layer=embedding]")
    sliders = section.find_elements(By.CSS_SELECTOR, "input[type=range]")
    box.send_keys(Keys.SPACE)
    for slider in sliders:
        assert box.is_selected()
        slider.send_keys(Keys.HOME)
    assert not box.is_selected()
    box.send_keys(Keys.SPACE)
    shown = section.find_elements(By.CSS_SELECTOR, "[data-shows=embedding]")
    assert box.is_selected() and all(picture.is_displayed() for picture in shown)


def test_heads_of_the_table_say_their_units(browser, page):
    show(browser, page)
    heads = [head.text for head in browser.find_elements(By.CSS_SELECTOR, "table")[0].find_elements(By.TAG_NAME, "th")]
    assert [head.split("\n")[0].strip() for head in heads][1:5] == [
        "voxels",
        "volume (µm³)",
        "confidence",
        "centroid_z (µm)",
    ]


@pytest.mark.slow
def test_page_of_a_volume_of_512_voxels_a_side_stays_below_5_mb(browser, tmp_path):
    axis = np.arange(512, dtype=np.int16) // 64
    labels = 1 + axis + 8 * axis[:, None] + 64 * axis[:, None, None]
    offset = np.abs(np.arange(512) % 64 - 31.5)
    far = offset**2 + (offset**2)[:, None] + (offset**2)[:, None, None] > 28.0**2
    labels[far] = 0
    image = np.random.default_rng(0).integers(0, 80, labels.shape, dtype=np.uint8)
    image[~far] += 120
    rows = objects_table(labels, (1.0, 1.0, 1.0), "micrometer", np.full(512, 0.5))
    file = tmp_path / "large.html"
    file.write_text(render_page("large", [ImagePanel("large.tif", image[None], labels, rows)]), encoding="utf-8")
    assert 2e6 < file.stat().st_size < 5e6
    show(browser, file, PHONE)
    WebDriverWait(browser, 60).until(lambda _: len(browser.find_elements(By.CSS_SELECTOR, "tbody tr")) == 512)
    assert browser.find_element(By.CSS_SELECTOR, ".stack .base").get_property("naturalWidth") == 384
    assert browser.get_log("browser") == []
