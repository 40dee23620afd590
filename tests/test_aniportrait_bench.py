"""The bench of AniPortrait's UNets: what is compared, and that both compute the same."""

import torch

from adapters.aniportrait.spec import SPEC
from bench.animate import PLANNED, PUBLISHED, Pair, Window, placements, table
from loader.plan import plan
from loader.wishes import Wishes
from tests.machines import host_with


def test_planned_and_published_compute_the_same_step():
    made = plan(SPEC, host_with(), Wishes(variant="miniature", size=(64, 64), frames=4))
    compared = placements(made, compiled=False)
    assert {p.compute_dtype for p in compared[PUBLISHED].values()} == {"fp32"}
    assert {p.compute_dtype for p in compared[PLANNED].values()} == {"bf16"}
    assert {p.compile for placed in compared.values() for p in placed.values()} == {"none"}
    outputs = {name: Pair(placed, Window(64, 4, small=True)).step() for name, placed in compared.items()}
    exact, low = outputs[PUBLISHED], outputs[PLANNED]
    assert exact.shape == (1, 4, 4, 8, 8)
    assert exact.dtype == low.dtype == torch.float32
    assert 0 < float((low - exact).norm() / exact.norm()) < 0.2
    # The same seed, the same networks.
    again = Pair(compared[PUBLISHED], Window(64, 4, small=True)).step()
    assert torch.equal(again, exact)


def test_a_table_says_what_was_compared():
    rows = [
        {
            "config": "planned",
            "seconds": {"min": 3.0, "median": 3.5, "max": 4.0},
            "speed_up": 1.9,
            "peak_bytes": 2**32,
            "peak_share": 0.55,
            "difference": 0.01,
            "placed": {"denoising_unet": "bf16, contiguous, attention sdpa, none"},
        }
    ]
    said = table(rows)
    assert "| planned | 3.00 | 3.50 | 4.00 | 1.9× | 4.00 GiB | 0.55 | 0.0100 |" in said
    assert "denoising_unet bf16" in said
