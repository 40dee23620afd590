"""What light and camera do to a finished picture."""

import cv2
import numpy as np
import numpy.typing as npt

from training.scenes.canvas import Array, Rng, as_array, chance, smooth_noise, uniform, unit_grid


def photographed(rng: Rng, canvas: Array, haze: float, *, clean: bool = False) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3] of ``canvas`` (0..1) under uneven light, hazed, blurred, noisy, often grey, often JPEG.

    Args:
        rng: source of everything random.
        canvas: the scene, 0..1.
        haze: contrast left, 1 is clear.
        clean: light falls off a little and nothing else happens.
    """
    height, width = canvas.shape[:2]
    image = canvas * _light_field(rng, height, width, 0.25 if clean else uniform(rng, 0.1, 0.9))[..., None]
    if clean:
        return _bytes(image * 0.95 / _brightness(image))
    image = image * haze + uniform(rng, 0.3, 0.8) * (1 - haze)
    if chance(rng, 0.45):
        image = np.repeat((image @ as_array([0.299, 0.587, 0.114]))[..., None], 3, 2)
    else:
        image = image * rng.uniform(0.85, 1.15, 3).astype(np.float32)
    # Cameras expose for the bright parts of what they see, not always well.
    image = np.clip(image * uniform(rng, 0.55, 1.1) / _brightness(image), 0, 1) ** uniform(rng, 0.7, 1.4)
    if chance(rng, 0.45):
        image = as_array(cv2.GaussianBlur(image, (0, 0), uniform(rng, 0.4, 1.3)))
    if chance(rng, 0.6):
        grain = rng.standard_normal((height, width, 1), dtype=np.float32)
        image = image + uniform(rng, 0.004, 0.04) * grain
    out = _bytes(as_array(image))
    return _jpeg(out, int(rng.integers(45, 96))) if chance(rng, 0.5) else out


def _light_field(rng: Rng, height: int, width: int, strength: float) -> Array:
    x, y = unit_grid(height, width)
    field = 1 - strength * 0.6 * smooth_noise(rng, height, width, uniform(rng, 1, 2.5))
    if chance(rng, 0.4):
        field = field * (1 - strength * 0.35 * (x**2 + y**2) / 2)
    tilt = uniform(rng, 0, 6.2832)
    return as_array(np.clip(field * (1 + strength * 0.3 * (x * np.cos(tilt) + y * np.sin(tilt))), 0.15, 1.4))


def _brightness(image: Array) -> float:
    return max(float(np.quantile(image[::4, ::4], 0.97)), 0.1)


def _bytes(image: Array) -> npt.NDArray[np.uint8]:
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _jpeg(image: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise OSError(f"OpenCV could not encode a {image.shape[1]}x{image.shape[0]} picture as JPEG")
    return np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])
