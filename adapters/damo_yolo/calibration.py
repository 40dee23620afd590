"""What the detector is calibrated on for int8: the rendered scenes and the photograph that ship with the project."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from adapters.damo_yolo.preprocess import preprocess
from kit.images import open_picture
from loader.errors import InputError
from loader.spec import Size

FOLDER = Path(__file__).parents[2] / "assets" / "examples"
PICTURES = ("scene_cloth.jpg", "scene_plain.jpg", "scene_tiles.jpg", "scene_wood.jpg", "coins.png")


def calls(size: Size, folder: Path = FOLDER) -> Iterator[tuple[Tensor]]:
    """One call of the detector for each picture, resized to ``size``.

    Raises:
        InputError: pictures are missing.
    """
    missing = [name for name in PICTURES if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"int8 is calibrated on pictures of {folder}, and {', '.join(missing)} is missing: put it back, or choose "
            "another precision"
        )
    for name in PICTURES:
        yield (preprocess(open_picture(folder / name).rgb, size),)
