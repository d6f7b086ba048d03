"""Predictions drawn over the photograph with Detectron2's Visualizer, at the photograph's resolution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.utils.visualizer import Visualizer

from lesionseg.detections import LesionInstances

# Told apart from skin and pigment, and from each other also by colour-blind readers; a class keeps its colour.
COLOURS = (
    (0.0, 0.9, 1.0),
    (1.0, 0.9, 0.0),
    (0.3, 1.0, 0.3),
    (1.0, 0.45, 0.9),
    (0.4, 0.6, 1.0),
    (1.0, 0.6, 0.2),
)
FILL = 0.12  # opacity of the mask: the lesion's colours stay visible
FONT_SCALE = 1.5  # labels and lines stay readable when a large photograph is shown whole on a screen


def draw_overlay(
    image: np.ndarray, instances: LesionInstances, class_names: Sequence[str], notes: Sequence[str] = ()
) -> np.ndarray:
    """Boxes, classes, scores and masks over an image.

    Args:
        image: uint8 (H, W, 3) BGR.
        instances: what was found in it.
        class_names: by class index.
        notes: for each instance, what else its label says; () for nothing.

    Returns:
        uint8 (H, W, 3) BGR, a new array; the image itself where there are no instances.
    """
    drawn = image.copy()
    if not len(instances):
        return drawn
    classes = instances.pred_classes.tolist()
    scores = instances.scores.tolist()
    labels = [f"{class_names[c]} {s:.0%}" for c, s in zip(classes, scores, strict=True)]
    if notes:
        labels = ["\n".join(filter(None, pair)) for pair in zip(labels, notes, strict=True)]
    visualizer = Visualizer(image)
    visualizer._default_font_size *= FONT_SCALE  # an argument only in newer versions of Detectron2
    # Matplotlib takes seconds and gigabytes to show a photograph of 12 megapixels, and a tenth of that to draw on
    # nothing: let it draw on nothing and lay the result over the photograph.
    visualizer.output.ax.images[0].remove()
    visualizer.output.fig.patch.set_alpha(0)
    visualizer.overlay_instances(
        boxes=instances.pred_boxes,
        masks=list(instances.pred_masks),
        labels=labels,
        assigned_colors=[COLOURS[c % len(COLOURS)] for c in classes],
        alpha=FILL,
    )
    _place_labels(visualizer, instances.pred_boxes[:, 1], image.shape[1])
    buffer, (width, height) = visualizer.output.canvas.print_to_buffer()
    _blend(drawn, np.frombuffer(buffer, dtype=np.uint8).reshape(height, width, 4))
    return drawn


def _place_labels(visualizer: Visualizer, tops: np.ndarray, width: int) -> None:
    """Move labels off the lesion, above their box where there is room, and back into the image at its right side.

    The Visualizer puts them into the box's upper left corner. `tops` holds the boxes' upper sides in px.
    """
    renderer = visualizer.output.canvas.get_renderer()
    for text in visualizer.output.ax.texts:
        extent, padding = text.get_window_extent(renderer), text.get_fontsize() / 2
        x, y = text.get_position()
        if np.isclose(tops, y, atol=1).any() and y > extent.height + padding:
            y -= extent.height + padding
        text.set_position((min(x, max(0, x - (extent.x1 + padding - width))), y))


def _blend(image: np.ndarray, layer: np.ndarray) -> None:
    """Lay an RGBA layer over a BGR image of its size, in place; only the rows and columns that it touches."""
    opacity = layer[:, :, 3]
    rows, columns = np.flatnonzero(opacity.any(axis=1)), np.flatnonzero(opacity.any(axis=0))
    if not len(rows):
        return
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    alpha = opacity[part][:, :, None].astype(np.uint16)
    colour = layer[part][:, :, 2::-1]
    image[part] = (image[part] * (255 - alpha) + colour * alpha + 127) // 255
