"""Larger held-out scenes for people to try: ``python -m training.depth.examples --out assets/examples``.

The files' EXIF data hold the focal length, from which depth becomes metres.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from training.depth.data import HELD_OUT_SEED
from training.depth.scene import Scene, render

SIZE = (720, 960)
OVERSAMPLING = 2
EXAMPLES = {"depth_room": HELD_OUT_SEED + 20, "depth_hall": HELD_OUT_SEED + 31, "depth_yard": HELD_OUT_SEED + 24}
"""Seed of every example."""

# A sensor of 100 pixels per millimetre, in the units of Exif 2.32: per centimetre.
PIXELS_PER_MM = 100
EXIF_IFD, FOCAL_LENGTH, PLANE_X_RESOLUTION, PLANE_Y_RESOLUTION, PLANE_UNIT = 0x8769, 0x920A, 0xA20E, 0xA20F, 0xA210
PIXEL_WIDTH, PIXEL_HEIGHT = 0xA002, 0xA003
CENTIMETRE = 3


def example(name: str, size: tuple[int, int] = SIZE) -> Scene:
    """The scene of that name: pixels are means of 2×2 rays, depth and normals those of one of them."""
    fine = render(EXAMPLES[name], (size[0] * OVERSAMPLING, size[1] * OVERSAMPLING))
    image = cv2.resize(fine.image, size[::-1], interpolation=cv2.INTER_AREA)
    step = slice(None, None, OVERSAMPLING)
    return Scene(np.asarray(image, np.uint8), fine.depth[step, step], fine.normal[step, step], fine.focal_px / 2)


def write(name: str, folder: Path) -> None:
    """Save an example as a JPEG that names its focal length."""
    scene = example(name)
    exif = Image.Exif()
    shot = exif.get_ifd(EXIF_IFD)
    shot[FOCAL_LENGTH] = scene.focal_px / PIXELS_PER_MM
    shot[PLANE_X_RESOLUTION] = shot[PLANE_Y_RESOLUTION] = 10 * PIXELS_PER_MM
    shot[PLANE_UNIT] = CENTIMETRE
    shot[PIXEL_HEIGHT], shot[PIXEL_WIDTH] = SIZE
    Image.fromarray(scene.image).save(folder / f"{name}.jpg", quality=88, optimize=True, exif=exif)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the JPEG files")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for name in EXAMPLES:
        write(name, folder)


if __name__ == "__main__":
    main()
