"""The page of benchmarks in a real browser: a bench to its end, files, Stop, and figures while serving."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from bench.rows import report_file
from tests.browser.chromium import PATIENCE, SIZES
from tests.browser.server import Served

pytestmark = pytest.mark.browser


@pytest.fixture(params=SIZES)
def page(request: pytest.FixtureRequest, browser: Browser, server: Served) -> Iterator[Page]:
    width, height = SIZES[request.param]
    opened = browser.new_page(viewport={"width": width, "height": height})
    opened.set_default_timeout(PATIENCE)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(server.url, wait_until="domcontentloaded")
    choose_tab(opened, "Benchmarks")
    expect(opened.locator("#bench-run")).to_be_visible(timeout=PATIENCE)
    yield opened
    wide = opened.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    opened.close()
    assert wide <= 1, f"{request.param} scrolls sideways by {wide} px"
    assert not errors


def choose_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).first.click()


def test_a_bench_from_the_page_with_charts_table_and_files(page: Page) -> None:
    page.locator("#bench-size").locator("input, textarea").fill("96x96")
    page.get_by_label("peak memory (a process for each row)").uncheck()
    page.click("#bench-run")
    expect(page.locator("#bench-stop")).to_be_visible()
    expect(page.locator("#bench-status [role=progressbar]")).to_be_visible()
    results = page.locator("#bench-results")
    expect(results).to_contain_text("Planned:", timeout=PATIENCE)
    expect(page.locator("#bench-stop")).to_be_hidden(timeout=PATIENCE)
    for words in ("at 96×96", "as published", "merged, fp32", "planned", "Pictures a second"):
        expect(results).to_contain_text(words)
    assert results.locator("svg[role=img]").count() >= 2
    for chart in results.locator("svg[role=img]").all():
        box, card = chart.bounding_box(), results.bounding_box()
        assert box is not None
        assert card is not None
        assert box["x"] >= card["x"]
        assert box["x"] + box["width"] <= card["x"] + card["width"] + 1
    expect(page.locator("#bench-reference")).to_contain_text("45.2 ms")
    with page.expect_download() as waiting:
        page.click("#bench-save-json")
    kept = report_file(waiting.value.path())
    assert all(row.size == (96, 96) and row.repeats == 7 for row in kept.rows)
    page.reload(wait_until="domcontentloaded")
    choose_tab(page, "Benchmarks")
    expect(page.locator("#bench-results")).to_contain_text("at 96×96", timeout=PATIENCE)


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_stop_and_figures_while_serving(page: Page) -> None:
    page.locator("#bench-size").locator("input, textarea").fill("96x96")
    page.click("#bench-run")
    page.click("#bench-stop")
    expect(page.locator("#bench-status")).to_contain_text("Stopped", timeout=PATIENCE)
    choose_tab(page, "DAMO-YOLO")
    page.locator("#detect-examples button:has(img[alt='coins'])").click()
    expect(page.locator("#detect-pictures .gallery-item img")).to_have_count(1, timeout=PATIENCE)
    page.click("#detect-run")
    expect(page.locator("#detect-image img")).to_be_visible(timeout=PATIENCE)
    choose_tab(page, "Benchmarks")
    live = page.locator("#bench-live")
    expect(live).to_contain_text("DAMO-YOLO", timeout=PATIENCE)
    expect(live).to_contain_text(re.compile(r"Runs\s*\d"))
    expect(live).to_contain_text("Weights in memory now")
