"""Which frames are denoised together: windows that overlap, so that a long clip hangs together.

Implements ``src/pipelines/context.py`` of Zejun-Yang/AniPortrait (commit 7f6593f), taken over there from AnimateDiff's
command line tool: windows of neighbours, then (``stride`` above 1) of every second, fourth, ... frame.
"""

import math
from collections import Counter
from collections.abc import Sequence


def ordered_halving(step: int) -> float:
    """The bits of ``step`` mirrored behind the binary point: 0, 1/2, 1/4, 3/4, 1/8, ... (van der Corput's sequence).

    Args:
        step: 0 or more, below 2**64.
    """
    return int(f"{step:064b}"[::-1], 2) / 2**64


def context_windows(
    frames: int, size: int = 16, stride: int = 1, overlap: int = 4, *, closed: bool = True, step: int = 0
) -> list[list[int]]:
    """Windows that together cover every frame.

    Args:
        frames: length of the clip, at least 1.
        size: frames of a window; a clip that is not longer is one window of its own length.
        stride: how many resolutions in time, each half as fine as the one before; cut to what the clip can use.
        overlap: frames that neighbouring windows share.
        closed: the last window runs on into the first frames.
        step: moves the windows along the clip; upstream's pipelines leave it at 0.

    Returns:
        Frame numbers, window by window. With a stride above 1 a window may hold a frame more than once.

    Raises:
        ValueError: a number out of range.
    """
    if frames < 1 or size < 1 or stride < 1:
        raise ValueError(f"frames, size and stride must be at least 1, got {frames}, {size} and {stride}")
    if not 0 <= overlap < size:
        raise ValueError(f"overlap must be 0 to {size - 1} for windows of {size} frames, got {overlap}")
    if frames <= size:
        return [list(range(frames))]
    levels = min(stride, math.ceil(math.log2(frames / size)) + 1)
    shift = ordered_halving(step)
    offset = round(frames * shift)
    windows = []
    for spacing in (2**level for level in range(levels)):
        start, stop = int(shift * spacing) + offset, frames + offset - (0 if closed else overlap)
        for first in range(start, stop, size * spacing - overlap):
            windows.append([place % frames for place in range(first, first + size * spacing, spacing)])
    return windows


def coverage(windows: Sequence[Sequence[int]], frames: int) -> list[int]:
    """How many predictions each frame gets; its share of each is one over that.

    Raises:
        ValueError: a frame that no window holds, or a window that holds a frame that does not exist.
    """
    counts = Counter(frame for window in windows for frame in window)
    uncovered = [frame for frame in range(frames) if not counts[frame]]
    if uncovered or counts.keys() - set(range(frames)):
        beyond = sorted(counts.keys() - set(range(frames)))
        raise ValueError(f"windows do not fit {frames} frames: not covered {uncovered[:4]}, beyond {beyond[:4]}")
    return [counts[frame] for frame in range(frames)]
