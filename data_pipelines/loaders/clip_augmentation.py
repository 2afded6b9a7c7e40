"""The augmentation of clips of flow and masks."""

from dataclasses import dataclass

import numpy as np

from data_pipelines.loaders.clip_transforms import (
    FlowClip,
    add_camera,
    crop_zoom,
    drop_unseen,
    flip_horizontal,
    flip_vertical,
    random_camera,
    random_window,
    reverse_time,
    scale_speed,
    visible_layers,
)
from data_pipelines.loaders.part_motion import rest_part, swing_part
from oclr_jax.errors import UserError


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training clips; values are drawn uniformly unless stated otherwise.

    Raises UserError for a `swing` outside [0, 1): at 1 there would always be another part.
    """

    flip_horizontal: float = 0.5  # probability
    flip_vertical: float = 0.0  # probability; gravity and the camera's height are cues
    reverse_time: float = 0.5  # probability
    zoom: float = 0.5  # probability of a crop that is resized to the whole grid
    min_window: float = 0.6  # smallest crop, as a fraction of the grid's height and width
    max_stretch: float = 1.2  # largest ratio of horizontal to vertical zoom, or its inverse
    min_speed: float = 0.5  # smallest factor on all flow; log-uniform
    max_speed: float = 2.0  # largest factor on all flow
    camera: float = 0.3  # probability of additional camera motion
    camera_pan: float = 3.0  # px per frame; largest additional pan along each axis
    camera_shear: float = 2.0  # px per frame; largest zoom, rotation or shear at the grid's border
    rest: float = 0.0  # probability that a part of an object rests for some frames; `rest_part`
    # Probability that a part of an object swings, then that another does, and so on; `swing_part`.
    swing: float = 0.0

    def __post_init__(self):
        if not 0 <= self.swing < 1:
            raise UserError(f"data.swing is a probability below 1, not {self.swing}.")


NO_AUGMENTATION = Augmentation(
    flip_horizontal=0.0, reverse_time=0.0, zoom=0.0, min_speed=1.0, max_speed=1.0, camera=0.0
)


def augment(clip: FlowClip, rng: np.random.Generator, settings: Augmentation) -> FlowClip:
    """A random variation of a clip on the same grid, with at least one object visible."""
    if rng.random() < settings.flip_horizontal:
        clip = flip_horizontal(clip)
    if rng.random() < settings.flip_vertical:
        clip = flip_vertical(clip)
    if rng.random() < settings.reverse_time:
        clip = reverse_time(clip)
    if rng.random() < settings.zoom:
        grid = clip["flow"].shape[1:3]
        window = random_window(rng, *grid, settings.min_window, settings.max_stretch)
        zoomed = crop_zoom(clip, window)
        # A crop without objects teaches nothing.
        clip = zoomed if visible_layers(zoomed["modal"]).any() else clip
    if rng.random() < settings.rest:
        clip = rest_part(clip, rng)
    while rng.random() < settings.swing:
        clip = swing_part(clip, rng)
    low, high = np.log([settings.min_speed, settings.max_speed])
    clip = scale_speed(clip, float(np.exp(rng.uniform(low, high))))
    if rng.random() < settings.camera:
        camera = settings.camera_pan, settings.camera_shear
        clip = add_camera(clip, random_camera(rng, len(clip["flow"]), *camera))
    return drop_unseen(clip)
