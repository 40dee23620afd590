"""The Metric3D tab as people meet it: a picture in, metres out, a length between two clicks, files, a video."""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from kit.video import ClipWriter
from tests.browser.chromium import PATIENCE
from tests.browser.server import ROOT, Served

WOOD = ROOT / "assets" / "examples" / "scene_wood.jpg"
pytestmark = pytest.mark.browser


@pytest.fixture
def page(server: Served, browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1360, "height": 900})
    opened.set_default_timeout(PATIENCE)
    outside: list[str] = []
    opened.on("request", lambda request: outside.append(request.url))
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(server.url, wait_until="domcontentloaded")
    opened.get_by_role("tab", name="Metric3D", exact=True).first.click()
    expect(opened.locator("#depth-plan")).to_contain_text("Metric3D", timeout=PATIENCE)
    yield opened
    opened.close()
    outside = [url for url in outside if not url.startswith((server.url, "data:", "blob:"))]
    assert not outside, f"the page asked for something from elsewhere: {outside}"
    assert not errors


def upload(page: Page, *paths: Path) -> None:
    page.set_input_files("#depth-pictures input[type=file]", list(paths))
    expect(page.locator("#depth-pictures .gallery-item img")).to_have_count(len(paths), timeout=PATIENCE)


def run(page: Page, shows: str = "#depth-slider img") -> None:
    page.click("#depth-run")
    expect(page.locator(shows).first).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#depth-run")).to_be_visible(timeout=PATIENCE)


def click_at(page: Page, across: float, down: float) -> None:
    image = page.locator("#depth-canvas img")
    box = image.bounding_box()
    assert box is not None
    image.click(position={"x": box["width"] * across, "y": box["height"] * down})


def metres(page: Page) -> float:
    words = page.locator("#depth-readout").inner_text()
    found = re.search(r"([\d.]+) m between the two points", words)
    assert found, words
    return float(found[1])


def test_a_picture_is_measured_between_two_clicks_and_calibrated(page: Page, tmp_path: Path) -> None:
    upload(page, WOOD)
    run(page)
    result = page.locator("#depth-result")
    for words in ("preview weights, trained on rendered scenes", "Nearest", "831 px", "assumed"):
        expect(result).to_contain_text(words)
    expect(page.locator("#depth-figures")).to_contain_text("measured")
    for layer, words in (("Surface directions", "facing"), ("Confidence", "Bright"), ("Depth", " m")):
        page.locator("#depth-layer").get_by_text(layer, exact=True).click()
        expect(page.locator("#depth-legend")).to_contain_text(words, timeout=PATIENCE)

    page.get_by_role("tab", name="Measure", exact=True).click()
    expect(page.locator("#depth-readout")).to_contain_text("Click a point")
    click_at(page, 0.25, 0.75)
    expect(page.locator("#depth-readout")).to_contain_text("Point 1", timeout=PATIENCE)
    click_at(page, 0.75, 0.75)
    expect(page.locator("#depth-readout")).to_contain_text("between the two points", timeout=PATIENCE)
    assert metres(page) > 0.05
    # The picture is redrawn with both points and the line between them.
    assert "scene_wood" in (page.locator("#depth-canvas img").get_attribute("alt") or "")

    page.fill("#depth-known-length input", f"{metres(page) * 2:.4f}")
    before = metres(page)
    page.click("#depth-apply")
    expect(page.locator("#depth-facts")).to_contain_text("All lengths × 2", timeout=PATIENCE)
    assert metres(page) == pytest.approx(2 * before, rel=0.02)

    with page.expect_download() as download:
        page.click("#depth-save-all")
    saved = tmp_path / "depth.zip"
    download.value.save_as(saved)
    with zipfile.ZipFile(saved) as archive:
        told = json.loads(archive.read("scene_wood-depth.json"))
    assert told["settings"]["scale_from_known_length"] == pytest.approx(2, rel=0.02)
    assert told["settings"]["weights"].startswith("preview weights")
    page.click("#depth-clear")
    expect(page.locator("#depth-readout")).to_contain_text("Click a point", timeout=PATIENCE)

    page.get_by_role("tab", name="In 3D", exact=True).click()
    expect(page.locator("#depth-model canvas")).to_be_visible(timeout=PATIENCE)
    with page.expect_download() as download:
        page.click("#depth-save-surface")
    download.value.save_as(tmp_path / "cloud.glb")
    assert (tmp_path / "cloud.glb").read_bytes().startswith(b"glTF")


def test_the_camera_is_told_before_and_bad_ones_are_refused(page: Page) -> None:
    page.locator("#depth-camera button").first.click()
    line = page.locator("#depth-camera-line")
    expect(line).to_contain_text("Choose a picture")
    upload(page, WOOD)
    expect(line).to_contain_text("assumed", timeout=PATIENCE)
    page.get_by_label("in pixels", exact=True).click()
    page.fill("#depth-fx input", "3")
    page.locator("#depth-fx input").blur()
    expect(line).to_contain_text("no focal length of a picture 960×720", timeout=PATIENCE)
    page.click("#depth-run")
    expect(page.locator("#depth-status")).to_contain_text("no focal length", timeout=PATIENCE)
    page.fill("#depth-fx input", "1000")
    page.locator("#depth-fx input").blur()
    expect(line).to_contain_text("1000 px", timeout=PATIENCE)
    run(page)
    expect(page.locator("#depth-facts")).to_contain_text("as typed")


def test_several_pictures_and_a_file_that_is_none(page: Page, tmp_path: Path) -> None:
    upload(page, WOOD, ROOT / "assets" / "examples" / "coins.png")
    run(page)
    strip = page.locator("#depth-strip .thumbnail-item")
    expect(strip).to_have_count(2, timeout=PATIENCE)
    facts = page.locator("#depth-facts").inner_text()
    strip.nth(1).click()
    expect(page.locator("#depth-facts")).not_to_have_text(facts, timeout=PATIENCE)


def test_nothing_chosen_is_said_and_a_video_is_measured(page: Page, tmp_path: Path) -> None:
    page.click("#depth-run")
    expect(page.locator("#depth-status [role=alert]")).to_contain_text("No picture yet", timeout=PATIENCE)
    with ClipWriter(tmp_path / "walk.mp4") as writer:
        for index in range(4):
            writer.write(np.asarray(Image.open(WOOD).resize((160, 120))), index / 10)
    page.get_by_role("tab", name="Video", exact=True).click()
    page.set_input_files("#depth-clip input[type=file]", tmp_path / "walk.mp4")
    expect(page.locator("#depth-clip video")).to_be_visible(timeout=PATIENCE)
    run(page, "#depth-clip-result video")
    expect(page.locator("#depth-facts")).to_contain_text("Frames")
    expect(page.locator("#depth-facts")).to_contain_text("assumed")


def test_on_a_phone_nothing_is_wider_than_the_screen(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    upload(page, WOOD)
    run(page)
    page.get_by_role("tab", name="Measure", exact=True).click()
    click_at(page, 0.3, 0.5)
    expect(page.locator("#depth-readout")).to_contain_text("Point 1", timeout=PATIENCE)
    over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert over <= 2
