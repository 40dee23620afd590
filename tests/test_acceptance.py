"""Terms of weights: nothing is fetched or run before they are accepted, and one visitor's tick is nobody else's."""

import asyncio
import json
from argparse import Namespace
from dataclasses import replace

import pytest

from adapters import ADAPTERS, adapter
from adapters.damo_yolo.pipeline import DetectRequest
from commands import exits, licences
from kit.images import open_picture
from kit.parts import states
from kit.parts.context import PageContext
from kit.parts.licence_tick import LicenceTick
from kit.texts import LANGUAGES, error_text
from loader.acceptance import Record, by_deployer, covers, names_in, open_terms, require, terms_of
from loader.errors import AnyhostError, InputError, LicenceNotAcceptedError, RunError
from loader.folders import Folders
from loader.outcome import Cancel, Result
from loader.spec import Licence, Source, Weights
from loader.wishes import Wishes
from tests.machines import ROOT, engine_on, host_with

TERMS = Licence("Research Terms", "https://example.org/terms", commercial=False, accept=True, note="research only")
OTHER = Licence("Other Terms", "https://example.org/other", accept=True)
FREE = Licence("Apache-2.0", "https://example.org/apache")
INSTANTID = adapter("instantid")
WISHES = Wishes(variant="preview", size=(320, 320), dtype="fp32")
REQUEST = DetectRequest((open_picture(ROOT / "assets" / "examples" / "coins.png"),))


def under(licence: Licence):
    """The detector with its preview weights under ``licence``."""
    spec = adapter("damo_yolo")
    preview = spec.variant("preview")
    weights = tuple(replace(w, licence=licence) for w in preview.weights)
    variants = tuple(replace(v, weights=weights) if v is preview else v for v in spec.variants)
    return replace(spec, variants=variants)


def weights(file: str, licence: Licence, size: int = 10) -> Weights:
    return Weights(file, (Source("hub", "org/net", file),), size, licence, ("net",))


@pytest.fixture
def engine(tmp_path):
    made = engine_on(host_with(), tmp_path)
    yield made
    made.close()


def run(engine, spec, **options) -> Result:
    *_, last = engine.run(spec, REQUEST, WISHES, **options)
    return last


# --- which terms ------------------------------------------------------------------------------------------------


def test_files_under_one_licence_are_asked_for_once():
    files = (weights("a", FREE), weights("b", TERMS, 3), weights("c", OTHER), weights("d", TERMS, 4))
    found = terms_of(files)
    assert [(t.licence.name, [w.file for w in t.weights], t.bytes) for t in found] == [
        ("Research Terms", ["b", "d"], 7),
        ("Other Terms", ["c"], 10),
    ]
    assert [t.licence for t in open_terms(files, ["research  TERMS "])] == [OTHER]
    require(files, ["Research Terms", "Other Terms"])
    with pytest.raises(LicenceNotAcceptedError) as caught:
        require(files, ["Research"])
    assert caught.value.licences == (TERMS, OTHER)


def test_the_generators_ask_for_what_their_authors_ask_for():
    names = {spec.name: {t.licence.name for v in spec.variants for t in terms_of(v.weights)} for spec in ADAPTERS}
    assert names["damo_yolo"] == names["metric3d"] == set()
    assert names["instantid"] >= {"InsightFace model terms", "InstantID research terms"}
    assert names["hunyuan3d"] >= {"Tencent Hunyuan 3D community licence"}


def test_a_deployer_names_licences_in_the_environment():
    assert by_deployer({}) == by_deployer({"ANYHOST_ACCEPT": " , "}) == frozenset()
    assert by_deployer({"ANYHOST_ACCEPT": "Research Terms, other   terms"}) == {"Research Terms", "other terms"}


# --- the engine -------------------------------------------------------------------------------------------------


def test_nothing_is_fetched_or_run_before_the_terms_are_accepted(engine, monkeypatch):
    fetched = []
    monkeypatch.setattr("loader.opened.fetch_all", lambda *args, **kwargs: fetched.append(args))
    with pytest.raises(LicenceNotAcceptedError, match=r"Research Terms \(https://example.org/terms\).*ANYHOST_ACCEPT"):
        run(engine, under(TERMS))
    with pytest.raises(LicenceNotAcceptedError):
        run(engine, under(TERMS), accepted=frozenset({"Other Terms"}))
    assert fetched == []


def test_weights_on_this_disk_are_not_used_either_and_one_acceptance_is_not_another_s(engine):
    spec = under(TERMS)  # the file ships with the project
    assert run(engine, spec, accepted=frozenset({"Research Terms"})).outputs
    with pytest.raises(LicenceNotAcceptedError):  # loaded by now, and the next visitor has ticked nothing
        run(engine, spec)


def test_what_the_deployer_accepts_holds_for_everybody(engine):
    engine.accepted = by_deployer({"ANYHOST_ACCEPT": "research terms"})
    assert run(engine, under(TERMS)).outputs


def test_an_own_checkpoint_brings_its_own_terms(engine, tmp_path):
    own = ROOT / under(TERMS).variant("preview").weights[0].sources[0].location
    assert run(engine, under(TERMS), checkpoint=own).weights.startswith("own file")


def test_the_ladder_does_not_step_onto_a_variant_under_other_terms(engine):
    spec = adapter("damo_yolo")
    free, bound = spec.variant("Ns"), under(TERMS).variant("preview")
    assert covers(bound, free)
    assert covers(bound, bound)
    assert not covers(free, bound)
    small = replace(spec.variant("Nl"), weights=tuple(replace(w, licence=TERMS) for w in spec.variant("Nl").weights))
    changed = replace(spec, variants=tuple(small if v.name == "Nl" else v for v in spec.variants))
    before, lower = (engine.plan(changed, Wishes(variant=name)) for name in ("Ns", "Nl"))
    with pytest.raises(RunError, match="terms of Nl were not accepted"):
        engine._driver._files_for(lower, before, {}, None)


# --- the record -------------------------------------------------------------------------------------------------


def test_what_was_accepted_on_the_command_line_is_on_record_until_withdrawn(tmp_path):
    folders = Folders(cache=tmp_path / "cache", own=(), assets=ROOT)
    assert licences.accepted([], folders) == frozenset()
    assert not folders.cache.exists(), "asking leaves no trace"
    name = "InsightFace model terms"
    assert licences.accepted(["insightface MODEL terms"], folders) == {name}
    entry = json.loads((folders.cache / "accepted.json").read_text())[name]
    assert entry["url"].startswith("https://")
    assert entry["date"][:2] == "20"
    assert licences.accepted([], folders) == {name}
    Record(folders.cache).withdraw(licences.read([name]))
    assert licences.accepted([], folders) == frozenset()
    with pytest.raises(InputError, match="InstantID research terms"):
        licences.accepted(["Apache-2.0"], folders)


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1}', '{"a": {"url": "x"}}', "null"])
def test_a_damaged_record_accepts_nothing(tmp_path, content):
    (tmp_path / "accepted.json").write_text(content)
    assert Record(tmp_path).names() == frozenset()
    Record(tmp_path).accept([TERMS])
    assert Record(tmp_path).names() == {"Research Terms"}


def test_a_record_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder would be")
    with pytest.raises(AnyhostError, match="ANYHOST_CACHE"):
        Record(tmp_path / "cache").accept([TERMS])


# --- words ------------------------------------------------------------------------------------------------------


def test_the_refusal_exits_with_3_and_names_licence_address_and_remedy(capsys):
    def refuse(args: Namespace) -> int:
        raise LicenceNotAcceptedError((TERMS,))

    assert exits.run(refuse, Namespace()) == exits.REFUSED
    said = capsys.readouterr().err
    for words in ("Research Terms", "https://example.org/terms", "--accept-licence", "ANYHOST_ACCEPT"):
        assert words in said


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_refusal_is_said_in_the_page_s_language(language):
    error = LicenceNotAcceptedError((TERMS, OTHER))
    card = states.failed(error, language)
    for words in ("Research Terms", "https://example.org/other", "ANYHOST_ACCEPT"):
        assert words in error_text(error, language)
        assert words in card
    assert ("接受" in card) == (language == "zh")


# --- the tick on the page ---------------------------------------------------------------------------------------


def ticking(engine, spec, language: str = "en") -> LicenceTick:
    import gradio as gr

    async def made() -> LicenceTick:  # without a running loop Gradio opens some and never closes them
        with gr.Blocks():
            return LicenceTick(PageContext(engine, language), spec)

    return asyncio.run(made())


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_tick_shows_every_licence_with_its_link_note_and_bytes(engine, language):
    tick = ticking(engine, INSTANTID, language)
    markup = tick.markup(INSTANTID.variant("sdxl"))
    for words in ("InsightFace model terms", "https://github.com/deepinsight", "non-commercial", "278 MB", "GB"):
        assert words in markup
    assert "Open RAIL" not in markup
    assert [name for _, name in tick.control.choices] == ["InsightFace model terms", "InstantID research terms"]
    assert tick.control.visible
    assert tick.control.value == []
    assert tick.accepted(["InsightFace model terms"]) == {"InsightFace model terms"}
    assert tick.accepted(None) == frozenset()


def test_no_tick_where_nothing_has_to_be_accepted(engine):
    tick = ticking(engine, adapter("damo_yolo"))
    assert tick.terms.value == ""
    assert not tick.control.visible


def test_a_tick_follows_the_variant_and_keeps_what_still_applies(engine):
    spec = under(TERMS)
    tick = ticking(engine, spec)
    assert not tick.control.visible
    markup, update = tick.shown(spec.variant("preview"), [])
    assert "Research Terms" in markup
    assert update["visible"]
    assert tick.shown(spec.variant("preview"), ["Research Terms"])[1]["value"] == ["Research Terms"]
    markup, update = tick.shown(spec.variant("T"), ["Research Terms"])
    assert (markup, update["value"], update["visible"]) == ("", [], False)


def test_what_the_deployer_accepted_is_named_and_not_asked_for(engine):
    engine.accepted = frozenset({"InsightFace model terms"})
    tick = ticking(engine, INSTANTID)
    assert [name for _, name in tick.control.choices] == ["InstantID research terms"]
    assert "Accepted by whoever runs this page: InsightFace model terms." in tick.terms.value


def test_a_tick_in_a_model_s_tab_reaches_the_engine_and_its_absence_is_answered(engine):
    import gradio as gr

    from kit.parts.model_tab import ModelTab
    from kit.running import told

    class Bound(ModelTab[Result]):
        spec = under(TERMS)

        def build_input(self):
            """Nothing is asked for."""

        def build_result(self):
            self.box = gr.HTML()

        def inputs(self):
            return []

        def job(self, values, asked):
            yield from told(self.context.engine, self.spec, REQUEST, asked)

        def finished(self, outcome, asked):
            return {self.box: f"{len(outcome.outputs)} seen"}

        def outputs(self):
            return [self.box]

    async def made() -> Bound:
        with gr.Blocks(), gr.Tabs(), gr.Tab("detector"):
            tab = Bound(PageContext(engine))
            tab.build()
        return tab

    tab = asyncio.run(made())
    wishes = {"variant": "preview", "size": "320x320", "dtype": "fp32"}
    values = [wishes.get(name, default) for name, default in zip(tab.panel.names, tab.panel.defaults, strict=True)]
    visitor = Namespace(session_hash="one")

    def answers(ticked: list[str]) -> list[dict]:
        return list(tab._work(visitor, Cancel(), ticked, *values))

    assert "Terms to accept first" in answers([])[-1][tab.status]
    assert answers(["Research Terms"])[-1][tab.box] == "1 seen"


def test_no_licence_s_name_holds_what_separates_names():
    """Otherwise it could be accepted neither in the environment nor by a program."""
    names = {w.licence.name for spec in ADAPTERS for v in spec.variants for w in v.weights if w.licence.accept}
    assert len(names) >= 4
    for name in names:
        assert names_in(name) == {name}
    assert names_in(" a  b ; c,, d ") == {"a b", "c", "d"}
    assert by_deployer({"ANYHOST_ACCEPT": ", ".join(sorted(names))}) == names
