"""Settings as flat names and plain values: what the command line sets, a saved picture carries and the page shows.

A value of its type's nothing ("", 0) leaves guidance and scheduler to the variant, takes the largest face, and
switches a ControlNet off.
"""

from collections.abc import Callable, Mapping
from typing import Any

from adapters.instantid.requests import CONTROLS, Settings
from loader.errors import InputError

PROMPT_SEPARATOR = "\n"
SHELL_SEPARATOR = "||"  # where a line break is hard to type


def yes_no(word: str) -> bool:
    """Whether a word means yes.

    Raises:
        ValueError: neither yes nor no.
    """
    answers = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}
    if word.strip().lower() not in answers:
        raise ValueError(f"{word!r} is neither yes nor no")
    return answers[word.strip().lower()]


Option = tuple[Callable[[str], Any], Any, str]
SETTING_OPTIONS: Mapping[str, Option] = {
    "prompt": (str, "", f"what to draw; several, one a line or between {SHELL_SEPARATOR}, are drawn one after another"),
    "negative": (str, "", "what to avoid"),
    "style": (str, "none", "a style around the prompt"),
    "identity": (float, 0.8, "strength of IdentityNet, which places the face: 0 to 1.5"),
    "likeness": (float, 0.8, "strength of the face in the drawing: 0 to 1.5"),
    "guidance": (float, 0.0, "how closely the prompt is followed: 1 to 20, 0: the variant's own"),
    "scheduler": (str, "", "euler, dpm, dpm_karras, dpm_karras_sde, heun, deis, lcm"),
    "seed": (int, 42, "of the first picture; the next ones count up"),
    "pictures": (int, 1, "for each prompt: 1 to 8"),
    "region": (str, "everywhere", "where the face may act: everywhere, face or mask"),
    "change": (float, 0.8, "how much of the picture to draw over is given up: 0 to 1"),
    "enlarge": (yes_no, False, "draw larger than the picture that gives the shape: yes or no"),
    "guess_mode": (yes_no, False, "ControlNets see the conditional half alone: yes or no"),
    "face": (int, 0, "which face of the first photo, from 1; 0: the largest"),
    "blend": (str, "mean", "of several photos: mean or sequence"),
    "pose": (float, 0.0, "strength of the pose ControlNet: 0 to 1.5, 0: off"),
    "canny": (float, 0.0, "strength of the edge ControlNet: 0 to 1.5, 0: off"),
    "depth": (float, 0.0, "strength of the depth ControlNet: 0 to 1.5, 0: off"),
}


def settings_of(options: Mapping[str, Any]) -> Settings:
    """Settings from options; those that are left out are at their defaults.

    Raises:
        InputError: an unknown name, or a value out of its limits.
    """
    unknown = sorted(options.keys() - SETTING_OPTIONS.keys())
    if unknown:
        raise InputError(f"unknown options {', '.join(unknown)}: those there are: {', '.join(SETTING_OPTIONS)}")
    given = {name: default for name, (_, default, _) in SETTING_OPTIONS.items()} | dict(options)
    words = given["prompt"].replace(SHELL_SEPARATOR, PROMPT_SEPARATOR).split(PROMPT_SEPARATOR)
    prompts = tuple(line.strip() for line in words if line.strip()) or ("",)
    return Settings(
        prompts=prompts,
        negative=given["negative"].strip(),
        style=given["style"],
        identity=given["identity"],
        likeness=given["likeness"],
        guidance=given["guidance"] or None,
        scheduler=given["scheduler"] or None,
        seed=given["seed"],
        pictures=given["pictures"],
        region=given["region"],
        change=given["change"],
        enlarge=given["enlarge"],
        guess_mode=given["guess_mode"],
        face=given["face"] - 1 if given["face"] else None,
        blend=given["blend"],
        controls={kind: given[kind] for kind in CONTROLS if given[kind]},
    )


def options_of(settings: Settings) -> dict[str, Any]:
    """The options that give these settings."""
    plain = ("negative", "style", "identity", "likeness", "seed", "pictures", "region", "change", "enlarge")
    return {
        "prompt": PROMPT_SEPARATOR.join(settings.prompts),
        **{name: getattr(settings, name) for name in (*plain, "guess_mode", "blend")},
        "guidance": settings.guidance or 0.0,
        "scheduler": settings.scheduler or "",
        "face": 0 if settings.face is None else settings.face + 1,
        **{kind: float(settings.controls.get(kind, 0.0)) for kind in CONTROLS},
    }
