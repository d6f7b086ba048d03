"""ABCD measurements drawn over the photograph, so that a person can check them."""

from __future__ import annotations

import math

import cv2
import numpy as np

from lesionseg.features import Abcd
from lesionseg.features_abc import COLOUR_SHARE, COLOURS, SEGMENTS

# BGR. Orange and blue are told apart by colour-blind readers; the white and black rims show on any pigment.
_SIGN, _NO_SIGN = (0, 140, 255), (255, 190, 60)
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


def draw_abcd(image: np.ndarray, abcd: Abcd) -> np.ndarray:
    """Axes, border segments, colours and scores over an image.

    Orange marks what scores: an axis over which the lesion is asymmetric, a segment whose pigment ends abruptly; blue what
    does not. The legend names the colours that count, with their share of the lesion.

    Args:
        image: uint8 (H, W, 3) BGR, the one that was measured.
        abcd: what `features.measure` returned for it.

    Returns:
        uint8 (H, W, 3) BGR, a new array.
    """
    drawn = image.copy()
    width = max(2, round(max(image.shape[:2]) / 250))
    _draw_segments(drawn, abcd, width)
    _draw_axes(drawn, abcd, width)
    _draw_legend(drawn, abcd)
    return drawn


def _line(image: np.ndarray, points: np.ndarray, colour: tuple[int, int, int], width: int) -> None:
    """A line through points (n, 2), x and y in px, with a dark rim."""
    fixed = [np.round(points * 16).astype(np.int32)]
    cv2.polylines(image, fixed, False, _BLACK, width + 2, cv2.LINE_AA, shift=4)
    cv2.polylines(image, fixed, False, colour, width, cv2.LINE_AA, shift=4)


def _draw_segments(image: np.ndarray, abcd: Abcd, width: int) -> None:
    outline, segments = abcd.outline, abcd.segments
    starts = np.flatnonzero(segments != np.roll(segments, 1))
    for start, stop in zip(starts, np.append(starts[1:], starts[:1] + len(outline)), strict=True):
        part = np.arange(start, stop + 1) % len(outline)  # one point on, so that no gap is left
        _line(image, outline[part], _SIGN if abcd.abrupt[segments[start]] else _NO_SIGN, width)


def _draw_axes(image: np.ndarray, abcd: Abcd, width: int) -> None:
    centre = np.array(abcd.centre)
    reach = np.linalg.norm(abcd.outline - centre, axis=1).max() * 1.1
    for turn in range(SEGMENTS // 2):
        angle = abcd.angle + turn * 2 * math.pi / SEGMENTS
        ends = centre + reach * np.outer([-1, 1], [math.cos(angle), math.sin(angle)])
        if turn % 2:  # between the axes: only where segments meet
            start, stop = np.round(ends).astype(int).tolist()
            cv2.line(image, start, stop, _WHITE, 1, cv2.LINE_AA)
        else:
            _line(image, ends, _SIGN if abcd.axes_asymmetric[turn // 2] else _NO_SIGN, width)


def _draw_legend(image: np.ndarray, abcd: Abcd) -> None:
    """Scores and colours, in the top left corner."""
    values = abcd.values
    border = "-" if math.isnan(values["border"]) else f"{values['border']:.0f}"
    lines: list[tuple[str, tuple[int, int, int] | None]] = [
        (f"A {values['asymmetry']:.0f}/2  B {border}/8  C {values['colours']:.0f}/6", None),
        (f"TDS without D {values['tds_without_d']:.1f}" if border != "-" else "TDS without D -", None),
    ]
    for name in COLOURS:
        if values[f"colour_{name}"] >= COLOUR_SHARE:
            share = f"{values[f'colour_{name}']:.0%} {name.replace('_', ' ')}"
            lines.append((share, _bgr(COLOURS[name])))
    height = max(9, round(max(image.shape[:2]) / 36))  # of a line
    scale, thick = height / 32, max(1, height // 16)
    widest = max(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)[0][0] for text, _ in lines)
    panel = image[: height * (len(lines) + 1), : widest + 3 * height]
    panel[:] = panel // 4 + 190  # light enough to read on
    for number, (text, colour) in enumerate(lines, start=1):
        left = height // 2
        if colour is not None:
            top = round((number - 0.75) * height) + 2
            cv2.rectangle(image, (left, top), (left + height, top + height - 4), colour, cv2.FILLED)
            left += round(1.5 * height)
        at = (left, round((number + 0.1) * height))
        cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, _BLACK, thick, cv2.LINE_AA)


def _bgr(lab: tuple[float, float, float]) -> tuple[int, int, int]:
    pixel = cv2.cvtColor(np.array([[lab]], dtype=np.float32), cv2.COLOR_LAB2BGR)[0, 0]
    blue, green, red = np.rint(np.clip(pixel, 0, 1) * 255).astype(int).tolist()
    return blue, green, red
