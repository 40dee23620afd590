"""Reading configuration overrides: unknown names are refused, never swallowed."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

Config = TypeVar("Config")


def check_names(what: str, given: Mapping[str, object], known: list[str]) -> None:
    """Raise ``ValueError`` if ``given`` has a name that is not in ``known``; the message lists the choices."""
    unknown = sorted(given.keys() - set(known))
    if unknown:
        raise ValueError(f"{what} has no setting {', '.join(unknown)}; choose from {', '.join(known)}")


def read(kind: type[Config], what: str, overrides: Mapping[str, Any]) -> Config:
    """A configuration dataclass with its published values, but for ``overrides``.

    Raises:
        ValueError: an override that is not a field of ``kind``.
    """
    check_names(what, overrides, [field.name for field in fields(kind)])  # type: ignore[arg-type]
    return kind(**overrides)
