"""The five models, in tab order. Importing this reads their specs only: no torch, no weights."""

from adapters.aniportrait.spec import SPEC as ANIPORTRAIT
from adapters.damo_yolo.spec import SPEC as DAMO_YOLO
from adapters.hunyuan3d.spec import SPEC as HUNYUAN3D
from adapters.instantid.spec import SPEC as INSTANTID
from adapters.metric3d.spec import SPEC as METRIC3D
from loader.errors import InputError
from loader.spec import AdapterSpec

ADAPTERS: tuple[AdapterSpec, ...] = (DAMO_YOLO, METRIC3D, INSTANTID, ANIPORTRAIT, HUNYUAN3D)


def adapter(name: str) -> AdapterSpec:
    """The spec called ``name``.

    Raises:
        InputError: there is none; the message lists the five.
    """
    for spec in ADAPTERS:
        if spec.name == name:
            return spec
    raise InputError(f"no adapter {name!r}: choose {', '.join(s.name for s in ADAPTERS)}")
