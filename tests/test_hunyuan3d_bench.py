"""The bench of the reconstruction: its stages, its table, and the grid within its memory."""

from bench.apart import apart
from bench.mesh import AIM_GB, MIB, WHOLE, Stage, measure, over_rounds, table

GRID = 128  # of the published networks' planes, a slab at a time as for 384


def test_the_grid_and_its_surface_keep_within_their_share_of_the_memory():
    stages = {stage.name: stage for stage in apart(measure, None, "fp32", GRID, only="grid")}
    whole = stages[f"grid {GRID}³ and its surface"]
    assert set(stages) == {f"grid {GRID}³", "marching cubes and clean-up", whole.name}
    # The grid itself, and no more than the aim for 384³ leaves for one of this size.
    assert GRID**3 * 4 < whole.grown_mib * MIB < AIM_GB * 1e9 * (GRID / 384) ** 3


def test_every_stage_is_measured_in_miniature():
    stages = measure("fp32", 48, small=True)
    names = [stage.name for stage in stages]
    assert names[:5] == [
        "load image encoder",
        "image encoder",
        "load triplane transformer",
        "triplane transformer",
        WHOLE,
    ]
    assert names[-1] == "30 turntable pictures 512²"
    assert all(stage.seconds >= 0 for stage in stages)


def test_rounds_become_a_median_with_its_spread():
    def rounds(*seconds: float) -> list[list[Stage]]:
        names = ("image encoder", "triplane transformer", WHOLE, "grid 384³ and its surface")
        return [[Stage(name, value, 100.0 * value, quiet=True) for name in names] for value in seconds]

    rows = {"fp32": over_rounds(rounds(2.0, 4.0, 6.0)), "bf16": over_rounds(rounds(1.0))}
    assert rows["fp32"][0]["seconds"] == {"median": 4.0, "min": 2.0, "max": 6.0}
    said = table(rows)
    assert "| image encoder | 4.00 (2.00 to 6.00) | 600.0 | yes | 1.00 | 100.0 | yes |" in said
    assert len({line.count("|") for line in said.splitlines() if line.startswith("|")}) == 1
    assert "4.00 times as fast as fp32, 0.17 of its memory" in said
    assert "grid 384³ and its surface: 4.0 s, 0.63 GB; the aims of 384³ are 60 s on 2 cores and 2.5 GB" in said
