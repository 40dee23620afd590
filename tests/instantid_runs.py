"""Dry runs of InstantID on engines for tests: a picture, a request, a result."""

from dataclasses import replace
from typing import Any

import numpy as np

from adapters import adapter
from adapters.instantid.requests import DrawRequest, Settings
from kit.images import Picture, picture_from_array
from loader.outcome import Result
from loader.wishes import Wishes

SPEC = adapter("instantid")
TINY = Wishes(variant="miniature", size=(128, 128), steps=2)


def photo(height: int = 160, width: int = 128, name: str = "photo.png", phase: int = 0) -> Picture:
    """Something with structure, which is all a stand-in for face analysis looks at."""
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([(x + phase) % 256, (y * 2) % 256, (x * y // 64 + phase * 3) % 256], axis=-1).astype(np.uint8)
    return picture_from_array(rgb, name=name)


def request(**changes: Any) -> DrawRequest:
    """A drawing; names of ``Settings`` and of ``DrawRequest`` mixed."""
    own = {name: changes.pop(name) for name in list(changes) if name in DrawRequest.__dataclass_fields__}
    words = {} if "settings" in own else {"settings": Settings(**{"prompts": ("a man",), **changes})}
    asked = {"photos": (photo(),), "consent": True, **words}
    return DrawRequest(**{**asked, **own})


def result_of(engine: Any, asked: Any, wishes: Wishes = TINY, **kwargs: Any) -> Result:
    *_, last = engine.run(SPEC, asked, wishes, **kwargs)
    assert isinstance(last, Result)
    return last


def pictures(result: Result) -> list[np.ndarray]:
    return [drawn.rgb for drawn in result.outputs]


def tiny(**changes: Any) -> Wishes:
    return replace(TINY, **changes)
