"""Exit codes, and errors turned into them."""

import sys
from collections.abc import Callable
from typing import Any

from kit.texts import error_text
from loader.errors import AnyhostError, Cancelled, DoesNotFitError, InputError, LicenceNotAcceptedError

DONE, FAILED, WRONG_USE, REFUSED = 0, 1, 2, 3


def run(command: Callable[[Any], int], args: Any) -> int:
    """Run a command; an expected error becomes one line on stderr and the right code."""
    try:
        return command(args)
    except (DoesNotFitError, LicenceNotAcceptedError) as error:
        return _say(error, REFUSED)
    except InputError as error:
        return _say(error, WRONG_USE)
    except (Cancelled, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        return FAILED
    except AnyhostError as error:
        return _say(error, FAILED)
    except BrokenPipeError:
        # Somebody closed the pipe (``| head``); that is no failure of ours.
        sys.stderr.close()
        return DONE


def _say(error: AnyhostError, code: int) -> int:
    print(f"anyhost: {error_text(error)}", file=sys.stderr)
    return code
