"""The hot path of a ZeroGPU Space's page: planned here, a card asked for, computed in a forked worker, shown here."""

import json
import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.chromium import PATIENCE
from tests.browser.server import ROOT, served

pytestmark = pytest.mark.browser


def test_the_page_of_a_zerogpu_space_detects_on_a_card_that_only_workers_have(browser: Browser, tmp_path: Path):
    told = tmp_path / "told.json"
    path = os.pathsep.join([str(ROOT / "tests" / "fake_spaces"), str(ROOT)])
    command = ("-m", "tests.browser.zerogpu_app", str(told))
    with served(tmp_path, command, PYTHONPATH=path, OMP_NUM_THREADS="1") as server:
        page = browser.new_page(viewport={"width": 1360, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.goto(server.url, wait_until="domcontentloaded")
        expect(page.locator("body")).to_contain_text("ZeroGPU", timeout=PATIENCE)
        expect(page.locator("#detect-plan")).to_contain_text("fake:0", timeout=PATIENCE)
        for _ in range(2):  # the second worker begins as new as the first
            page.locator("#detect-examples button:has(img[alt='coins'])").click()
            expect(page.locator("#detect-pictures .gallery-item img")).to_have_count(1, timeout=PATIENCE)
            page.click("#detect-run")
            expect(page.locator("#detect-figures")).to_contain_text("fake:0", timeout=PATIENCE)
            expect(page.locator("#detect-counts")).to_contain_text(re.compile("24"), timeout=PATIENCE)
            expect(page.locator("#detect-run")).to_be_visible(timeout=PATIENCE)
        page.close()
    found = json.loads(told.read_text())
    assert len(found["asked"]) == 2
    assert all(15 <= seconds < 60 for seconds in found["asked"])
    assert found["computed_in_main"] == 0
