"""Tuning while nobody asks for anything: begun after a quiet while, left at once when a request comes."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

from loader import tuned
from loader.engine import Engine
from loader.errors import AnyhostError, Cancelled
from loader.folders import find
from loader.outcome import Cancel
from loader.spec import AdapterSpec
from loader.tuning import Trials, Tuning, tunable
from loader.wishes import Wishes

_log = logging.getLogger(__name__)
VARIABLE = "ANYHOST_TUNE"
SESSION = "tuning"
IDLE_S = 30.0  # nobody computed or waited for so long
LOOK_S = 1.0
TIMES = 3  # a model whose trials were disturbed so often is left as it is until the next start


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether ``ANYHOST_TUNE=idle`` allows it."""
    return environ.get(VARIABLE, "").strip().lower() == "idle"


class GivesWay(Cancel):
    """A Stop that presses itself when somebody else wants the machine."""

    def __init__(self, others: Callable[[], bool]) -> None:
        super().__init__()
        self._others = others

    @property
    def requested(self) -> bool:
        if self._others():
            self.request()
        return super().requested


class IdleTuner:
    """A thread that tunes one model after the other while ``engine`` has nothing to do.

    Only what is on this disk is tuned, nothing is fetched, and what was tried before is not tried again.

    Args:
        engine: whose plans; its lane is taken like anybody's.
        specs: models, in the order to try.
        idle_s: seconds without a request before it begins.
        trials: how thoroughly.
        look_s: seconds between two looks at whether anybody is there.
    """

    def __init__(
        self,
        engine: Engine,
        specs: Sequence[AdapterSpec],
        *,
        idle_s: float = IDLE_S,
        trials: Trials | None = None,
        look_s: float = LOOK_S,
    ) -> None:
        self._engine, self._specs = engine, tuple(specs)
        self._idle_s, self._look_s, self._trials = idle_s, look_s, trials or Trials()
        self._left = dict.fromkeys((spec.name for spec in specs), TIMES)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="idle-tuner", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop, also what is being tried, and wait for that."""
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        quiet = 0.0
        while not self._end.wait(self._look_s):
            quiet = 0.0 if self._engine.requests else quiet + self._look_s
            if quiet >= self._idle_s:
                quiet = 0.0
                if not self.once():
                    return

    def once(self) -> bool:
        """Tune the next model that can be; False when none is left."""
        for spec in self._specs:
            wishes = self._untried(spec) if self._left[spec.name] else None
            if wishes is not None:
                self._tune(spec, wishes)
                return True
        return False

    def _untried(self, spec: AdapterSpec) -> Wishes | None:
        """Wishes under which ``spec`` runs from this disk, or its preview does, and was not tried yet."""
        for wishes in (Wishes(), *([Wishes(variant=spec.preview)] if spec.preview else [])):
            made = self._engine.plan(spec, wishes)
            here = all(find(w, self._engine.folders) is not None for w in spec.variant(made.variant).weights)
            if tunable(made) and here:
                known = tuned.find(made.situation, made.variant, made.device, made.size)
                return None if known is not None else wishes
        return None

    def _tune(self, spec: AdapterSpec, wishes: Wishes) -> None:
        stop = GivesWay(lambda: self._end.is_set() or self._engine.requests > 1)
        try:
            with closing(self._engine.tune(spec, wishes, self._trials, cancel=stop, session=SESSION)) as items:
                for item in items:
                    if isinstance(item, Tuning):
                        self._left[spec.name] -= 1
                        words = "disturbed" if item.winner is None else tuned.words_of(item.winner)
                        _log.info("%s tuned while idle: %s", spec.name, words)
        except Cancelled:
            _log.info("%s: tuning gave way to a request", spec.name)
        except AnyhostError as error:
            self._left[spec.name] = 0
            _log.info("%s is not tuned: %s", spec.name, error)
