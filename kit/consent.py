"""Pictures of people are worked on only when whoever asks says that they may be.

The page has a tick, the browser API the argument ``consent=true``, the command line ``--set consent=yes``; all end
here. What is kept is nothing: the answer belongs to one request.
"""

from loader.errors import InputError

YES = frozenset({"yes", "true", "on", "1"})
NO = frozenset({"no", "false", "off", "0", ""})


def require_consent(given: bool) -> None:
    """Leave unless the one who asks may use the person's picture.

    Raises:
        InputError: not given; the message says how to give it everywhere it can be asked for.
    """
    if given is not True:
        raise InputError(
            "a person's face is used here: confirm that you may use this person's picture "
            "(the tick on the page, consent=true in the API, --set consent=yes on the command line)"
        )


def read_consent(value: str | bool | None) -> bool:
    """Consent as programs and command lines write it: yes or no, true or false, on or off, 1 or 0.

    Raises:
        InputError: something else.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    said = value.strip().lower()
    if said not in YES | NO:
        raise InputError(f"consent={value}: answer yes or no")
    return said in YES
