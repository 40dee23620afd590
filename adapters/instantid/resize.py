"""The size InstantID works at: sides that are multiples of 64, the longer one fixed.

Source: InstantID/InstantID @ 2145b67.
"""

from PIL import Image

from loader.errors import InputError

WHITE = (255, 255, 255)


def resize_img(
    image: Image.Image,
    *,
    max_side: int = 1280,
    min_side: int = 1024,
    size: tuple[int, int] | None = None,
    pad_to_max_side: bool = False,
    base_pixel_number: int = 64,
) -> Image.Image:
    """Scale a picture for the denoiser, keeping its shape to within the multiple of its sides.

    The longer side always becomes ``max_side``, larger or smaller than before; ``min_side`` acts on the rounding
    alone. Two bilinear passes: to the exact shape, then down to the multiples.

    Args:
        image: RGB picture.
        max_side: the longer side in pixels.
        min_side: the shorter side of the intermediate size in pixels.
        size: width and height to use instead, in one pass.
        pad_to_max_side: centre the result on a white square of ``max_side``.
        base_pixel_number: sides become multiples of it.

    Returns:
        The scaled picture.

    Raises:
        InputError: the picture is so narrow that a side would vanish, or too large for the padding.
    """
    if size is None:
        exact = _exact_size(image.size, max_side, min_side)
        width, height = (side // base_pixel_number * base_pixel_number for side in exact)
        if not width or not height:
            raise InputError(
                f"a {image.width}x{image.height} picture is too narrow: scaled to {max_side} pixels its shorter side "
                f"is under {base_pixel_number}; crop it to at most 1 : {max_side // base_pixel_number}"
            )
        image = image.resize(exact, Image.Resampling.BILINEAR)
    else:
        width, height = size
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return _centre_on_square(image, max_side) if pad_to_max_side else image


def _exact_size(size: tuple[int, int], max_side: int, min_side: int) -> tuple[int, int]:
    enlarge = min_side / min(size)
    width, height = (round(enlarge * side) for side in size)
    fit = max_side / max(width, height)
    return round(fit * width), round(fit * height)


def _centre_on_square(image: Image.Image, side: int) -> Image.Image:
    if max(image.size) > side:
        raise InputError(f"a {image.width}x{image.height} picture does not fit a square of {side}; raise max_side")
    square = Image.new("RGB", (side, side), WHITE)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
