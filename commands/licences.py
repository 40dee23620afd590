"""``--accept-licence``: terms of weights, read and accepted on the command line."""

import argparse
from collections.abc import Sequence

from adapters import ADAPTERS
from loader import acceptance
from loader.errors import InputError
from loader.folders import Folders
from loader.spec import Licence


def add(parser: argparse.ArgumentParser) -> None:
    """Add the option to a command that fetches weights."""
    parser.add_argument(
        "--accept-licence",
        action="append",
        default=[],
        metavar="NAME",
        help="you have read and accept the licence of this name (repeatable); kept on record in the cache folder",
    )


def known() -> tuple[Licence, ...]:
    """Every licence that has to be accepted before weights are fetched."""
    weights = (w for spec in ADAPTERS for variant in spec.variants for w in variant.weights)
    return tuple(terms.licence for terms in acceptance.terms_of(weights))


def read(names: Sequence[str]) -> tuple[Licence, ...]:
    """The licences of these names.

    Raises:
        InputError: there is no such licence, or it asks for no acceptance.
    """
    try:
        return acceptance.named(names, known())
    except KeyError as error:
        raise InputError(f"--accept-licence: {error.args[0]}") from None


def accepted(names: Sequence[str], folders: Folders) -> frozenset[str]:
    """What is on record for this user, with ``names`` newly put there.

    Raises:
        InputError: as ``read``.
    """
    record, added = acceptance.Record(folders.cache), read(names)
    if added:
        record.accept(added)
    return record.names()
