"""The page of weights in a real browser, fetching from a slow server on this machine."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import PATIENCE
from tests.browser.server import Served, served
from tests.browser.weights_app import SIZE
from tests.file_server import FileServer, serving
from tests.file_server import Served as File

CONTENT = (bytes(range(256)) * (SIZE // 256 + 1))[:SIZE]
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def files() -> Iterator[FileServer]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, files: FileServer) -> Iterator[Served]:
    command = ("-m", "tests.browser.weights_app", files.url(""), "serve")
    with served(tmp_path_factory.mktemp("served"), command, ANYHOST_PROBE_SECONDS="0") as running:
        yield running


@pytest.fixture(autouse=True)
def anew(files: FileServer, server: Served) -> None:
    """No file fetched, every file at a pace that can be watched."""
    shutil.rmtree(server.cache / "weights", ignore_errors=True)
    files.seen.clear()
    for name in ("nano.pth", "terms.pth", "one.pth", "two.pth"):
        files.files[f"/{name}"] = File(CONTENT, pace_s=0.08)


def open_weights(browser: Browser, url: str, variant: str, tab: str = "Weights", width: int = 1360) -> Page:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(url, wait_until="domcontentloaded")
    page.get_by_role("tab", name=tab, exact=True).click()
    choose(page, variant)
    return page


def choose(page: Page, variant: str) -> None:
    page.locator("#weights-variant input").click()
    page.get_by_role("option", name=re.compile(f"^DAMO-YOLO {variant}:")).click()
    expect(page.locator("#weights-files h3")).to_contain_text(re.compile(rf"DAMO-YOLO {variant}\b"), timeout=PATIENCE)


def sideways(page: Page) -> int:
    over: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return over


def test_download_stop_go_on_and_delete(browser: Browser, server: Served, files: FileServer) -> None:
    page = open_weights(browser, server.url, "N")
    status, fetch, stop = (page.locator(f"#weights-{name}") for name in ("status", "fetch", "stop"))
    expect(page.locator("#weights-line")).to_contain_text("Will fetch one file, 3 MB")
    assert files.seen == [], "something was fetched before the click"
    fetch.click()
    expect(status).to_contain_text(re.compile(r"Downloading nano\.pth.*B of 3 MB", re.DOTALL), timeout=PATIENCE)
    expect(status).to_contain_text(re.compile(r"a second · about .* left"), timeout=PATIENCE)
    stop.click()
    expect(status).to_contain_text("Download stopped", timeout=PATIENCE)
    expect(fetch).to_contain_text("Go on: ")
    fetch.click()
    expect(status).to_contain_text("All files are here", timeout=PATIENCE)
    assert files.seen[-1][2] is not None, "it began again from the first byte"
    expect(page.locator("#weights-files")).to_contain_text("recorded here at first use")
    kept = server.cache / "weights" / "nano.pth"
    assert kept.read_bytes() == CONTENT
    page.click("#weights-delete")
    expect(page.locator("#weights-sure")).to_contain_text(str(kept))
    page.click("#weights-keep")
    expect(page.locator("#weights-sure")).not_to_be_visible()
    assert kept.exists()
    page.click("#weights-delete")
    page.click("#weights-yes")
    expect(status).to_contain_text("Deleted", timeout=PATIENCE)
    assert not kept.exists()
    page.close()


def test_two_browsers_share_one_download_and_a_closed_one_loses_nothing(
    browser: Browser, server: Served, files: FileServer
) -> None:
    first, second = (open_weights(browser, server.url, "Nm") for _ in range(2))
    first.click("#weights-fetch")
    expect(first.locator("#weights-status")).to_contain_text("file 1 of 2", timeout=PATIENCE)
    choose(second, "N")
    choose(second, "Nm")
    expect(second.locator("#weights-status")).to_contain_text("Downloading", timeout=PATIENCE)
    expect(second.locator("#weights-fetch")).to_contain_text("Join this download")
    second.click("#weights-fetch")
    expect(second.locator("#weights-fetch")).not_to_be_visible(timeout=PATIENCE)
    first.close()
    expect(second.locator("#weights-status")).to_contain_text("All files are here", timeout=PATIENCE)
    assert sorted(path for _, path, _ in files.seen) == ["/one.pth", "/two.pth"]
    second.close()


def test_terms_are_ticked_first(browser: Browser, server: Served, files: FileServer) -> None:
    page = open_weights(browser, server.url, "Ns")
    tick = page.get_by_label("I have read and accept: Research Terms")
    expect(tick).to_be_visible()
    assert page.get_by_role("link", name="Research Terms").first.get_attribute("href") == "https://example.org/terms"
    page.click("#weights-fetch")
    expect(page.locator("#weights-status [role=alert]")).to_contain_text("Terms to accept first", timeout=PATIENCE)
    assert files.seen == []
    tick.check()
    page.click("#weights-fetch")
    expect(page.locator("#weights-status")).to_contain_text("All files are here", timeout=PATIENCE)
    choose(page, "N")
    expect(tick).not_to_be_visible(timeout=PATIENCE)
    page.close()


def test_phone_in_chinese(browser: Browser, server: Served, tmp_path: Path) -> None:
    page = open_weights(browser, f"{server.url}zh", "Nm", tab="权重", width=390)
    page.click("#weights-fetch")
    expect(page.locator("#weights-status")).to_contain_text("第 1 个文件", timeout=PATIENCE)
    assert sideways(page) <= 1
    page.click("#weights-stop")
    expect(page.locator("#weights-status")).to_contain_text("下载已停止", timeout=PATIENCE)
    table = page.locator("#weights-files table")
    assert table.evaluate("t => t.scrollWidth - t.parentElement.clientWidth") <= 1, "a phone has to scroll the table"
    assert sideways(page) <= 1
    page.close()
