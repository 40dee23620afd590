"""The camera of a picture: typed, from EXIF, from an angle, from a file; and lengths between points."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adapters.metric3d.camera import (
    ASSUMED_FOV,
    PRESETS,
    SENSORS,
    CameraWish,
    camera_of,
    field_of_view,
    read_intrinsics,
)
from adapters.metric3d.geometry import Intrinsics
from adapters.metric3d.measuring import calibration, length, point_at
from adapters.metric3d.saving import camera_words
from kit.exif import CameraTags, camera_tags
from loader.errors import InputError

SIZE = (3000, 4000)


def photo(path, size=SIZE, *, main=None, shot=None):
    """A JPEG with EXIF tags; of ``size`` divided by ten, so that it is quick to write."""
    image = Image.new("RGB", (size[1] // 10, size[0] // 10))
    exif = image.getexif()
    exif.update(main or {})
    exif.get_ifd(0x8769).update(shot or {})
    image.save(path, exif=exif)
    return path


# --- EXIF ---------------------------------------------------------------------------------------------------------


def test_the_35_mm_equivalent_is_compared_along_the_diagonal(tmp_path):
    tags = camera_tags(photo(tmp_path / "a.jpg", shot={0xA405: 26, 0x920A: 4.25}))
    assert (tags.focal_35mm, tags.focal_mm) == (26, 4.25)
    camera = camera_of((300, 400), CameraWish(), tags)
    assert camera.source == "exif_film"
    assert camera.focal_px == pytest.approx(26 * 500 / math.hypot(36, 24))
    assert (camera.intrinsics.cx, camera.intrinsics.cy) == (200, 150)
    # The same picture held upright has the same lens.
    assert camera_of((400, 300), CameraWish(), tags).focal_px == pytest.approx(camera.focal_px)


def test_pixels_of_the_sensor_are_read_with_their_unit(tmp_path):
    # 36 mm hold 4000 pixels: 2822.2 an inch. The picture was scaled to 400 since.
    recorded = {0x920A: 50, 0xA20E: 4000 / (36 / 25.4), 0xA210: 2, 0xA002: 4000, 0xA003: 3000}
    camera = camera_of((300, 400), CameraWish(), camera_tags(photo(tmp_path / "a.jpg", shot=recorded)))
    assert camera.source == "exif_plane"
    assert camera.focal_px == pytest.approx(50 * 400 / 36, rel=1e-4)
    in_cm = recorded | {0xA20E: 4000 / 3.6, 0xA210: 3}
    tags = camera_tags(photo(tmp_path / "b.jpg", shot=in_cm))
    assert camera_of((300, 400), CameraWish(), tags).focal_px == pytest.approx(camera.focal_px, rel=1e-4)


def test_a_known_camera_is_looked_up(tmp_path):
    path = photo(tmp_path / "a.jpg", main={0x010F: "NIKON CORPORATION", 0x0110: "NIKON D850"}, shot={0x920A: 50})
    camera = camera_of((300, 400), CameraWish(), camera_tags(path))
    assert camera.source == "exif_sensor"
    assert camera.focal_px == pytest.approx(50 * 400 / 35.9)
    assert "NIKON D850" in camera_words(camera)


@pytest.mark.parametrize(
    ("maker", "sensor"),
    [
        ("Canon Canon EOS 5D Mark IV", 36.0),
        ("Canon Canon EOS R6", 36.0),
        ("Canon Canon EOS R50", 22.3),
        ("Canon Canon EOS 80D", 22.3),
        ("NIKON CORPORATION NIKON D7200", 23.5),
        ("NIKON CORPORATION NIKON D5600", 23.5),
        ("NIKON CORPORATION NIKON D850", 35.9),
        ("NIKON CORPORATION NIKON Z 6_2", 35.9),
        ("NIKON CORPORATION NIKON Z 50", 23.5),
        ("SONY ILCE-7M3", 35.8),
        ("SONY ILCE-6400", 23.5),
        ("FUJIFILM X-T4", 23.5),
        ("DJI FC6310", 13.2),
        ("nobody knows", None),
    ],
)
def test_sensors_of_real_models(maker, sensor):
    camera = camera_of((300, 400), CameraWish(), CameraTags(maker=maker, focal_mm=20.0))
    assert camera.figures.get("sensor") == sensor


def test_no_pattern_of_a_sensor_hides_behind_an_earlier_one():
    assert len({pattern for pattern, _ in SENSORS}) == len(SENSORS)
    assert all(3 < width < 60 for _, width in SENSORS)


@pytest.mark.parametrize(
    ("tags", "doubt"),
    [
        (CameraTags(), "none"),
        (CameraTags(focal_mm=50.0), "none"),
        (CameraTags(focal_35mm=5000.0), "implausible"),
        (CameraTags(focal_35mm=1.0), "implausible"),
        (CameraTags(focal_35mm=26.0, recorded_size=(4000, 4000)), "cropped"),
    ],
)
def test_exif_that_cannot_be_is_not_believed_and_it_says_so(tags, doubt):
    camera = camera_of((300, 400), CameraWish(), tags)
    assert (camera.source, camera.doubt) == ("assumed", doubt)
    assert field_of_view((300, 400), camera.focal_px) == pytest.approx(ASSUMED_FOV)
    words = camera_words(camera)
    assert "assumed" in words
    assert "60" in words
    assert words.count(";") == 1


def test_tags_that_are_no_numbers_are_none(tmp_path):
    image = Image.new("RGB", (64, 48))
    exif = image.getexif()
    exif.get_ifd(0x8769).update({0x920A: (0, 0), 0xA405: 0, 0xA002: 64, 0xA003: 0})
    image.save(tmp_path / "a.tiff", exif=exif)
    assert camera_tags(tmp_path / "a.tiff").focal_mm is None
    assert camera_tags(tmp_path / "a.tiff").recorded_size is None
    broken = tmp_path / "b.jpg"
    Image.new("RGB", (64, 48)).save(broken, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert camera_tags(broken) == CameraTags()
    assert camera_tags(tmp_path / "missing.jpg") == CameraTags()


# --- wishes -------------------------------------------------------------------------------------------------------


def test_what_is_typed_goes_before_exif():
    tags = CameraTags(focal_35mm=26.0)
    camera = camera_of(SIZE, CameraWish(fx=2000, fy=2100, cx=1990, cy=1400), tags)
    assert camera.intrinsics == Intrinsics(2000, 2100, 1990, 1400)
    assert camera.focal_px == 2050
    assert camera_of(SIZE, CameraWish(fov=90), tags).focal_px == pytest.approx(2000)
    film = camera_of(SIZE, CameraWish(film_mm=PRESETS["phone_main"]), None)
    assert film.focal_px == pytest.approx(26 * 5000 / math.hypot(36, 24))
    assert all(camera_words(c) for c in (camera, film))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fx": float("nan")}, "finite"),
        ({"fx": 1000, "cy": float("inf")}, "finite"),
        ({"fx": 0}, "no focal length"),
        ({"fx": -800}, "no focal length"),
        ({"fx": 5}, r"Between \d+ and \d+ px are possible"),
        ({"fx": 1e7}, r"Between \d+ and \d+ px"),
        ({"fx": 1000, "fy": 0}, "fy 0 px"),
        ({"fx": 3000, "cx": 5000}, "cx 5000 lies outside the picture: between 0 and 4000"),
        ({"fx": 3000, "cy": -1}, "cy -1 lies outside"),
        ({"cx": 10}, "need fx"),
        ({"fx": 1000, "fov": 60}, "give one of them"),
        ({"fov": 0}, "between 3 and 150"),
        ({"fov": 179}, "between 3 and 150"),
        ({"film_mm": 2}, "between 5 and 900"),
    ],
)
def test_cameras_that_cannot_be_are_refused_with_the_limits(settings, words):
    with pytest.raises(InputError, match=words):
        camera_of(SIZE, CameraWish(**settings))


@pytest.mark.parametrize(
    "content",
    [
        {"fx": 1500, "fy": 1510, "cx": 960, "cy": 540, "width": 1920, "height": 1080},
        {"K": [[1500, 0, 960], [0, 1510, 540], [0, 0, 1]], "width": 1920, "height": 1080},
        {"camera_matrix": {"data": [1500, 0, 960, 0, 1510, 540, 0, 0, 1]}, "width": 1920, "height": 1080},
    ],
)
def test_a_calibration_is_read_and_scaled_to_the_picture(tmp_path, content):
    path = tmp_path / "camera.json"
    path.write_text(json.dumps(content))
    wish = read_intrinsics(path)
    assert camera_of((540, 960), wish).intrinsics == Intrinsics(750, 755, 480, 270)
    assert camera_of((1080, 1920), wish).intrinsics == Intrinsics(1500, 1510, 960, 540)
    with pytest.raises(InputError, match="calibrated at 1920×1080 pixels and the picture has 800×800"):
        camera_of((800, 800), wish)


@pytest.mark.parametrize("content", ["", "[1]", '{"fx": 1}', '{"K": [[1, 2], [3, 4]]}', '{"fx": "a", "fy": 1}'])
def test_a_file_that_is_no_calibration_shows_what_one_looks_like(tmp_path, content):
    path = tmp_path / "camera.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r'camera\.json .*write \{"fx": 1000'):
        read_intrinsics(path)


@given(st.integers(16, 5000), st.integers(16, 5000), st.floats(4, 140), st.sampled_from(["fov", "film_mm", "assumed"]))
def test_every_camera_sees_an_angle_that_can_be(height, width, value, kind):
    wish = CameraWish() if kind == "assumed" else CameraWish(**{kind: max(value, 6)})
    camera = camera_of((height, width), wish)
    assert camera.focal_px > 0
    assert 1 < field_of_view((height, width), camera.focal_px) < 160


# --- lengths ------------------------------------------------------------------------------------------------------


def test_points_lie_where_their_rays_and_depths_say():
    camera = Intrinsics(500, 500, 200, 150)
    depth = np.full((300, 400), 4.0, np.float32)
    middle, right = point_at(depth, camera, 200, 150), point_at(depth, camera, 325, 150)
    assert middle.xyz == (0, 0, 4)
    assert right.xyz == (1, 0, 4)
    assert right.distance == pytest.approx(math.sqrt(17))
    assert length(middle, right) == pytest.approx(1.0)


def test_a_click_beside_one_stray_pixel_meets_the_thing():
    depth = np.full((30, 40), 2.0, np.float32)
    depth[10, 10] = 90
    assert point_at(depth, Intrinsics(50, 50, 20, 15), 10, 10).xyz[2] == 2
    assert point_at(depth, Intrinsics(50, 50, 20, 15), 0, 29).xyz[2] == 2


@pytest.mark.parametrize("pixel", [(-1, 0), (0, -1), (40, 0), (0, 30)])
def test_a_click_outside_is_refused(pixel):
    with pytest.raises(InputError, match="outside the picture of 40×30"):
        point_at(np.ones((30, 40), np.float32), Intrinsics(50, 50, 20, 15), *pixel)


@given(st.floats(0.5, 50), st.floats(0.5, 50), st.floats(0.2, 4))
def test_a_known_length_comes_out_as_known(near, far, share):
    camera = Intrinsics(300, 300, 50, 40)
    depth = np.full((80, 100), near, np.float32)
    depth[:, 50:] = far

    def measured(factor):
        points = [point_at(depth * np.float32(factor), camera, column, 40) for column in (10, 90)]
        return length(*points)

    known = measured(1.0) * share
    assert measured(calibration(measured(1.0), known)) == pytest.approx(known, rel=1e-4)


@pytest.mark.parametrize(
    ("measured", "known", "words"),
    [
        (1.0, 0.0, "greater than 0"),
        (1.0, float("nan"), "greater than 0"),
        (0.0, 1.0, "same place"),
        (1.0, 100.0, r"multiply everything by 100; between 0\.05 and 20"),
    ],
)
def test_a_known_length_that_cannot_be(measured, known, words):
    with pytest.raises(InputError, match=words):
        calibration(measured, known)
