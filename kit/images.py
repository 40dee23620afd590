"""Opening pictures people really have: rotated, CMYK, 16 bit, palette, transparent, broken or enormous."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from loader.errors import InputError

MAX_PIXELS = 100_000_000  # 100 megapixels: 300 MB as RGB, more than any camera gives
MIN_SIDE = 2
PREVIEW_SIDE = 1600


@dataclass(frozen=True)
class Picture:
    """A picture ready for a network.

    Attributes:
        rgb: [H, W, 3] uint8, upright.
        name: file name, for outputs.
        notes: ids of what had to be done to it: "rotated", "cmyk", "16_bit", "palette", "transparent", "grey".
    """

    rgb: NDArray[np.uint8]
    name: str
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.rgb.shape[0], self.rgb.shape[1]


def open_picture(source: str | Path | IO[bytes], *, name: str = "") -> Picture:
    """The picture in a file, upright and in 8-bit RGB.

    Raises:
        InputError: not a picture, broken, smaller than 2×2 or larger than 100 megapixels.
    """
    label = name or (Path(source).name if isinstance(source, (str, Path)) else "picture")
    with _opened(source, label) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise InputError(
                f"{label} is {width}×{height} = {width * height / 1e6:.0f} megapixels; the limit is "
                f"{MAX_PIXELS / 1e6:.0f}: scale it down first"
            )
        if min(width, height) < MIN_SIDE:
            raise InputError(f"{label} is {width}×{height} pixels; the smallest picture that shows anything is 2×2")
        try:
            upright = ImageOps.exif_transpose(image)
            notes = ["rotated"] if upright.size != image.size or _turned(image) else []
            rgb = _to_rgb(upright, notes)
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{label} is damaged ({error}): save it again, or send another copy") from error
    return Picture(rgb, label, tuple(notes))


def picture_from_array(array: NDArray[np.uint8], *, name: str = "picture") -> Picture:
    """An array [H, W, 3] uint8 RGB as a picture, with the same limits.

    Raises:
        InputError: another shape or type, or out of the limits.
    """
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise InputError(f"{name} must be [height, width, 3] of uint8, got {list(array.shape)} of {array.dtype}")
    if min(array.shape[:2]) < MIN_SIDE or array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise InputError(f"{name} is {array.shape[1]}×{array.shape[0]} pixels; the limits are 2×2 and 100 megapixels")
    return Picture(np.ascontiguousarray(array), name)


@contextmanager
def _opened(source: str | Path | IO[bytes], label: str) -> Iterator[Image.Image]:
    # Pillow warns, then refuses, above its own bound; ours is checked on the header before any pixel is decoded.
    try:
        image = Image.open(source)
    except UnidentifiedImageError as error:
        raise InputError(f"{label} is not a picture this program reads (JPEG, PNG, WebP, TIFF, BMP, GIF)") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{label} is too large: the limit is {MAX_PIXELS / 1e6:.0f} megapixels") from error
    except OSError as error:
        raise InputError(f"{label} cannot be read: {error.strerror or error}") from error
    with image:
        yield image


def _turned(image: Image.Image) -> bool:
    return image.getexif().get(0x0112, 1) != 1


def _to_rgb(image: Image.Image, notes: list[str]) -> NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        notes.append("16_bit")
        return _stretched(np.asarray(image, dtype=np.float32))
    if image.mode == "CMYK":
        notes.append("cmyk")
    elif image.mode == "P":
        notes.append("palette")
    elif image.mode in ("L", "1", "LA"):
        notes.append("grey")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        notes.append("transparent")
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return np.array(image.convert("RGB"))


def _stretched(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """16-bit or float grey as 8-bit RGB: by the format's range when the values use it, else by their own."""
    low, high = float(values.min()), float(values.max())
    if high > 255:
        low, high = 0.0, max(high, 4095.0) if high < 32768 else 65535.0
    elif high <= 1:
        low, high = 0.0, 1.0
    else:
        low, high = 0.0, 255.0
    grey = ((values - low) / (high - low) * 255).clip(0, 255).round().astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
