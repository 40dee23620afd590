"""A report bundle of a run on the command line, whether it ended well or not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from loader.bundle import bundle_of, write_bundle
from loader.errors import InputError
from loader.outcome import Result
from loader.plan import Plan


class Report:
    """Where a bundle of this run is wanted, if anywhere.

    Args:
        path: the file; None for none.

    Raises:
        InputError: there is no such folder; better known before the run than after it.
    """

    def __init__(self, path: Path | None) -> None:
        if path is not None and not path.resolve().parent.is_dir():
            raise InputError(f"--bundle {path}: there is no folder {path.parent}; make it first")
        self._path = path

    def write(self, result: Result) -> None:
        """Of a run that ended well."""
        if self._path is not None:
            write_bundle(self._path, bundle_of(result))

    @contextmanager
    def of_failure(self, planned: Callable[[], Plan]) -> Iterator[None]:
        """Write one for whatever error ends what is inside; ``planned`` gives the plan where nothing had begun."""
        try:
            yield
        except Exception as error:
            ended: Result | None = getattr(error, "ended", None)
            if self._path is not None:
                write_bundle(self._path, bundle_of(ended or planned(), error))
            raise
