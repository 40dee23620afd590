"""A visitor who waits sees where, and one whose run has ended can save a report of it; on the real page."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from playwright.sync_api import Browser, Page, expect

from kit.texts.labels import label
from loader.bundle import read_bundle, replayed
from tests.browser.chromium import PATIENCE, SIZES
from tests.browser.server import ROOT, Served

pytestmark = pytest.mark.browser
EXAMPLES = ROOT / "assets" / "examples"
WORDS: dict[str, Callable[[str], re.Pattern[str]]] = {
    "": lambda place: re.compile(rf"{place}(st|nd|rd|th) in line"),
    "zh": lambda place: re.compile(rf"排队第 {place} 位"),
}


def visit(browser: Browser, url: str, size: str) -> Page:
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, accept_downloads=True)
    page.set_default_timeout(PATIENCE)
    page.goto(url, wait_until="domcontentloaded")
    expect(page.locator("#detect-plan")).to_contain_text("DAMO-YOLO", timeout=PATIENCE)
    return page


@pytest.mark.parametrize(("size", "language"), [("desktop", ""), ("phone", "zh")])
def test_who_waits_sees_the_place_and_whose_run_has_ended_may_save_a_report(
    server: Served, browser: Browser, tmp_path: Path, size: str, language: str
) -> None:
    page = visit(browser, server.url + language, size)
    page.set_input_files("#detect-pictures input[type=file]", EXAMPLES / "coins.png")
    expect(page.locator("#detect-report-save")).to_be_hidden()
    # Somebody else has the machine for a while.
    others = [Client(server.url, verbose=False, analytics_enabled=False) for _ in range(2)]
    jobs = [
        other.submit(handle_file(str(EXAMPLES / "mesh_mug.png")), variant="miniature", api_name="/mesh")
        for other in others
    ]
    page.wait_for_function("() => document.querySelector('#detect-run')")
    while not jobs[1].outputs():
        page.wait_for_timeout(50)
    page.click("#detect-run")
    status = page.locator("#detect-status")
    expect(status).to_have_text(WORDS[language](r"\d+"), timeout=PATIENCE)
    for job in jobs:
        job.result(timeout=PATIENCE / 1000)

    save = page.locator("#detect-report-save")
    expect(save).to_be_visible(timeout=PATIENCE)
    expect(save).to_have_text(label("bundle.save", language or "en"))
    with page.expect_download() as fetched:
        save.click()
    fetched.value.save_as(tmp_path / "report.json")
    bundle = read_bundle(tmp_path / "report.json")
    assert bundle.plan.adapter == "damo_yolo"
    assert replayed(bundle).reproduces
    assert "coins" not in (tmp_path / "report.json").read_text(encoding="utf-8")
    page.close()
