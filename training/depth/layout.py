"""What stands where: rooms, halls and yards with furniture of real sizes before a camera held at eye height.

A single picture tells metres only by what its maker knows of the world. Here that is: the camera is about 1.45 m above
the floor, and tables, doors, bricks and balls have their usual sizes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from training.depth.solids import Array, Solid
from training.depth.textures import Material, Rng, material

WIDTHS = {"room": (3.0, 6.5), "hall": (7.0, 15.0), "yard": (9.0, 24.0)}
LENGTHS = {"room": (3.5, 8.0), "hall": (9.0, 20.0), "yard": (12.0, 28.0)}
HEIGHTS = {"room": (2.4, 3.0), "hall": (3.4, 5.5), "yard": (9.0, 14.0)}
FLOORS = {
    "room": ("planks", "planks", "tiles", "plain", "checks"),
    "hall": ("plain", "tiles", "plain", "checks"),
    "yard": ("plain", "tiles", "bricks"),
}
WALLS = {
    "room": ("plain", "plain", "plain", "stripes", "tiles"),
    "hall": ("plain", "bricks", "tiles"),
    "yard": ("bricks", "plain", "bricks"),
}
PATTERNS = ("plain", "plain", "plain", "planks", "stripes", "checks", "poster")
CLEARANCE = 0.7


@dataclass
class Layout:
    """A scene under construction, in the camera's frame before its tilt (y straight down, origin the camera).

    Attributes:
        kind: "room", "hall" or "yard".
        floor: y of the floor: the camera's height.
        solids: the room first.
        materials: of all.
        turn: yaw of the room.
        taken: ``x, z, radius`` of footprints.
    """

    kind: str
    floor: float
    solids: list[Solid] = field(default_factory=list)
    materials: list[Material] = field(default_factory=list)
    turn: float = 0.0
    taken: list[tuple[float, float, float]] = field(default_factory=list)

    @property
    def room(self) -> Solid:
        return self.solids[0]


def yawed(angle: float) -> Array:
    """``[3, 3]`` rotation about the vertical."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], np.float32)


def enclosure(rng: Rng, kind: str) -> tuple[Layout, float]:
    """An empty room with the camera in it, looking where it is free for a while, and how many metres that is."""
    width, length, height = (rng.uniform(*sizes[kind]) for sizes in (WIDTHS, LENGTHS, HEIGHTS))
    eye = float(np.clip(rng.normal(1.45, 0.1), 1.2, 1.7))
    # In the room's axes; the view must reach a wall no nearer than 2.2 m.
    while True:
        x, z = rng.uniform(-0.42, 0.42) * width, rng.uniform(-0.45, 0.2) * length
        yaw = rng.normal(0, 0.5)
        ahead = min(
            (length / 2 - z) / max(np.cos(yaw), 1e-3), (width / 2 - np.sign(yaw) * x) / max(abs(np.sin(yaw)), 1e-3)
        )
        if ahead > 2.2:
            break
    turn = yawed(-yaw)
    centre = turn @ np.array([-x, eye - height / 2, -z], np.float32)
    layout = Layout(kind, eye, turn=-yaw)
    half = np.array([width / 2, height / 2, length / 2], np.float32)
    layout.solids.append(Solid("room", centre.astype(np.float32), half, turn, 0))
    walls = material(rng, str(rng.choice(WALLS[kind])), bright=(0.25, 0.85), saturation=0.35)
    ceiling = (0.5, 0.9)
    layout.materials += [
        material(rng, str(rng.choice(FLOORS[kind])), bright=(0.12, 0.6)),
        material(rng, "plain", bright=ceiling, saturation=0.1),
        walls,
        walls if rng.random() < 0.6 else material(rng, str(rng.choice(WALLS[kind])), bright=(0.25, 0.85)),
    ]
    return layout, float(ahead)


def _new_material(rng: Rng, layout: Layout, pattern: str | None = None) -> int:
    layout.materials.append(material(rng, pattern or str(rng.choice(PATTERNS))))
    return len(layout.materials) - 1


class Builder:
    """Puts parts of one thing together: positions are relative to its foot, y up, turned by its yaw."""

    def __init__(self, layout: Layout, x: float, z: float, yaw: float) -> None:
        self.layout, self.foot = layout, np.array([x, layout.floor, z], np.float32)
        self.turn = yawed(yaw)

    def add(self, shape: str, at: tuple[float, float, float], half: tuple[float, float, float], surface: int) -> None:
        """A part whose centre is ``at`` (right, up, back)."""
        offset = self.turn @ np.array([at[0], -at[1], at[2]], np.float32)
        body = Solid(shape, (self.foot + offset).astype(np.float32), np.array(half, np.float32), self.turn, surface)
        self.layout.solids.append(body)


def _crate(rng: Rng, build: Builder, m: int) -> None:
    side = rng.uniform(0.3, 0.6)
    build.add("box", (0, side / 2, 0), (side / 2 * rng.uniform(0.9, 1.4), side / 2, side / 2), m)
    if rng.random() < 0.4:
        _small(rng, build, side)


def _small(rng: Rng, build: Builder, height: float, x: float = 0.0) -> None:
    """Something to stand on something else."""
    m = _new_material(rng, build.layout)
    kind = rng.integers(3)
    if kind == 0:
        r = rng.uniform(0.06, 0.13)
        build.add("ball", (x, height + r, 0), (r, r, r), m)
    elif kind == 1:
        r, h = rng.uniform(0.04, 0.1), rng.uniform(0.1, 0.3)
        build.add("cylinder", (x, height + h / 2, 0), (r, h / 2, r), m)
    else:
        a, b, c = rng.uniform(0.06, 0.2, 3)
        build.add("box", (x, height + b, 0), (a, b, c), m)


def _ball(rng: Rng, build: Builder, m: int) -> None:
    r = float(rng.choice([rng.uniform(0.1, 0.13), rng.uniform(0.3, 0.38)]))
    build.add("ball", (0, r, 0), (r, r, r), m)


def _barrel(rng: Rng, build: Builder, m: int) -> None:
    r, h = (0.29, 0.88) if rng.random() < 0.4 else (rng.uniform(0.14, 0.2), rng.uniform(0.3, 0.6))
    build.add("cylinder", (0, h / 2, 0), (r, h / 2, r), m)


def _column(rng: Rng, build: Builder, m: int) -> None:
    r, h = rng.uniform(0.12, 0.3), 2 * float(build.layout.room.half[1])
    build.add("cylinder" if rng.random() < 0.6 else "box", (0, h / 2, 0), (r, h / 2, r), m)


def _table(rng: Rng, build: Builder, m: int) -> None:
    w, d, h = rng.uniform(0.5, 0.85), rng.uniform(0.33, 0.45), rng.uniform(0.71, 0.77)
    build.add("box", (0, h - 0.015, 0), (w, 0.018, d), m)
    for x in (-w + 0.05, w - 0.05):
        for z in (-d + 0.05, d - 0.05):
            build.add("box", (x, h / 2 - 0.02, z), (0.025, h / 2 - 0.02, 0.025), m)
    for x in (-0.25, 0.2)[: rng.integers(3)]:
        _small(rng, build, h, x)


def _chair(_rng: Rng, build: Builder, m: int) -> None:
    for x in (-0.18, 0.18):
        for z in (-0.18, 0.18):
            build.add("box", (x, 0.22, z), (0.02, 0.22, 0.02), m)
    build.add("box", (0, 0.45, 0), (0.22, 0.02, 0.22), m)
    build.add("box", (0, 0.68, 0.2), (0.21, 0.21, 0.02), m)


def _sofa(rng: Rng, build: Builder, m: int) -> None:
    w = rng.uniform(0.6, 1.1)
    build.add("box", (0, 0.21, 0), (w, 0.21, 0.42), m)
    build.add("box", (0, 0.42, 0.36), (w, 0.42, 0.1), m)
    for x in (-w, w):
        build.add("box", (x, 0.3, 0), (0.1, 0.3, 0.42), m)


def _cabinet(rng: Rng, build: Builder, m: int) -> None:
    w, h, d = rng.uniform(0.35, 0.7), rng.uniform(0.4, 1.0), rng.uniform(0.2, 0.3)
    build.add("box", (0, h, 0), (w, h, d), m)
    if h < 0.6:
        _small(rng, build, 2 * h)


def _shelf(rng: Rng, build: Builder, m: int) -> None:
    w, h = rng.uniform(0.35, 0.6), rng.uniform(1.4, 2.0)
    for x in (-w, w):
        build.add("box", (x, h / 2, 0), (0.015, h / 2, 0.17), m)
    boards = int(rng.integers(4, 6))
    for level in range(boards):
        y = 0.05 + level * (h - 0.08) / (boards - 1)
        build.add("box", (0, y, 0), (w, 0.015, 0.17), m)
        if level < boards - 1 and rng.random() < 0.5:
            _small(rng, build, y + 0.02, float(rng.uniform(-0.6, 0.6) * w))


def _post(rng: Rng, build: Builder, m: int) -> None:
    h = rng.uniform(1.2, 1.8)
    build.add("cylinder", (0, h / 2, 0), (0.025, h / 2, 0.025), m)
    r = rng.uniform(0.12, 0.2)
    build.add("ball", (0, h + r, 0), (r, r, r), _new_material(rng, build.layout, "plain"))


Maker = Callable[[Rng, Builder, int], None]
FURNITURE: tuple[Maker, ...] = (
    *(_crate, _crate, _ball, _ball, _barrel, _barrel, _column, _table, _table, _chair, _chair, _sofa),
    *(_cabinet, _cabinet, _shelf, _post),
)
FOOTPRINT: dict[Maker, float] = {
    _column: 0.3,
    _table: 0.9,
    _sofa: 1.1,
    _cabinet: 0.65,
    _shelf: 0.55,
    _crate: 0.45,
    _chair: 0.35,
}


def furnish(rng: Rng, layout: Layout, half_view: float) -> None:
    """Up to 14 things on the floor within ``half_view`` radians of straight ahead, none in another or at the camera."""
    room = layout.room
    for _ in range(int(rng.integers(3, 15))):
        thing = FURNITURE[int(rng.integers(len(FURNITURE)))]
        size = FOOTPRINT.get(thing, 0.3)
        for _ in range(8):
            distance = np.exp(rng.uniform(np.log(CLEARANCE + size), np.log(max(10.0, 2 * CLEARANCE + size))))
            azimuth = rng.uniform(-1, 1) * half_view
            x, z = distance * np.sin(azimuth), distance * np.cos(azimuth)
            local = room.inside(np.array([x, 0, z], np.float32) - room.centre)
            free = np.all(np.abs(local[::2]) < room.half[::2] - size * 0.8)
            if free and all(np.hypot(x - a, z - b) > size + r for a, b, r in layout.taken):
                yaw = layout.turn + (rng.integers(4) * np.pi / 2 if rng.random() < 0.6 else rng.uniform(0, 6.3))
                layout.taken.append((x, z, size))
                thing(rng, Builder(layout, x, z, float(yaw)), _new_material(rng, layout))
                break


def hang(rng: Rng, layout: Layout) -> None:
    """Doors, windows and pictures on the walls."""
    room = layout.room
    for _ in range(int(rng.integers(1, 6))):
        axis, side = int(rng.choice([0, 2])), float(rng.choice([-1.0, 1.0]))
        along = float(rng.uniform(-0.85, 0.85)) * float(room.half[2 - axis])
        if rng.random() < 0.4:
            half_width, half_height, bottom, pattern = 0.45, 1.02, 0.0, "plain"
        else:
            half_width, half_height, bottom = rng.uniform(0.25, 0.7), rng.uniform(0.2, 0.55), rng.uniform(0.9, 1.3)
            pattern = "poster"
        half, local = np.full(3, 0.03, np.float32), np.zeros(3, np.float32)
        half[2 - axis], half[1] = half_width, half_height
        local[axis], local[2 - axis] = side * room.half[axis], along
        local[1] = room.half[1] - bottom - half_height
        centre = (room.centre + room.turn @ local).astype(np.float32)
        layout.solids.append(Solid("box", centre, half, room.turn, _new_material(rng, layout, pattern)))
