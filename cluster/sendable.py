"""Errors that go from one process to another."""

import pickle

from loader.errors import AnyhostError


def sendable(error: AnyhostError) -> AnyhostError:
    """``error``, without what finished stages gave if that cannot travel."""
    try:
        pickle.dumps(error)
    except (pickle.PicklingError, TypeError, AttributeError):
        error.kept = ()
    return error
