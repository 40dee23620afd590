"""Boxes and names drawn on the picture they were found in."""

import colorsys
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from adapters.damo_yolo.postprocess import Detection

GOLDEN_ANGLE = 0.618034  # successive hues land as far from the earlier ones as they can


def colour_of(class_id: int) -> tuple[int, int, int]:
    """A colour for a class, the same on every picture, dark enough for white text."""
    red, green, blue = colorsys.hsv_to_rgb((0.58 + class_id * GOLDEN_ANGLE) % 1.0, 0.78, 0.78)
    return round(red * 255), round(green * 255), round(blue * 255)


def annotate(rgb: NDArray[np.uint8], detections: Iterable[Detection], *, note: str = "") -> NDArray[np.uint8]:
    """The picture [H,W,3] uint8 with boxes, names and scores; ``note`` goes into a strip along the lower edge."""
    image = Image.fromarray(rgb)
    draw = ImageDraw.Draw(image)
    line = max(2, round(min(image.size) / 260))
    font = ImageFont.load_default(max(11, round(min(image.size) / 42)))
    # Best last: where labels meet, the surest one is on top.
    for found in sorted(detections, key=lambda d: d.score):
        colour = colour_of(found.class_id)
        draw.rectangle(found.box, outline=colour, width=line)
        _tag(draw, f"{found.label} {found.score:.2f}", found.box, colour, font)
    if note:
        _strip(image, draw, note, font)
    return np.array(image)


def _tag(
    draw: ImageDraw.ImageDraw,
    text: str,
    box: tuple[float, float, float, float],
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 8, bottom - top + 6
    x = min(box[0], max(0, draw.im.size[0] - width))
    y = box[1] - height if box[1] >= height else box[1]
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 4 - left, y + 3 - top), text, fill="white", font=font)


def _strip(
    image: Image.Image, draw: ImageDraw.ImageDraw, note: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> None:
    _, top, _, bottom = draw.textbbox((0, 0), note, font=font)
    height = bottom - top + 8
    draw.rectangle((0, image.height - height, image.width, image.height), fill=(20, 24, 31))
    draw.text((6, image.height - height + 4 - top), note, fill=(235, 238, 243), font=font)
