"""One ray-cast picture with its depth and normals, a pure function of its seed."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.depth import layout as layouts
from training.depth.layout import Layout
from training.depth.solids import Array, Solid, first_hit, shadowed, surface
from training.depth.textures import Rng, albedo, noise_tile

KINDS = ("room", "hall", "yard")
KIND_SHARES = (0.6, 0.25, 0.15)
# Per pixel of a picture 304 wide: shadows are found on every second pixel each way and smoothed in between.
SHADOW_STEP = 2
FAR_M = 60.0


@dataclass(frozen=True)
class Scene:
    """A picture and all that is known of it.

    Attributes:
        image: ``[H, W, 3]`` uint8 sRGB.
        depth: ``[H, W]`` metres along the optical axis, everywhere.
        normal: ``[H, W, 3]`` unit, towards the camera: x right, y down, z forward.
        focal_px: focal length; the principal point is the centre.
    """

    image: NDArray[np.uint8]
    depth: Array
    normal: Array
    focal_px: float


@dataclass(frozen=True)
class Camera:
    """Size of the picture, focal length in pixels, and ``tilt`` ``[3, 3]`` from the camera's axes to level ones."""

    size: tuple[int, int]
    focal_px: float
    tilt: Array

    def rays(self) -> Array:
        """``[H, W, 3]`` level directions of unit depth, so that lengths along them are depths."""
        height, width = self.size
        x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / self.focal_px
        y = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / self.focal_px
        grid = np.stack([*np.meshgrid(x, y), np.ones((height, width), np.float32)], axis=-1)
        return (grid @ self.tilt.T).astype(np.float32)

    def window(self, solid: Solid) -> tuple[slice, slice]:
        """Rows and columns outside which ``solid`` cannot appear."""
        height, width = self.size
        centre, reach = solid.centre @ self.tilt, solid.reach
        near = centre[2] - reach
        if near < 0.05:
            return (slice(0, height), slice(0, width)) if centre[2] + reach > 0 else (slice(0), slice(0))
        spans = []
        for axis, length in ((1, height), (0, width)):
            ends = [(centre[axis] + s * reach) / z for s in (-1, 1) for z in (near, centre[2] + reach)]
            low, high = (np.array([min(ends), max(ends)]) * self.focal_px + length / 2).clip(0, length)
            spans.append(slice(int(low), int(np.ceil(high))))
        return spans[0], spans[1]


def _camera(rng: Rng, size: tuple[int, int], floor_angle: float) -> Camera:
    """A camera whose picture's lower edge looks at least four degrees below ``floor_angle``, where the floor begins."""
    field_of_view = np.radians(rng.uniform(40, 82))
    lower_edge = np.arctan(np.tan(field_of_view / 2) * size[0] / size[1])
    pitch = np.radians(np.clip(rng.normal(11, 8), -6, 34))
    pitch = max(pitch, floor_angle + np.radians(4) - lower_edge)
    roll = np.radians(np.clip(rng.normal(0, 1.5), -4, 4))
    c, s = np.cos(pitch), np.sin(pitch)
    down = np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    c, s = np.cos(roll), np.sin(roll)
    lean = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return Camera(size, float(size[1] / 2 / np.tan(field_of_view / 2)), (down @ lean).astype(np.float32))


def cast(solids: list[Solid], camera: Camera, rays: Array) -> tuple[Array, NDArray[np.int32]]:
    """Depth ``[H, W]`` and number of the solid ``[H, W]`` that every ray ends on."""
    height, width = camera.size
    depth = first_hit(solids[0], rays.reshape(-1, 3)).reshape(height, width)
    owner = np.zeros((height, width), np.int32)
    for index, solid in enumerate(solids[1:], start=1):
        rows, columns = camera.window(solid)
        part = rays[rows, columns]
        if part.size == 0:
            continue
        hit = first_hit(solid, part.reshape(-1, 3)).reshape(part.shape[:2])
        nearer = hit < depth[rows, columns]
        depth[rows, columns][nearer] = hit[nearer]
        owner[rows, columns][nearer] = index
    return depth, owner


def _surfaces(
    rng: Rng, layout: Layout, owner: NDArray[np.int32], points: Array, footprint: Array
) -> tuple[Array, Array, Array]:
    """Normals, colours and gloss of ``points`` ``[N, 3]``."""
    normals, colours, gloss = np.empty_like(points), np.empty_like(points), np.empty(len(points), np.float32)
    tiles = [noise_tile(rng, 0.6), noise_tile(rng, 1.2)]
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(layout.solids) + 1))
    for index, solid in enumerate(layout.solids):
        mine = order[starts[index] : starts[index + 1]]
        if not len(mine):
            continue
        found = surface(solid, points[mine])
        normals[mine] = found.normal
        faces = [(mine, found.uv, solid.material)]
        if solid.shape == "room":
            above = (points[mine] @ np.array([0, 1, 0], np.float32)) < solid.centre[1]
            number = np.choose(found.face, [2, 0, 3]) + ((found.face == 1) & above)
            faces = [(mine[number == n], found.uv[number == n], n) for n in range(4)]
        for where, uv, number_ in faces:
            if len(where):
                look = layout.materials[number_]
                colours[where] = albedo(look, uv, footprint[where], tiles[number_ % 2])
                gloss[where] = look.gloss
    return normals, colours, gloss


def _lights(rng: Rng, layout: Layout) -> list[tuple[Array, Array, float]]:
    """Position, colour and reach in metres of each light."""
    room, lights = layout.room, []
    for _ in range(int(rng.integers(1, 4))):
        at = rng.uniform(-0.8, 0.8, 3) * room.half
        at[1] = -room.half[1] * rng.uniform(0.75, 0.97)
        warm = rng.uniform(-0.15, 0.15)
        colour = rng.uniform(0.4, 1.0) * np.array([1 + warm, 1, 1 - warm])
        reach = float(np.linalg.norm(room.half)) * rng.uniform(0.4, 1.5)
        lights.append(((room.centre + room.turn @ at).astype(np.float32), colour.astype(np.float32), reach))
    return lights


def _shadow(solids: list[Solid], points: Array, light: Array) -> Array:
    """Share of light ``[H, W]`` that reaches ``points`` ``[H, W, 3]``."""
    height, width = points.shape[:2]
    some = np.ascontiguousarray(points[::SHADOW_STEP, ::SHADOW_STEP]).reshape(-1, 3)
    towards = light - some
    dark = np.zeros(len(some), bool)
    for solid in solids[1:]:
        lit = np.flatnonzero(~dark)
        dark[lit] = shadowed(solid, some[lit], towards[lit])
    coarse = (~dark).astype(np.float32).reshape(-(-height // SHADOW_STEP), -1)
    return np.asarray(cv2.resize(cv2.blur(coarse, (2, 2)), (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _occlusion(layout: Layout, points: Array) -> Array:
    """Darkening ``[N]`` towards the room's edges."""
    room = layout.room
    gap = np.sort(room.half - np.abs(room.inside(points - room.centre)), axis=1)
    return (1 - 0.35 * np.exp(-np.maximum(gap[:, 1], 0) / 0.25)).astype(np.float32)


def _shaded(rng: Rng, layout: Layout, points: Array, normals: Array, colours: Array, gloss: Array) -> Array:
    flat, n = points.reshape(-1, 3), normals
    sky = rng.uniform(0.15, 0.45)
    light = (sky * (0.75 - 0.25 * n[:, 1]) * _occlusion(layout, flat))[:, None] * np.ones(3, np.float32)
    shine = np.zeros((len(flat), 1), np.float32)
    view = -flat / np.linalg.norm(flat, axis=1, keepdims=True)
    for at, colour, reach in _lights(rng, layout):
        towards = at - flat
        distance = np.linalg.norm(towards, axis=1)
        towards /= distance[:, None]
        reaching = _shadow(layout.solids, points, at).reshape(-1) / (1 + (distance / reach) ** 2)
        light += (np.maximum((n * towards).sum(1), 0) * reaching)[:, None] * colour
        halfway = towards + view
        halfway /= np.linalg.norm(halfway, axis=1, keepdims=True) + 1e-6
        shine += (np.maximum((n * halfway).sum(1), 0) ** 40 * reaching * gloss)[:, None]
    return (colours * light + shine).reshape(points.shape)


def developed(rng: Rng, radiance: Array) -> NDArray[np.uint8]:
    """What a camera makes of ``radiance`` ``[H, W, 3]``: exposure, white balance, vignette, blur, noise, gamma."""
    height, width = radiance.shape[:2]
    exposed = radiance * (rng.uniform(0.16, 0.4) / max(float(np.median(radiance)), 1e-3))
    exposed = exposed * np.exp(rng.normal(0, 0.06, 3)).astype(np.float32)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    exposed = exposed * (1 - rng.uniform(0, 0.25) * (x * x + y * y) / 2)[..., None].astype(np.float32)
    if rng.random() < 0.5:
        exposed = cv2.GaussianBlur(exposed, (0, 0), rng.uniform(0.3, 1.0))
    bright = 1 - np.exp(-1.3 * np.maximum(exposed, 0)) if rng.random() < 0.5 else exposed
    bright = bright + rng.normal(0, 1, radiance.shape) * rng.uniform(0, 0.02) * np.sqrt(np.maximum(bright, 0) + 0.02)
    gamma = 1 / rng.uniform(1.9, 2.5)
    return (np.clip(bright, 0, 1) ** gamma * 255 + 0.5).astype(np.uint8)


def render(seed: int, size: tuple[int, int] = (228, 304)) -> Scene:
    """The scene of ``seed``.

    Args:
        seed: everything follows from it and ``size``.
        size: height and width in pixels.
    """
    rng = np.random.default_rng([seed, 1])
    layout, ahead = layouts.enclosure(rng, str(rng.choice(KINDS, p=KIND_SHARES)))
    camera = _camera(rng, size, float(np.arctan(layout.floor / ahead)))
    layouts.hang(rng, layout)
    layouts.furnish(rng, layout, float(np.arctan(size[1] / 2 / camera.focal_px)) * 1.05)
    rays = camera.rays()
    depth, owner = cast(layout.solids, camera, rays)
    points = rays * depth[..., None]
    footprint = (depth / camera.focal_px).reshape(-1)
    normals, colours, gloss = _surfaces(rng, layout, owner.reshape(-1), points.reshape(-1, 3), footprint)
    image = developed(rng, _shaded(rng, layout, points, normals, colours, gloss))
    seen = normals @ camera.tilt
    seen = (seen / np.linalg.norm(seen, axis=1, keepdims=True)).reshape(*size, 3).astype(np.float32)
    return Scene(image, np.minimum(depth, FAR_M), seen, camera.focal_px)
