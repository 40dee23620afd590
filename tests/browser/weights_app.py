"""``app.py`` with the detector's small variants served by a file server of the test, named by the first argument.

"N" is one file, "Ns" the same size under terms that have to be accepted, "Nm" is two files. The tabs of the models
show their plans only: they are not what is tested, and building them takes longer than all the rest.
"""

import os
import sys
from dataclasses import replace

import adapters
from app import main
from loader.spec import AdapterSpec, Licence, Source, Weights

TERMS = Licence("Research Terms", "https://example.org/terms", commercial=False, accept=True, note="research only")
SIZE = 3_000_000


def stand_in(base: str, name: str, licence: Licence) -> Weights:
    source = Source("url", f"{base}/{name}")
    return Weights(name, (source,), SIZE, licence, ("detector",), bytes_exact=True)


def specs(base: str) -> tuple[AdapterSpec, ...]:
    """The five specs, the detector's with stand-ins."""
    detector = adapters.adapter("damo_yolo")
    free = detector.variant("N").weights[0].licence
    files = {
        "N": (stand_in(base, "nano.pth", free),),
        "Ns": (stand_in(base, "terms.pth", TERMS),),
        "Nm": (stand_in(base, "one.pth", free), stand_in(base, "two.pth", free)),
    }
    variants = tuple(replace(v, weights=files.get(v.name, v.weights)) for v in detector.variants)
    return (replace(detector, variants=variants), *adapters.ADAPTERS[1:])


if __name__ == "__main__":
    base, *words = sys.argv[1:]
    adapters.ADAPTERS = specs(base)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import page.build

    page.build.TABS = {}
    sys.exit(main(words))
