"""The page with many at once: nobody's answer is lost or another's, and afterwards it is as free as before."""

from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from gradio_client.exceptions import AppError

from tests.load import (
    ANSWERED,
    CANCELLED,
    CROSSED,
    FAILED,
    LOST,
    REFUSED,
    Load,
    measure,
    percentile,
    table,
)
from tests.load_calls import calls, digest, quick

FULL = "32 requests are waiting and 32 may: try again in about 3 s"


@pytest.mark.browser
def test_under_load_everybody_gets_what_they_asked_for(tmp_path: Path) -> None:
    """``make soak`` runs the long version."""
    one_each = {call.api: call for call in calls()}
    told = measure(tmp_path, clients=6, seconds=8, asked=[quick(), *one_each.values()])
    assert told["problems"] == []
    assert set(told["ended"]) == {ANSWERED, CANCELLED, REFUSED}
    assert told["browser"]["runs"] > 0
    assert "32 may" in told["refused_words"]
    assert told["wait_s"]["p95"] > 0
    assert told["refused_words"] in table(told)


class Ended:
    """A request that has ended, as the client shows it."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def done(self) -> bool:
        return self.answer is not None

    def result(self, timeout: float) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "stopped", "how"),
    [
        (({"boxes": 1, "seconds": 2.0}, []), False, ANSWERED),
        (({"boxes": 2, "seconds": 1.0}, []), False, CROSSED),
        (({"boxes": 1}, []), True, ANSWERED),
        (({"stage": "detecting"}, []), True, CANCELLED),
        (({"stage": "detecting"}, []), False, LOST),
        (CancelledError(), True, CANCELLED),
        (KeyError("data"), True, CANCELLED),
        (KeyError("data"), False, FAILED),
        (AppError(FULL), False, REFUSED),
        (AppError("something else"), False, FAILED),
        (OSError("gone"), False, FAILED),
        (ValueError("Did not expect 2 tasks to be done."), True, CANCELLED),
        (ValueError("Did not expect 2 tasks to be done."), False, FAILED),
        (None, False, LOST),
    ],
)
def test_every_end_is_called_by_its_name(answer: Any, stopped: bool, how: str) -> None:
    call = quick()
    load = Load("", Path(), 1.0, [call], {call.name: digest(({"boxes": 1, "seconds": 1.0}, []))})
    assert load._judged(Ended(answer), call, stopped=stopped)[0] == how  # type: ignore[arg-type]


def test_percentiles() -> None:
    assert percentile([], 0.95) == 0
    assert percentile([3.0], 0.5) == 3
    assert percentile([float(n) for n in range(100)], 0.95) == 95
