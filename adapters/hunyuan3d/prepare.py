"""Pictures in: background removal around the cut-out network, framing, and the tensors each network reads.

Facts from ``infer/removebg.py``, ``mvd/utils.py`` and ``svrm/predictor.py`` of Tencent/Hunyuan3D-1 (commit af913e6);
the cut-out follows rembg's "u2net" session (Qin et al., "U²-Net", 2020).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from loader.errors import InputError

Uint8 = npt.NDArray[np.uint8]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
U2NET_SIDE = 320
SVRM_SIDE = 504
OPAQUE_FROM = 16
"""Alpha below this is background."""
BRIGHTEST = 235
"""White on the object is dimmed to this, so that it stays apart from the white background."""


def _square(rgb: Uint8, side: int) -> tuple[slice, slice]:
    """Where a picture sits when centred in a square."""
    height, width = rgb.shape[:2]
    top, left = (side - height) // 2, (side - width) // 2
    return slice(top, top + height), slice(left, left + width)


def _crop(pixels: Uint8, mask: npt.NDArray[np.bool_]) -> Uint8:
    """The bounding box of ``mask`` less its last row and column, which upstream loses and the networks never saw."""
    rows, columns = np.nonzero(mask)
    if rows.size == 0 or np.ptp(rows) == 0 or np.ptp(columns) == 0:
        raise InputError(
            f"the picture shows no object: {rows.size} opaque pixels in {mask.shape[1]}×{mask.shape[0]}; "
            "choose one with a clear foreground, or cut it out by hand and upload it with transparency"
        )
    return pixels[rows.min() : rows.max(), columns.min() : columns.max()]


def u2net_input(image: Image.Image) -> npt.NDArray[np.float32]:
    """Input of the cut-out network: ``[1, 3, 320, 320]``, scaled by the picture's maximum, ImageNet-normalised."""
    pixels = np.asarray(image.convert("RGB").resize((U2NET_SIDE, U2NET_SIDE), Image.Resampling.LANCZOS), np.float64)
    normal = (pixels / max(pixels.max(), 1e-6) - IMAGENET_MEAN) / IMAGENET_STD
    return normal.transpose(2, 0, 1)[None].astype(np.float32)


def cut_out(image: Image.Image, saliency: npt.NDArray[np.float32]) -> Image.Image:
    """RGBA of ``image`` with the saliency as alpha; edge colours are darkened by their alpha, as rembg does.

    Args:
        image: any mode; its own alpha is dropped.
        saliency: ``[320, 320]``, the network's first output, in any range.
    """
    spread = float(np.ptp(saliency))
    alpha = (saliency - saliency.min()) / spread if spread > 0 else np.zeros_like(saliency)
    mask = Image.fromarray((alpha * 255).astype(np.uint8)).resize(image.size, Image.Resampling.LANCZOS)
    return Image.composite(image.convert("RGB").convert("RGBA"), Image.new("RGBA", image.size, 0), mask)


def white_out(image: Image.Image) -> Image.Image:
    """RGBA with the background white and fully transparent, and white on the object dimmed to 235."""
    pixels = np.array(image.convert("RGBA"))
    background = pixels[..., 3] < OPAQUE_FROM
    white = (pixels[..., :3] > BRIGHTEST).all(axis=-1) & ~background
    pixels[white, :3] = BRIGHTEST
    pixels[background] = (255, 255, 255, 0)
    return Image.fromarray(pixels)


def frame(image: Image.Image, side: int = 512, ratio: float = 1.15) -> Image.Image:
    """RGBA ``side`` × ``side``: the object, whited out, centred in a transparent square 1.15 times its size.

    Raises:
        InputError: nothing in the picture is opaque.
    """
    pixels = np.asarray(white_out(image))
    crop = _crop(pixels, pixels[..., 3] > 0.1 * 255)
    outer = int(max(crop.shape[:2]) * ratio)
    canvas = np.full((outer, outer, 4), (255, 255, 255, 0), np.uint8)
    canvas[_square(crop, outer)] = crop
    return Image.fromarray(canvas).resize((side, side))


def on_white(image: Image.Image) -> Image.Image:
    """RGB of an RGBA picture on white."""
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.convert("RGBA").getchannel("A"))
    return white


def recentre(image: Image.Image, side: int = 512, border: float = 0.15) -> Image.Image:
    """RGB ``side`` × ``side``: the whited-out object in the middle of a white square, 15 % of its size around it.

    Upstream computes this before multi-view diffusion and then drops it, for both models; see ``condition_picture``.

    Raises:
        InputError: nothing in the picture is opaque.
    """
    pixels = np.asarray(white_out(image))
    crop = _crop(pixels[..., :3], pixels[..., 3] > 0)
    height, width = crop.shape[:2]
    pad_y, pad_x = int(height * border), int(width * border)
    padded = np.full((height + pad_y, width + pad_x, 3), 255, np.uint8)
    padded[pad_y // 2 : pad_y // 2 + height, pad_x // 2 : pad_x // 2 + width] = crop
    outer = max(padded.shape[:2])
    canvas = np.full((outer, outer, 3), 255, np.uint8)
    canvas[_square(padded, outer)] = padded
    return Image.fromarray(canvas).resize((side, side), Image.Resampling.LANCZOS)


def condition_picture(image: Image.Image) -> Image.Image:
    """RGB that both view models really read: the whited-out picture on white, in its own size."""
    return on_white(white_out(image))


def vae_pixels(image: Image.Image, edge: int, deviation: float) -> Tensor:
    """Input of the view models' VAE: ``[1, 3, edge, edge]``, shortest edge resized, centre crop, ``(x − 0.5) / deviation``.

    Args:
        image: RGB.
        edge: 640 for "lite", 512 for "std".
        deviation: 0.8 for "lite", 0.5 for "std".
    """  # noqa: E501
    # Imported at use, as below: the page needs other parts of this file, and transformers takes three seconds.
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": edge},
        crop_size={"height": edge, "width": edge},
        resample=Image.Resampling.BILINEAR,
        image_mean=[0.5] * 3,
        image_std=[deviation] * 3,
    )
    return processor(images=image, return_tensors="pt").pixel_values


def clip_pixels(image: Image.Image) -> Tensor:
    """Input of the CLIP image encoders: ``[1, 3, 224, 224]``, bicubic, CLIP's own mean and deviation."""
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil()(images=image, return_tensors="pt").pixel_values


def svrm_pixels(images: Sequence[Image.Image], edge: int = SVRM_SIDE) -> Tensor:
    """Input of the reconstruction model's encoder: ``[V, 3, edge, edge]`` for square pictures, ImageNet-normalised.

    Args:
        images: the six views in order of azimuth, then the input picture; all of one shape.
        edge: pixels of the shorter side after bicubic resizing.

    Raises:
        InputError: pictures of different shapes.
    """
    pixels = [np.asarray(_shortest_edge(image.convert("RGB"), edge), np.float32) / 255 for image in images]
    shapes = sorted({(array.shape[1], array.shape[0]) for array in pixels})
    if len(shapes) > 1:
        raise InputError(f"the views and the input picture differ in shape ({shapes} after resizing); make all square")
    normal = (torch.from_numpy(np.stack(pixels)) - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    return normal.permute(0, 3, 1, 2).contiguous()


def _shortest_edge(image: Image.Image, edge: int) -> Image.Image:
    width, height = image.size
    short = min(width, height)
    return image.resize((int(edge * width / short), int(edge * height / short)), Image.Resampling.BICUBIC)
