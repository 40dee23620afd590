"""A place to drop a saved picture or settings file on: it sets the wishes and the tab's own controls as they were."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gradio as gr

from kit.parts import states
from kit.parts.context import QUIET, PageContext
from kit.parts.markup import div, para
from kit.parts.plain import html
from kit.parts.wishes_panel import DECIDE, WishesPanel
from kit.settings import MODELS, PICTURES, VIDEOS, Settings, read_settings
from kit.sizes import write_size
from kit.texts import LANGUAGES, PROVENANCE_OF
from kit.texts.labels import label, name_of
from loader.errors import AnyhostError, InputError
from loader.spec import AdapterSpec
from loader.wishes import Wishes

FILE_TYPES = [".json", *PICTURES, *VIDEOS, *MODELS]
MAX_CHOSEN, MAX_TEXT = 1000, 10_000


@dataclass(frozen=True)
class Restored:
    """What a settings file does to a tab.

    Attributes:
        wishes: values of the panel's controls.
        options: by name, what the tab's own controls become.
        left_out: wishes that cannot be set here, as "device cuda:0".
    """

    wishes: tuple[Any, ...]
    options: Mapping[str, Any]
    left_out: tuple[str, ...] = ()


def controls_of(named: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Each control with its name; a tab may show one option in several places (for pictures and for videos)."""
    return [
        (name, c) for name, given in named.items() for c in (given if isinstance(given, (list, tuple)) else [given])
    ]


def restored(settings: Settings, panel: WishesPanel, controls: Mapping[str, Any]) -> Restored:
    """What ``settings`` make of the wishes in ``panel`` and of ``controls``, by their name in the options.

    A wish for what only another machine has, or that this panel has no control for, is left out and named.

    Raises:
        InputError: an option that is not known, or a value that its control does not take.
    """
    unknown = [name for name in settings.options if name not in controls]
    if unknown:
        known = ", ".join(controls) or "nothing to set"
        raise InputError(f"{settings.source}: {', '.join(unknown)} is not known here; there is {known}")
    for name, control in controls_of(controls):
        if name in settings.options:
            checked(name, control, settings.options[name])
    wishes, left_out = _wishes(settings, panel)
    return Restored(wishes, dict(settings.options), left_out)


def _wishes(settings: Settings, panel: WishesPanel) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    asked = {f.name: getattr(settings.wishes, f.name) for f in fields(Wishes)}
    values: list[Any] = []
    left_out = [
        f"{name} {_worded(value)}"
        for name, value in asked.items()
        if value not in (None, False, {}) and name not in panel.names
    ]
    for name, control in zip(panel.names, panel.controls, strict=True):
        value = asked[name]
        if isinstance(control, gr.Checkbox):
            values.append(bool(value))
            continue
        chosen = DECIDE if value is None else write_size(value) if name == "size" else str(value)
        if name == "device" and chosen not in _choices(control):
            left_out.append(f"{name} {chosen}")
            chosen = DECIDE
        values.append(checked(name, control, chosen))
    return tuple(values), tuple(left_out)


def _worded(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


# --- values against their controls ------------------------------------------------------------------------------


def checked(name: str, control: Any, value: Any) -> Any:
    """``value`` if ``control`` takes it.

    Raises:
        InputError: it does not; the message names both and what would do.
    """
    if isinstance(control, gr.Checkbox):
        if not isinstance(value, bool):
            raise InputError(f"{name} is {value!r:.60}: it must be true or false")
        return value
    if isinstance(control, (gr.Slider, gr.Number)):
        return _number(name, control, value)
    if isinstance(control, gr.Radio) or (isinstance(control, gr.Dropdown) and not control.multiselect):
        return _choice(name, control, value)
    if isinstance(control, gr.Dropdown):
        return _several(name, control, value)
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise InputError(f"{name} must be text of at most {MAX_TEXT:,} characters")
    return value


def _number(name: str, control: Any, value: Any) -> float | int | None:
    if value is None and isinstance(control, gr.Number):
        return None
    low = -math.inf if control.minimum is None else float(control.minimum)
    high = math.inf if control.maximum is None else float(control.maximum)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{name} is {value!r:.60}: it must be a number from {low:g} to {high:g}")
    if not low <= value <= high:
        raise InputError(f"{name} {value:g} is out of range: it lies between {low:g} and {high:g}")
    return value


def _choice(name: str, control: Any, value: Any) -> Any:
    if value in _choices(control) or (getattr(control, "allow_custom_value", False) and isinstance(value, str)):
        return value
    offered = ", ".join(str(choice) for choice in _choices(control) if choice != DECIDE)
    raise InputError(f"{name} {value!r:.60} is not offered here: choose {offered}")


def _several(name: str, control: Any, value: Any) -> list[str]:
    fits = isinstance(value, list) and len(value) <= MAX_CHOSEN
    if not fits or not all(isinstance(item, str) and len(item) <= MAX_TEXT for item in value):
        raise InputError(f"{name} must be a list of at most {MAX_CHOSEN:,} names")
    offered = _choices(control)
    foreign = [item for item in value if offered and item not in offered]
    if foreign:
        raise InputError(f"{name} {', '.join(foreign)} is not offered here: choose from {', '.join(offered)}")
    return value


def _choices(control: Any) -> list[Any]:
    return [choice[1] for choice in control.choices]


# --- the part of a tab ------------------------------------------------------------------------------------------


class SettingsDrop:
    """A fold with a place for one file.

    Attributes:
        file: where it is dropped.
        said: what came of it; markup.
    """

    def __init__(self, context: PageContext, spec: AdapterSpec) -> None:
        self.language, self.spec = context.language, spec
        prefix = spec.endpoint.strip("/")
        with gr.Accordion(self._("settings.title"), open=False, elem_classes="ah-fold", elem_id=f"{prefix}-settings"):
            html(para("ah-dim", self._("settings.words")))
            self.file = gr.File(
                label=self._("settings.file"),
                file_types=FILE_TYPES,
                type="filepath",
                height=110,
                elem_id=f"{prefix}-settings-file",
            )
            self.said = html(elem_id=f"{prefix}-settings-said")

    def wire(self, panel: WishesPanel, controls: Mapping[str, Any]) -> None:
        """Let a file set ``panel`` and ``controls``: by the name an option has in settings, one or several."""
        outputs = [*panel.controls, *(control for _, control in controls_of(controls)), self.said]

        def bring_back(file: str | None) -> list[Any]:
            return self._bring_back(file, panel, controls)

        self.file.upload(bring_back, [self.file], outputs, **QUIET)
        self.file.clear(lambda: "", None, [self.said], **QUIET)

    def _bring_back(self, file: str | None, panel: WishesPanel, controls: Mapping[str, Any]) -> list[Any]:
        own = controls_of(controls)
        unchanged: list[Any] = [gr.skip()] * (len(panel.controls) + len(own))
        if not file:
            return [*unchanged, ""]
        try:
            settings = read_settings(Path(file), self.spec.name)
            found = restored(settings, panel, controls)
        except AnyhostError as error:
            return [*unchanged, states.failed(error, self.language)]
        updates = [self._update(c, found.options[name]) if name in found.options else gr.skip() for name, c in own]
        return [*found.wishes, *updates, self._told(settings, found, panel)]

    @staticmethod
    def _update(control: Any, value: Any) -> Any:
        if isinstance(control, gr.Dropdown) and control.multiselect and not control.choices:
            # Its names come with a result; until then what is chosen is all there is to choose.
            return gr.update(choices=value, value=value)
        return gr.update(value=value)

    def _told(self, settings: Settings, found: Restored, panel: WishesPanel) -> str:
        set_ = [
            f"{label(f'wish.{name}', self.language)} {'✓' if value is True else name_of(name, value, self.language)}"
            for name, value in zip(panel.names, found.wishes, strict=True)
            if value not in (DECIDE, False)
        ]
        set_ += [
            f"{name_of('option', name, self.language)} {_shown(value)}"
            for name, value in found.options.items()
            if value not in (None, "", [])
        ]
        lines: list[str] = [self._("settings.done", name=settings.source)]
        lines.append(self._("settings.set", what=self._join(set_)) if set_ else self._("settings.nothing"))
        if found.left_out:
            lines.append(self._("settings.left_out", what=self._join(found.left_out)))
        if settings.weights:
            lines.append(
                self._(
                    "settings.weights", model=self.spec.title, variant=settings.variant, weights=self._weights(settings)
                )
            )
        return div("ah-settings-said", *(para("", line) for line in lines), role="status")

    def _weights(self, settings: Settings) -> str:
        said: Mapping[str, str] = LANGUAGES[self.language].PROVENANCE
        known = {words: key for key, words in PROVENANCE_OF.items()}
        return said.get(known.get(settings.weights, settings.weights), settings.weights)

    def _join(self, words: Sequence[str]) -> str:
        return self._("settings.join").join(words)

    def _(self, key: str, **figures: object) -> str:
        return label(key, self.language, **figures)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
