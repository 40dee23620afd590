"""One thing at a time is compiled beside the requests, in a thread; closing it leaves nothing behind.

The compiler is Python for the most part and takes turns with the requests at the interpreter. It is not given a lower
priority by the system: asleep with the interpreter's lock in hand it would stop everybody. Short turns do what is
wanted: a request gets the lock back within half a millisecond.
"""

import atexit
import ctypes
import logging
import sys
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)
TURN_S = 0.0005  # the interpreter's own are ten times as long
CLOSE_S = 20.0  # a C++ compiler that is running is waited for


class Abandoned(BaseException):
    """The compile is not wanted any more. Not an Exception: a compiler that catches those must not catch this."""


class Background:
    """Runs one job at a time and refuses others meanwhile; whoever wants one asks again.

    Args:
        thread: starts a job; for tests that want it done at once.
    """

    def __init__(self, thread: Callable[..., threading.Thread] = threading.Thread) -> None:
        self._make, self._lock = thread, threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        thread = self._thread
        return thread is not None and thread.is_alive()

    def offer(self, job: Callable[[], None]) -> bool:
        """Begin ``job`` if nothing is being compiled; whether it was begun."""
        with self._lock:
            if self.busy:
                return False
            if self._thread is None:
                # Forgotten engines too: a thread of the compiler must not meet the end of the interpreter.
                atexit.register(self.close)
            self._thread = self._make(target=self._work, args=(job,), name="compiling", daemon=True)
            self._thread.start()
            return True

    def _work(self, job: Callable[[], None]) -> None:
        before = sys.getswitchinterval()
        sys.setswitchinterval(min(before, TURN_S))
        try:
            job()
        except Abandoned:
            _log.debug("compiling was given up")
        except Exception:  # noqa: BLE001
            # Nobody waits for it: it is said here or nowhere.
            _log.exception("compiling in the background failed")
        finally:
            sys.setswitchinterval(before)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the job in hand; whether none is left."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return not self.busy

    def close(self) -> None:
        """Give up what is being compiled."""
        with self._lock:
            thread, self._thread = self._thread, None
        atexit.unregister(self.close)
        if thread is None or not thread.is_alive() or thread is threading.current_thread():
            return
        if thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Abandoned))
        thread.join(CLOSE_S)
