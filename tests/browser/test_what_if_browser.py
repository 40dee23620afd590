"""Another machine in place of this one, on desktop and phone: five plans, what differs, what would change it."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from adapters import ADAPTERS
from tests.browser.chromium import PATIENCE, SIZES
from tests.browser.server import ROOT, Served

pytestmark = pytest.mark.browser


@pytest.fixture(params=SIZES)
def page(request: pytest.FixtureRequest, server: Served, browser: Browser) -> Iterator[Page]:
    width, height = SIZES[request.param]
    opened = browser.new_page(viewport={"width": width, "height": height})
    opened.set_default_timeout(PATIENCE)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(server.url, wait_until="domcontentloaded")
    opened.get_by_role("tab", name="What if", exact=True).first.click()
    expect(answer(opened).locator("article")).to_have_count(len(ADAPTERS), timeout=PATIENCE)
    yield opened
    wide = opened.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    opened.close()
    assert wide <= 1, f"{request.param} scrolls sideways by {wide} px"
    assert not errors


def answer(page: Page) -> Locator:
    return page.locator("#what-if-answer")


def choose(page: Page, control: str, machine: str) -> None:
    page.locator(f"{control} input").first.click()
    page.get_by_role("option", name=machine, exact=True).click()
    expect(page.get_by_role("option")).to_have_count(0)


def drop(page: Page, file: Path) -> None:
    page.set_input_files("#what-if-file input[type=file]", file)


def test_five_plans_side_by_side_or_stacked_with_what_differs(page: Page) -> None:
    said = answer(page)
    expect(said).to_contain_text("On Cloud GPU: T4 16 GB (Turing)")
    boxes = [box for box in (a.bounding_box() for a in said.locator("article").all()) if box]
    assert len(boxes) == len(ADAPTERS)
    phone = page.viewport_size is not None and page.viewport_size["width"] < 500
    if phone:
        assert all(below["y"] >= above["y"] + above["height"] for above, below in itertools.pairwise(boxes))
    else:
        assert len({round(box["y"]) for box in boxes}) == 1
        # What is compared stands at the same height in all five.
        rows = [[r.bounding_box() for r in a.locator(".ah-five-row").all()] for a in said.locator("article").all()]
        assert all(len({round(row["y"]) for row in line if row}) == 1 for line in zip(*rows, strict=True))
    detector = said.locator("article").first
    for words in ("Runs on", "cuda:0", "≠", "this machine: CPU", "fits", "Peak memory", "about"):
        expect(detector).to_contain_text(words)
    why = said.locator("details").first
    expect(why.locator(".ah-flips").first).to_be_hidden()
    why.locator("summary").press("Enter")
    expect(why.locator(".ah-flips").first).to_be_visible()
    expect(why).to_contain_text("Would change with")
    expect(why).to_contain_text("≠ not so on this machine")


def test_any_named_machine_and_any_comparison(page: Page) -> None:
    choose(page, "#what-if-host", "Desktop with a GTX 1060 6 GB (Pascal)")
    expect(answer(page)).to_contain_text("On Desktop with a GTX 1060 6 GB (Pascal)")
    expect(answer(page)).to_contain_text("a card with bf16")
    choose(page, "#what-if-against", "Cloud GPU: A100 40 GB (Ampere)")
    expect(answer(page).locator("article").first).to_contain_text("a100-40g: bf16")
    choose(page, "#what-if-host", "Cloud GPU: A100 40 GB (Ampere)")
    expect(answer(page)).to_contain_text("nothing is different from a100-40g")
    expect(answer(page).locator(".ah-differs")).to_have_count(0)
    page.get_by_label("Precision first", exact=True).last.check()
    expect(answer(page).locator("article").first).to_contain_text("fp32")


def test_a_described_machine_and_descriptions_that_cannot_be_used(page: Page, tmp_path: Path) -> None:
    described = json.loads((ROOT / "loader" / "hosts" / "t4-16g.json").read_text())
    small = described | {"name": "small", "title": "Small <b>box</b>", "accelerators": [], "ram_bytes": 2**28}
    file = tmp_path / "small.json"
    file.write_text(json.dumps(small | {"free_ram_bytes": 2**28}))
    drop(page, file)
    expect(answer(page)).to_contain_text("On Small <b>box</b>")
    refused = answer(page).locator("article", has_text="InstantID")
    expect(refused).to_contain_text("refused")
    expect(refused).to_contain_text(re.compile(r"free [\d.]+ GiB|Nearest that fits"))
    # Choosing a name lets go of the file.
    choose(page, "#what-if-host", "Cloud GPU: L4 24 GB (Ada)")
    expect(answer(page)).to_contain_text("On Cloud GPU: L4 24 GB (Ada)")
    expect(page.locator("#what-if-file")).not_to_contain_text("small.json")
    for content, says in (
        ("{", "does not describe a host"),
        (json.dumps(described | {"ram_bytes": -1}), "ram_bytes=-1"),
    ):
        bad = tmp_path / "bad.json"
        bad.write_text(content)
        drop(page, bad)
        expect(answer(page).locator("[role=alert]")).to_contain_text(says)
        page.locator("#what-if-file button[aria-label='Clear'], #what-if-file button[title='Clear']").first.click()
        expect(answer(page).locator("article")).to_have_count(len(ADAPTERS))
