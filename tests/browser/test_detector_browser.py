"""The detector as people meet it: filters, files, a video, a camera, weights of their own, and what goes wrong."""

import csv
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, FilePayload, Locator, Page, Request, expect

from kit.video import ClipWriter, probe_clip
from tests.browser.chromium import PATIENCE
from tests.browser.server import ROOT, Served
from tests.onnx_bytes import classifier

COINS = ROOT / "assets" / "examples" / "coins.png"
WOOD = ROOT / "assets" / "examples" / "scene_wood.jpg"
PREVIEW = ROOT / "assets" / "weights" / "damo_yolo_preview_ns.safetensors"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
pytestmark = pytest.mark.browser


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(permissions=["camera"])
    yield made
    made.close()


def visit(context: BrowserContext, url: str, size: str = "desktop") -> Page:
    page = context.new_page()
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    page.set_default_timeout(PATIENCE)
    page.goto(url, wait_until="domcontentloaded")
    expect(page.locator("#detect-plan")).to_contain_text("DAMO-YOLO", timeout=PATIENCE)
    return page


@pytest.fixture(params=SIZES)
def page(request: pytest.FixtureRequest, server: Served, context: BrowserContext) -> Iterator[Page]:
    """The page on a desktop and on a phone, where nothing may be wider than the screen."""
    opened = visit(context, server.url, request.param)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    over = opened.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    opened.close()
    assert not errors
    assert over <= 1


def upload(page: Page, *paths: Path) -> None:
    page.set_input_files("#detect-pictures input[type=file]", list(paths))
    expect(page.locator("#detect-pictures .gallery-item img")).to_have_count(len(paths), timeout=PATIENCE)


def run(page: Page, shows: str = "#detect-image img") -> None:
    page.click("#detect-run")
    expect(page.locator(shows)).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#detect-run")).to_be_visible(timeout=PATIENCE)


def rows(page: Page) -> Locator:
    return page.locator("#detect-table tbody tr")


def total(page: Page) -> int:
    """How many objects the counts add up to."""
    return sum(int(words) for words in page.locator("#detect-counts li strong").all_inner_texts())


def settled(page: Page, before: int) -> int:
    """The total once it is no longer ``before`` and stays."""
    page.wait_for_function(
        """before => {
          const all = [...document.querySelectorAll('#detect-counts li strong')];
          const now = all.reduce((sum, one) => sum + Number(one.innerText), 0);
          const same = now === window.ahLast;
          window.ahLast = now;
          return same && now !== before;
        }""",
        arg=before,
        polling=400,
        timeout=PATIENCE,
    )
    return total(page)


def slide(page: Page, part: str, value: str) -> None:
    number = page.locator(f"#{part} input[type=number]")
    page.wait_for_timeout(500)  # a run that has just ended still hands over its last values
    number.fill(value)
    number.press("Enter")


def saved(page: Page, press: str | Locator, folder: Path) -> Path:
    with page.expect_download(timeout=PATIENCE) as download:
        (page.locator(press) if isinstance(press, str) else press).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def clip(path: Path, frames: int) -> Path:
    """Coins that move by 8 pixels a frame, ten frames a second."""
    rgb = np.asarray(Image.open(COINS).convert("RGB").resize((256, 202)))
    with ClipWriter(path, fps=10) as writer:
        for index in range(frames):
            writer.write(np.roll(rgb, 8 * index, axis=1), index / 10)
    return path


def choose_clip(page: Page, path: Path) -> None:
    page.get_by_role("tab", name="Video", exact=True).first.click()
    page.set_input_files("#detect-clip input[type=file]", path)
    expect(page.locator("#detect-clip video")).to_be_visible(timeout=PATIENCE)


# --- pictures -----------------------------------------------------------------------------------------------------


def test_overlap_threshold_and_names_are_applied_again_without_the_network(page: Page, server: Served) -> None:
    upload(page, WOOD)
    run(page)
    runs = server.runs()
    expect(page.locator("#detect-streams")).to_contain_text("pictures a second")
    totals = [total(page)]
    for part, value in (("threshold", "0.9"), ("threshold", "0.2"), ("iou", "1"), ("iou", "0.7")):
        slide(page, f"detect-{part}", value)
        totals.append(settled(page, totals[-1]))
    _, strict, loose, everything, again = totals
    assert strict < loose < everything, "without suppression there is more than with it"
    assert again == loose
    name = rows(page).first.locator("td").first.inner_text()
    page.locator("#detect-classes input").click()
    page.get_by_role("option", name=name, exact=True).click()
    expect(page.locator("#detect-counts li")).to_have_count(1, timeout=PATIENCE)
    assert {cell.inner_text() for cell in rows(page).locator("td:first-child").all()} == {name}
    assert server.runs() == runs, "a filter ran the network again"


def test_what_is_shown_is_what_is_saved(page: Page, tmp_path: Path) -> None:
    upload(page, COINS)
    run(page)
    slide(page, "detect-threshold", "0.8")
    expect(page.locator("#detect-table")).not_to_contain_text("0.7", timeout=PATIENCE)
    shown = rows(page).count()
    assert shown > 2
    with saved(page, "#detect-save-csv", tmp_path).open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["label"] for row in table] == ["coin"] * shown
    assert table[0]["weights"].startswith("preview weights")
    coco = json.loads(saved(page, "#detect-save-coco", tmp_path).read_text(encoding="utf-8"))
    assert len(coco["annotations"]) == shown
    assert coco["info"]["threshold"] == pytest.approx(0.8)
    with zipfile.ZipFile(saved(page, "#detect-save-crops", tmp_path)) as archive:
        assert len(archive.namelist()) == shown
    expect(page.locator("#detect-cuts .thumbnail-item")).to_have_count(min(shown, 24), timeout=PATIENCE)
    one = saved(page, page.locator("#detect-cuts .thumbnail-item").nth(1), tmp_path)
    assert one.name == "coins-002-coin.png"
    with Image.open(one) as image:
        told = json.loads(image.info["anyhost"])
    assert told["score"] == pytest.approx(float(table[1]["score"]), abs=1e-3)


# --- videos -------------------------------------------------------------------------------------------------------


def test_stop_half_way_keeps_a_video_that_plays(page: Page, tmp_path: Path) -> None:
    choose_clip(page, clip(tmp_path / "coins.mp4", 400))
    page.click("#detect-run")
    status = page.locator("#detect-status")
    expect(status).to_contain_text(re.compile(r"Detecting\s*\d+ of 400"), timeout=PATIENCE)
    expect(page.locator("#detect-live img")).to_be_visible(timeout=PATIENCE)
    expect(status).to_contain_text(re.compile(r"about .* left"), timeout=PATIENCE)
    page.click("#detect-stop")
    video = page.locator("#detect-clip-shown video")
    expect(video).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#detect-run")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#detect-live")).to_be_hidden()
    expect(status).to_contain_text("Stopped")
    kept = saved(page, "#detect-clip-save-clip", tmp_path)
    frames = probe_clip(kept).frames
    assert 0 < frames < 400
    expect(page.locator("#detect-clip-summary")).to_contain_text(f"{frames} frames")
    playable = (
        "v => new Promise(done => { if (v.readyState) done(v.duration); v.onloadedmetadata = () => done(v.duration) })"
    )
    assert video.evaluate(playable) == pytest.approx(frames / 10, abs=0.25)
    lines = saved(page, "#detect-clip-save-lines", tmp_path).read_text(encoding="utf-8").splitlines()
    assert len(lines) == frames + 1, "a head and a line a frame, and no end"


def test_a_video_comes_back_with_its_boxes_its_data_and_the_streams(page: Page, tmp_path: Path) -> None:
    choose_clip(page, clip(tmp_path / "coins.mp4", 12))
    slide(page, "detect-every", "3")
    run(page, "#detect-clip-shown video")
    summary = page.locator("#detect-clip-summary")
    for words in ("coins.mp4: 4 frames", "coin", "detecting alone", "of 30"):
        expect(summary).to_contain_text(words)
    expect(page.locator("#detect-clip-result")).to_contain_text("preview weights")
    expect(page.locator("#detect-figures")).to_contain_text("measured")
    with saved(page, "#detect-clip-save-csv", tmp_path).open(encoding="utf-8", newline="") as file:
        assert {row["frame"] for row in csv.DictReader(file)} == {"0", "3", "6", "9"}
    page.get_by_role("tab", name="Pictures", exact=True).first.click()
    expect(page.locator("#detect-clip-result")).to_be_hidden(timeout=PATIENCE)


# --- the camera ---------------------------------------------------------------------------------------------------


def start_camera(page: Page) -> None:
    page.get_by_role("tab", name="Camera", exact=True).click()
    page.get_by_text("Click to Access Webcam").click()
    page.locator("#detect-camera").get_by_role("button", name=re.compile("capture|record", re.IGNORECASE)).click()
    expect(page.locator("#detect-camera-rate")).to_contain_text(re.compile(r"\d frames a second"), timeout=PATIENCE)


def test_a_camera_lets_others_in_and_stops_when_it_is_left(page: Page, server: Served, context: BrowserContext) -> None:
    start_camera(page)
    expect(page.locator("#detect-camera-image img")).to_be_visible()
    expect(page.locator("#detect-run")).to_be_hidden()
    expect(page.locator("#detect-camera-rate")).to_contain_text("of 30 a second", timeout=PATIENCE)
    other = visit(context, server.url)
    upload(other, COINS)
    run(other)
    assert rows(other).count() > 3
    other.close()
    page.get_by_role("tab", name="Metric3D", exact=True).first.click()
    expect(page.locator("#detect-camera video")).to_have_count(0, timeout=PATIENCE)
    page.wait_for_timeout(1000)
    rate = page.locator("#detect-camera-rate").text_content()
    page.wait_for_timeout(1500)
    assert page.locator("#detect-camera-rate").text_content() == rate, "it went on although nobody looked"
    page.get_by_role("tab", name="DAMO-YOLO", exact=True).first.click()
    expect(page.get_by_text("Click to Access Webcam")).to_be_visible(timeout=PATIENCE)


# --- own weights --------------------------------------------------------------------------------------------------


def own(page: Page) -> Locator:
    page.locator("#detect-own button").first.click()
    return page.locator("#detect-own-line")


def test_own_weights_run_by_upload_and_by_path_under_their_own_names(page: Page, tmp_path: Path) -> None:
    line = own(page)
    expect(line).to_contain_text("the published weights run")
    mine = tmp_path / "mine.safetensors"
    shutil.copy(PREVIEW, mine)
    page.set_input_files("#detect-own-file input[type=file]", mine)
    expect(line).to_contain_text("mine.safetensors is a DAMO-YOLO Ns with 5 classes", timeout=PATIENCE)
    page.locator("#detect-own-names textarea, #detect-own-names input").fill("penny, b, c, d, e")
    upload(page, COINS)
    run(page)
    expect(page.locator("#detect-counts")).to_contain_text("penny")
    expect(page.locator("#detect-figures")).to_contain_text("mine.safetensors")
    # Whoever sits at the machine may name a path instead.
    path = page.locator("#detect-own-path textarea, #detect-own-path input")
    path.fill(str(tmp_path / "nowhere.pth"))
    path.press("Enter")
    expect(line).to_contain_text("nowhere.pth is not there", timeout=PATIENCE)
    path.fill(str(PREVIEW))
    path.press("Enter")
    expect(line).to_contain_text("damo_yolo_preview_ns.safetensors is a DAMO-YOLO Ns", timeout=PATIENCE)


def test_an_onnx_file_that_is_no_detector_is_refused_before_and_at_the_run(page: Page, tmp_path: Path) -> None:
    line = own(page)
    wrong = tmp_path / "cat or dog.onnx"
    wrong.write_bytes(classifier())
    page.set_input_files("#detect-own-file input[type=file]", wrong)
    expect(line).to_contain_text("is not a detector this program runs", timeout=PATIENCE)
    upload(page, COINS)
    page.click("#detect-run")
    error = page.locator("#detect-status [role=alert]")
    expect(error).to_contain_text("Export it with its decoding and without suppression", timeout=PATIENCE)
    expect(page.locator("#detect-run")).to_be_enabled()


# --- what goes wrong ----------------------------------------------------------------------------------------------


def test_files_that_are_too_large_are_refused_with_limit_and_remedy_before_they_travel(
    page: Page, tmp_path: Path
) -> None:
    for name, megabytes, into, words in (
        ("big.jpg", 300, "pictures", "big.jpg has 300 MB; the limit of a picture is 50 MB: scale it down"),
        ("long.mp4", 601, "clip", "long.mp4 has 601 MB; the limit of a video is 600 MB: cut it"),
    ):
        if into == "clip":
            page.get_by_role("tab", name="Video", exact=True).first.click()
        with (tmp_path / name).open("wb") as file:
            file.truncate(megabytes * 2**20)  # takes no room
        sent: list[str] = []
        page.on("request", partial(_note_upload, sent))
        page.set_input_files(f"#detect-{into} input[type=file]", tmp_path / name)
        expect(page.locator(".ah-upload-limit [role=alert]:visible")).to_contain_text(words, timeout=PATIENCE)
        assert sent == []


def _note_upload(sent: list[str], request: Request) -> None:
    if "/upload" in request.url:
        sent.append(request.url)


HOSTILE = (
    "<img src=x onerror=alert(1)>.png",
    "..\\..\\windows.png",
    "=cmd|' !A0.png",
    "\u202egnp.exe.png",
    f"{'very ' * 40}long.png",
    "con.png",
)


def test_hostile_file_names_stay_names(page: Page, tmp_path: Path) -> None:
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    data = COINS.read_bytes()
    files: list[FilePayload] = [{"name": name, "mimeType": "image/png", "buffer": data} for name in HOSTILE]
    page.set_input_files("#detect-pictures input[type=file]", files)
    expect(page.locator("#detect-pictures .gallery-item img")).to_have_count(len(HOSTILE), timeout=PATIENCE)
    run(page)
    expect(page.locator("#detect-strip .thumbnail-item")).to_have_count(len(HOSTILE), timeout=PATIENCE)
    assert page.locator("img[src='x']").count() == 0
    assert dialogs == []
    with zipfile.ZipFile(saved(page, "#detect-save-picture", tmp_path)) as archive:
        names = archive.namelist()
    assert len(set(names)) == len(HOSTILE) + 1
    assert all(re.fullmatch(r"[\w.-]{1,100}", name) and not name.startswith(".") for name in names)
    with saved(page, "#detect-save-csv", tmp_path).open(encoding="utf-8", newline="") as file:
        assert not [row for row in csv.DictReader(file) if row["picture"].startswith("=")]


def test_a_video_that_is_none_is_refused_and_one_without_an_end_is_taken_so_far(page: Page, tmp_path: Path) -> None:
    whole = clip(tmp_path / "whole.mp4", 40).read_bytes()
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(whole[: len(whole) * 6 // 10])
    choose_clip(page, torn)
    run(page, "#detect-clip-shown video")
    expect(page.locator("#detect-clip-summary")).to_contain_text("not to its end: torn.mp4")
    page.locator("#detect-clip").get_by_role("button", name="Clear").click()
    text = tmp_path / "text.mp4"
    text.write_text("this is no video " * 100)
    page.set_input_files("#detect-clip input[type=file]", text)
    page.wait_for_timeout(1500)
    page.click("#detect-run")
    error = page.locator("#detect-status [role=alert]")
    expect(error).to_contain_text("text.mp4 is not a video this program reads", timeout=PATIENCE)
    expect(page.locator("#detect-run")).to_be_enabled()


def test_two_browsers_at_once_get_their_own_results(server: Served, browser: Browser, tmp_path: Path) -> None:
    contexts = [browser.new_context() for _ in range(2)]
    pages = [visit(context, server.url) for context in contexts]
    grey = tmp_path / "grey.png"
    Image.fromarray(np.full((200, 300, 3), 127, np.uint8)).save(grey)
    copies = [shutil.copy(COINS, tmp_path / f"coins-{number}.png") for number in range(8)]
    upload(pages[0], *map(Path, copies))
    upload(pages[1], grey)
    for page in pages:
        page.click("#detect-run")
    for page in pages:
        expect(page.locator("#detect-image img")).to_be_visible(timeout=PATIENCE)
    assert "coins-0.png" in (pages[0].locator("#detect-image img").get_attribute("alt") or "")
    assert "grey.png" in (pages[1].locator("#detect-image img").get_attribute("alt") or "")
    assert rows(pages[0]).count() > 3
    assert rows(pages[1]).count() == 0
    told = [json.loads(saved(page, "#detect-save-data", tmp_path).read_text(encoding="utf-8")) for page in pages]
    assert [len(data["pictures"]) for data in told] == [8, 1]
    for context in contexts:
        context.close()
