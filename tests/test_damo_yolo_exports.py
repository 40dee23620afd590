"""Detections in other programs' formats: laid out as those expect, harmless, and never without their weights' note."""

import csv
import io
import json
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from adapters import adapter
from adapters.damo_yolo import exports, job
from adapters.damo_yolo.capacity import TEXTS, capacity, capacity_text
from adapters.damo_yolo.exports import PREVIEW_NOTE, Shot, category_ids, coco_record, crops, csv_text, read_formats
from adapters.damo_yolo.labels import COCO_LABELS, PREVIEW_LABELS
from adapters.damo_yolo.pipeline import Seen
from adapters.damo_yolo.postprocess import Detection
from kit.images import Picture
from loader.errors import InputError
from loader.outcome import Result
from loader.wishes import Wishes
from tests.machines import ROOT, engine_on, host_with

SPEC = adapter("damo_yolo")
COINS = ROOT / "assets" / "examples" / "coins.png"
WOOD = ROOT / "assets" / "examples" / "scene_wood.jpg"
SETTINGS = {"adapter": "damo_yolo", "weights": PREVIEW_NOTE, "threshold": 0.5}
OPTIONS = {name: default for name, (_, default, _) in job.OPTIONS.items()}


def seen_in(name, *found, labels=PREVIEW_LABELS, size=(40, 60)):
    made = tuple(Detection(labels[class_id], class_id, score, box) for class_id, score, box in found)
    return Seen(name, size, made, labels)


TWO = seen_in("a.png", (0, 0.91234, (1.25, 2.5, 11.25, 22.5)), (3, 0.6, (0.0, 0.0, 60.0, 40.0)))
NONE = seen_in("b.png", size=(30, 20))


# --- COCO ---------------------------------------------------------------------------------------------------------


def check_coco(data):
    """The layout of cocodataset.org's "Data format" for object detection."""
    assert {"info", "licenses", "images", "annotations", "categories"} <= data.keys()
    images = {image["id"]: image for image in data["images"]}
    categories = {category["id"] for category in data["categories"]}
    assert len(images) == len(data["images"])
    assert len(categories) == len(data["categories"])
    assert all({"id", "name", "supercategory"} == c.keys() for c in data["categories"])
    assert all(isinstance(i["file_name"], str) and i["width"] > 0 and i["height"] > 0 for i in data["images"])
    assert len({a["id"] for a in data["annotations"]}) == len(data["annotations"])
    for annotation in data["annotations"]:
        image = images[annotation["image_id"]]
        assert annotation["category_id"] in categories
        assert annotation["iscrowd"] == 0
        assert annotation["segmentation"] == []
        x, y, width, height = annotation["bbox"]
        assert width > 0
        assert height > 0
        assert x >= 0
        assert y >= 0
        assert x + width <= image["width"] + 0.02
        assert y + height <= image["height"] + 0.02
        assert annotation["area"] == pytest.approx(width * height, rel=0.01)


def test_coco_has_its_layout_with_boxes_as_left_top_width_height():
    data = json.loads(json.dumps(coco_record([TWO, NONE], SETTINGS)))
    check_coco(data)
    assert [i["file_name"] for i in data["images"]] == ["a.png", "b.png"]
    assert (data["images"][0]["height"], data["images"][0]["width"]) == (40, 60)
    first = data["annotations"][0]
    assert first["bbox"] == [1.25, 2.5, 10.0, 20.0]
    assert first["area"] == 200.0
    assert first["score"] == 0.9123
    assert data["categories"][first["category_id"] - 1]["name"] == "coin"
    assert PREVIEW_NOTE in data["info"]["description"]


def test_coco_s_classes_have_coco_s_numbers():
    ids = dict(zip(COCO_LABELS, category_ids(COCO_LABELS), strict=True))
    # From the annotations of 2017: numbers skip where a class was dropped.
    known = {"person": 1, "fire hydrant": 11, "stop sign": 13, "umbrella": 28, "handbag": 31, "bottle": 44}
    assert {name: ids[name] for name in known} == known
    assert (ids["dining table"], ids["toilet"], ids["tv"], ids["book"], ids["toothbrush"]) == (67, 70, 72, 84, 90)
    assert category_ids(PREVIEW_LABELS) == (1, 2, 3, 4, 5)


def test_no_picture_at_all_is_still_coco():
    check_coco(coco_record([], SETTINGS))


# --- CSV ----------------------------------------------------------------------------------------------------------


def test_csv_has_a_row_a_detection_with_the_weights_in_a_column():
    rows = list(csv.DictReader(io.StringIO(csv_text([TWO, NONE], SETTINGS), newline="")))
    assert len(rows) == 2
    assert rows[0]["label"] == "coin"
    assert [float(rows[0][edge]) for edge in ("left", "top", "right", "bottom")] == [1.25, 2.5, 11.25, 22.5]
    assert {row["weights"] for row in rows} == {PREVIEW_NOTE}


def test_csv_survives_commas_quotes_and_cells_a_spreadsheet_would_compute():
    evil = ('=HYPERLINK("x")', 'cup, "blue"')
    seen = seen_in("+1.png", (0, 0.9, (0, 0, 1, 1)), (1, 0.8, (0, 0, 1, 1)), labels=evil)
    rows = list(csv.DictReader(io.StringIO(csv_text([seen], SETTINGS), newline="")))
    assert rows[0]["label"].startswith("'=")
    assert rows[0]["picture"] == "'+1.png"
    assert rows[1]["label"] == 'cup, "blue"'


# --- crops --------------------------------------------------------------------------------------------------------


def test_crops_are_the_pixels_of_the_boxes():
    rgb = np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    (name, _, cut), (_, _, whole) = crops(Shot(Picture(rgb, "a.png"), TWO))
    assert name == "a-001-coin.png"
    assert np.array_equal(cut, rgb[2:23, 1:12])
    assert np.array_equal(whole, rgb)


def test_crops_of_slivers_have_at_least_a_pixel():
    rgb = np.zeros((40, 60, 3), np.uint8)
    seen = seen_in("a.png", (0, 0.9, (59.9, 39.9, 60.0, 40.0)), (0, 0.9, (60.0, 3.0, 60.0, 3.2)))
    assert [cut.shape for _, _, cut in crops(Shot(Picture(rgb, "a.png"), seen))] == [(1, 1, 3), (1, 1, 3)]


def test_names_of_crops_are_harmless(tmp_path):
    labels = ("../../etc/passwd", "a b/c:d*e?", "杯子", "///")
    seen = seen_in("../../x y.png", *((i, 0.9, (0.0, 0.0, 5.0, 5.0)) for i in range(4)), labels=labels)
    shot = Shot(Picture(np.zeros((40, 60, 3), np.uint8), "../../x y.png"), seen)
    files = exports.write_crops(shot, tmp_path / "crops", SETTINGS)
    assert all(file.parent == tmp_path / "crops" for file in files)
    assert all(re.fullmatch(r"[\w-]+\.png", file.name) for file in files)
    assert files[2].name == "x_y-003-杯子.png"
    assert json.loads(Image.open(files[0]).text["anyhost"])["weights"] == PREVIEW_NOTE


def test_zip_of_crops_keeps_every_one_where_names_repeat():
    shot = Shot(Picture(np.zeros((40, 60, 3), np.uint8), "a.png"), TWO)
    with zipfile.ZipFile(io.BytesIO(exports.crops_zip([shot, shot], SETTINGS))) as archive:
        names = archive.namelist()
        assert len(set(names)) == len(names) == 4
        inside = Image.open(archive.open(names[0]))
        assert json.loads(inside.text["anyhost"])["label"] == "coin"


# --- the job ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coins(tmp_path_factory):
    """A run on two pictures, all classes."""
    engine = engine_on(host_with(), tmp_path_factory.mktemp("coins"))
    asked = job.request([COINS, WOOD], OPTIONS | {"formats": ",".join(exports.FORMATS)})
    *_, result = engine.run(SPEC, asked, Wishes(variant="preview", size=(320, 320), dtype="fp32"))
    engine.close()
    assert isinstance(result, Result)
    return asked, result


def test_every_format_is_written_and_says_what_the_weights_are(coins, tmp_path):
    asked, result = coins
    first, second, tables = job.write(result, asked, tmp_path)
    assert len(first["detections"]) >= 20
    png, data, *cuts = first["files"]
    assert len(cuts) == len(first["detections"])
    assert json.loads(Image.open(png).text["anyhost"])["weights"] == PREVIEW_NOTE
    assert json.loads((tmp_path / "coins-detections.json").read_text())["settings"]["weights"] == PREVIEW_NOTE
    assert data == str(tmp_path / "coins-detections.json")
    table, coco = tables["files"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "detections.csv").read_bytes().decode(), newline="")))
    assert table == str(tmp_path / "detections.csv")
    assert len(rows) == len(first["detections"]) + len(second["detections"])
    assert rows[0]["weights"] == PREVIEW_NOTE
    loaded = json.loads((tmp_path / "detections-coco.json").read_text())
    assert coco == str(tmp_path / "detections-coco.json")
    check_coco(loaded)
    assert len(loaded["annotations"]) == len(rows)
    assert PREVIEW_NOTE in loaded["info"]["description"]


def test_nothing_is_overwritten(coins, tmp_path):
    asked, result = coins
    files = [f for _ in range(2) for record in job.write(result, asked, tmp_path) for f in record["files"]]
    assert len(set(files)) == len(files)


def test_only_the_wanted_formats_are_written(coins, tmp_path):
    asked, result = coins
    (first, _, tables) = job.write(result, replace(asked, formats=("csv",)), tmp_path)
    assert first["files"] == []
    assert [p.name for p in tmp_path.iterdir()] == ["detections.csv"]
    assert len(tables["files"]) == 1


def test_own_weights_carry_their_own_note(coins, tmp_path):
    asked, result = coins
    own = replace(result, weights="own file mine.pth")
    job.write(own, replace(asked, formats=("csv", "json")), tmp_path)
    assert "own file mine.pth" in (tmp_path / "detections.csv").read_text()
    assert PREVIEW_NOTE not in (tmp_path / "detections.csv").read_text()


def test_only_the_wanted_classes_are_detected(tmp_path):
    engine = engine_on(host_with(), tmp_path)
    wishes = Wishes(variant="preview", size=(320, 320), dtype="fp32")
    asked = job.request([WOOD], OPTIONS | {"classes": "Ball, card"})
    *_, result = engine.run(SPEC, asked, wishes)
    found = {d.label for d in result.outputs[0].detections}
    assert found == {"ball", "card"}
    (record,) = job.write(result, asked, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "scene_wood-detections.json").read_text())["settings"]["classes"] == [
        "Ball",
        "card",
    ]
    assert {d["label"] for d in record["detections"]} == found
    with pytest.raises(InputError, match=r"no class unicorn here: choose from coin, ball"):
        list(engine.run(SPEC, job.request([WOOD], OPTIONS | {"classes": "unicorn"}), wishes))
    engine.close()


def test_formats_are_read_and_unknown_ones_refused():
    assert read_formats("json, PNG") == ("png", "json")
    with pytest.raises(InputError, match=r"xml is not known: choose from png, json, csv, coco, crops"):
        read_formats("png,xml")
    with pytest.raises(InputError, match="no format"):
        read_formats(" , ")


# --- capacity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "pictures", "streams", "every", "says"),
    [
        (1.0, 95, 3, 1, "3 streams of 30"),
        (1.0, 30, 1, 1, "1 stream of 30"),
        (1.0, 59, 1, 1, "1 stream of 30"),
        (2.0, 30, 0, 2, "one in 2"),
        (10.0, 1, 0, 300, "one in 300"),
    ],
)
def test_capacity_counts_whole_streams_or_says_which_frames(seconds, pictures, streams, every, says):
    held = capacity(seconds, pictures)
    assert (held.streams, held.every) == (streams, every)
    assert says in capacity_text(held)
    assert f"{held.rate:.1f}" in capacity_text(held, "zh")


def test_capacity_of_nothing_measured_is_refused():
    with pytest.raises(InputError, match="0 pictures"):
        capacity(1.0, 0)
    with pytest.raises(InputError, match="0 s"):
        capacity(0.0, 5)
    assert capacity(1.0, 60, fps=25).streams == 2
    assert TEXTS["en"].keys() == TEXTS["zh"].keys()
