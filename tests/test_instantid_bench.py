"""The bench of InstantID's networks: what is compared, and what the tables say."""

import torch

from adapters.instantid.spec import SPEC
from bench.identity import PAIR, PLAIN, PLANNED, load_table, seeded, step, step_inputs, step_table
from loader.plan import plan
from loader.wishes import Wishes
from tests.machines import host_with


def test_a_step_of_both_networks_is_timed_plain_and_as_planned():
    made = plan(SPEC, host_with(), Wishes(variant="miniature", size=(128, 128)))
    rows = step(made, 64, 2, small=True)
    assert [(row["component"], row["config"]) for row in rows] == [(c, n) for c in PAIR for n in (PLAIN, PLANNED)]
    assert all(0 < row["seconds"]["min"] <= row["seconds"]["median"] <= row["seconds"]["max"] for row in rows)
    assert [row["placed"].split(",")[0] for row in rows] == ["fp32", "bf16"] * 2
    said = step_table(rows)
    assert len({line.count("|") for line in said.splitlines() if line.startswith("|")}) == 1
    assert "64×64" in said


def test_the_networks_are_seeded_and_their_inputs_fit():
    for component in PAIR:
        first, again = (seeded(component, torch.bfloat16, small=True) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
        arguments, keywords = step_inputs(component, first.float(), 64)
        with torch.inference_mode():
            assert first(*arguments, **keywords)[0] is not None


def test_what_loading_took_is_a_table():
    row = {"component": "vae", "narrow": True, "stored": "bf16", "layout": "channels_last", "ratio": 1.1, "limit": 1.15}
    row |= {"file_bytes": 84e6, "kept_bytes": 42e6, "anonymous_bytes": 43e6, "peak_bytes": 44e6}
    assert "| vae, a third as wide | bf16, channels_last | 84 | 42 | 43 | 44 | 1.1 | 1.15 |" in load_table([row])
