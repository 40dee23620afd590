"""The page as people meet it: a real server, a real browser, no network."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from adapters import ADAPTERS
from tests.browser.chromium import PATIENCE
from tests.browser.server import ROOT, Served

EXAMPLES = ROOT / "assets" / "examples"
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
    expect(opened.locator("#detect-run")).to_be_visible(timeout=PATIENCE)
    expect(opened.locator("#detect-plan")).to_contain_text("DAMO-YOLO", timeout=PATIENCE)
    yield opened
    opened.close()
    outside = [url for url in outside if not url.startswith((server.url, "data:", "blob:"))]
    assert not outside, f"the page asked for something from elsewhere: {outside}"
    assert not errors


def choose_coins(page: Page) -> None:
    page.locator("#detect-examples button:has(img[alt='coins'])").click()
    expect(page.locator("#detect-pictures .gallery-item img")).to_have_count(1, timeout=PATIENCE)


def run(page: Page) -> None:
    page.click("#detect-run")
    expect(page.locator("#detect-image img")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#detect-run")).to_be_visible(timeout=PATIENCE)


def begin_long_run(page: Page, folder: Path) -> None:
    """Start on many pictures and return while it runs."""
    copies = [folder / f"coins-{number}.png" for number in range(60)]
    for copy in copies:
        shutil.copy(EXAMPLES / "coins.png", copy)
    page.set_input_files("#detect-pictures input[type=file]", copies)
    expect(page.locator("#detect-pictures .gallery-item img")).to_have_count(len(copies), timeout=PATIENCE)
    page.click("#detect-run")
    status = page.locator("#detect-status")
    expect(status).to_contain_text(re.compile(r"Detecting\s*\d+ of 60"), timeout=PATIENCE)


def rows(page: Page) -> list[list[str]]:
    cells = "rows => rows.map(row => [...row.children].map(cell => cell.innerText))"
    found: list[list[str]] = page.eval_on_selector_all("#detect-table tbody tr", cells)
    return found


def move_threshold(page: Page, value: str) -> None:
    number = page.locator("#detect-threshold input[type=number]")
    number.fill(value)
    number.press("Enter")


def test_example_gives_boxes_with_the_reasons_and_the_account(page: Page, server: Served, tmp_path: Path) -> None:
    for title in ("DAMO-YOLO", "Metric3D", "InstantID", "AniPortrait", "Hunyuan3D-1"):
        assert page.get_by_role("tab", name=title, exact=True).is_visible()
    plan = page.locator("#detect-plan")
    for words in ("Apache-2.0", "35.9 MB", "Why", "detector"):
        expect(plan).to_contain_text(words)
    choose_coins(page)
    run(page)
    found = rows(page)
    assert len(found) > 3
    assert all(label == "coin" and float(score) >= 0.5 for label, score, *_ in found)
    # The weights could not be had without a network: the page says what took their place, and why.
    expect(page.locator("#detect-result")).to_contain_text("preview weights, trained on rendered scenes")
    figures = page.locator("#detect-figures")
    for words in ("predicted", "measured", "The weights could not be had", "variant preview"):
        expect(figures).to_contain_text(words)
    assert page.locator("#detect-image img").get_attribute("alt") not in (None, "")

    before = server.runs()
    middle = sorted(float(row[1]) for row in found)[len(found) // 2] + 0.01
    move_threshold(page, f"{middle:.2f}")
    expect(page.locator("#detect-table tbody tr")).not_to_have_count(len(found), timeout=PATIENCE)
    fewer = rows(page)
    assert fewer == [row for row in found if float(row[1]) >= round(middle, 2)][: len(fewer)]
    assert len(fewer) < len(found)
    assert server.runs() == before, "moving the threshold ran the network again"

    with page.expect_download() as download:
        page.click("#detect-save-data")
    saved = tmp_path / "data.json"
    download.value.save_as(saved)
    data = json.loads(saved.read_text(encoding="utf-8"))
    assert len(data["pictures"][0]["detections"]) == len(fewer)
    assert data["settings"]["threshold"] == pytest.approx(middle)
    with page.expect_download() as download:
        page.click("#detect-save-picture")
    picture = tmp_path / "picture.png"
    download.value.save_as(picture)
    with Image.open(picture) as image, Image.open(EXAMPLES / "coins.png") as original:
        assert image.size == original.size
        assert json.loads(image.info["anyhost"])["weights"].startswith("preview weights")


def test_wishes_plan_anew_before_anything_runs(page: Page) -> None:
    page.get_by_role("button", name="Wishes").first.click()

    def wish(control: str, option: str) -> None:
        page.get_by_label(control, exact=True).first.click()
        page.get_by_role("option", name=option, exact=True).first.click()

    wish("Precision", "fp16")
    refused = page.locator("#detect-plan .ah-bad[role=status]")
    expect(refused).to_contain_text("fp16 is refused")
    expect(refused).to_contain_text("Nearest that works")
    expect(page.locator("#detect-run")).to_be_disabled()
    wish("Precision", "fp32")
    expect(page.locator("#detect-plan")).to_contain_text("in fp32")
    expect(page.locator("#detect-run")).to_be_enabled()
    wish("Model", "S: Small, 46.0 mAP")
    expect(page.locator("#detect-plan .ah-consequence")).to_contain_text(
        # Where an earlier run could not have T, the plan begins with what took its place.
        re.compile(r"Model: (T|preview) → S")
    )
    expect(page.locator("#detect-plan")).to_contain_text("68.1 MB")


def runs_after(server: Served, before: int) -> int:
    """Runs in the log, once there are more than ``before``: what a stopped run kept may look like the next result."""
    deadline = time.monotonic() + PATIENCE / 1000
    while server.runs() == before and time.monotonic() < deadline:
        time.sleep(0.1)
    return server.runs()


def test_stop_ends_the_run_and_the_next_one_starts(page: Page, server: Served, tmp_path: Path) -> None:
    before = server.runs()
    begin_long_run(page, tmp_path)
    page.click("#detect-stop")
    status = page.locator("#detect-status")
    expect(status).to_contain_text("Nothing is running any more", timeout=PATIENCE)
    expect(page.locator("#detect-run")).to_be_visible()
    assert server.runs() == before, "the run went on to its end"
    choose_coins(page)
    run(page)
    assert runs_after(server, before) == before + 1


def test_closing_the_page_ends_its_run(page: Page, server: Served, browser: Browser, tmp_path: Path) -> None:
    before = server.runs()
    left = browser.new_page()
    left.set_default_timeout(PATIENCE)
    left.goto(server.url, wait_until="domcontentloaded")
    begin_long_run(left, tmp_path)
    left.close()
    choose_coins(page)
    run(page)
    assert runs_after(server, before) == before + 1, "the run of a closed page went on to its end"


def test_what_is_no_picture_is_refused_in_words(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("this is no picture")
    page.set_input_files("#detect-pictures input[type=file]", broken)
    expect(page.locator("#detect-pictures .gallery-item img")).to_have_count(1, timeout=PATIENCE)
    page.click("#detect-run")
    error = page.locator("#detect-status [role=alert]")
    expect(error).to_contain_text("broken.jpg is not a picture this program reads", timeout=PATIENCE)
    expect(page.locator("#detect-run")).to_be_enabled()
    expect(page.locator("#detect-result")).not_to_be_visible()


def test_phone_shows_everything_without_scrolling_sideways(server: Served, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page.set_default_timeout(PATIENCE)
    page.goto(server.url, wait_until="domcontentloaded")
    choose_coins(page)
    run(page)
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 1
    nameless = """[...document.querySelectorAll('button, img')].filter(e => e.offsetParent &&
        !(e.innerText || e.ariaLabel || e.alt || e.title || e.querySelector('img')?.alt || '').trim())
        .map(e => e.outerHTML.slice(0, 200))"""
    assert page.evaluate(nameless) == []
    page.get_by_role("tab", name="Hunyuan3D-1", exact=True).click()
    expect(page.locator("#mesh-plan")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 1
    page.close()


def test_endpoint_answers_programs(server: Served, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    client = Client(server.url, verbose=False, download_files=str(tmp_path))
    offered = set(client.view_api(return_format="dict")["named_endpoints"])
    assert {"/detect"} <= offered <= {spec.endpoint for spec in ADAPTERS}
    small = tmp_path / "grey.png"
    Image.fromarray(np.full((40, 60, 3), 127, np.uint8)).save(small)
    pictures = [handle_file(EXAMPLES / "coins.png"), handle_file(small)]
    report, files = client.predict(pictures=pictures, threshold=0.5, variant="preview", api_name="/detect")
    first, second = report["pictures"]
    assert first["picture"] == "coins.png"
    assert len(first["detections"]) > 3
    left, top, right, bottom = first["detections"][0]["box"]
    assert 0 <= left < right <= 384
    assert 0 <= top < bottom <= 303
    assert second["detections"] == []
    assert report["predicted_seconds"] > 0
    assert report["seconds"] > 0
    assert len(files) == 2
    with Image.open(files[0]) as image:
        assert "anyhost" in image.info
    with pytest.raises(Exception, match="size 'huge' cannot be read"):
        client.predict(pictures=pictures, size="huge", api_name="/detect")
    client.close()
