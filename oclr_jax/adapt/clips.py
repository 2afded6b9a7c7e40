"""Training clips: parts of the footage with labels that hold, and rendered scenes."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from data_pipelines.loaders.clip_augmentation import Augmentation, augment
from data_pipelines.loaders.clip_transforms import FlowClip, drop_unseen
from data_pipelines.synthetic import SceneConfig, compose_scene, render
from data_pipelines.synthetic.plan import scene_kind
from oclr_jax.adapt.footage import StoredFlow
from oclr_jax.adapt.labels import Labels, left_out
from oclr_jax.adapt.settings import AdaptSettings
from oclr_jax.flow.estimator import FlowEstimator
from oclr_jax.flow.gaps import gap_flows
from oclr_jax.flow.resize import resize_flow
from oclr_jax.oclr.predict import is_still
from oclr_jax.storage import ArrayFile, StoredArray
from oclr_jax.types import Batch

LAYERS = 3  # objects in a clip
# A clip is trained on if the masks of each of its frames agree so well with their neighbours.
LEAST_AGREEMENT = 0.6
# Objects that are smaller in a clip than this share of the grid, in the mean, are left out.
LEAST_AREA = 0.002
# Generator of rendered scenes; training data have other second seeds.
_SCENE_SEED = 7


class ClipPlace(NamedTuple):
    """Consecutive frames of a video that can be trained on."""

    video: int
    frames: range


def choose_clips(
    labels: Sequence[Labels], flows: Sequence[StoredFlow], gaps: Sequence[int], frames: int
) -> list[ClipPlace]:
    """All clips whose labels hold: every frame agrees with its neighbours, and something moves.

    Left-out frames are in no clip; see `left_out`.

    Args:
      labels, flows: of each video.
      gaps: at which the model sees flow.
      frames: length of a clip.
    """
    places = []
    for video, (label, flow) in enumerate(zip(labels, flows, strict=True)):
        good = (label.agreement >= LEAST_AGREEMENT) & ~left_out(flow.shots, frames)
        for shot in flow.shots:
            for start in range(shot.start, shot.stop - frames + 1):
                clip = range(start, start + frames)
                if good[start : start + frames].all() and not is_still(flow.read(clip, gaps)):
                    places.append(ClipPlace(video, clip))
    return places


def footage_clip(labels: Labels, flow: StoredFlow, frames: range, gaps: Sequence[int]) -> FlowClip:
    """A clip of a video, with flow at `gaps` and up to three objects, the largest ones.

    An amodal mask is the visible one with what the flow model sees of the object behind others.
    """
    ids, hidden = (x[frames.start : frames.stop] for x in (labels.ids, labels.hidden))
    areas = {int(id): float((ids == id).mean()) for id in labels.order}
    largest = sorted(areas, key=areas.get, reverse=True)[:LAYERS]
    kept = [id for id in areas if id in largest and areas[id] >= LEAST_AREA]
    modal, amodal = np.zeros((2, *ids.shape, LAYERS), np.uint8)
    for layer, id in enumerate(kept):
        modal[..., layer] = ids == id
        amodal[..., layer] = (ids == id) | (hidden == id)
    return FlowClip(flow=flow.read(frames, gaps), amodal=amodal, modal=modal)


class RenderedScenes:
    """Rendered clips with their true masks, in a temporary file; clip i is always the same."""

    def __init__(
        self,
        settings: AdaptSettings,
        grid: tuple[int, int],
        gaps: Sequence[int],
        estimator: FlowEstimator,
    ):
        """Renders nothing yet: a clip is rendered when it is first asked for.

        Args:
          settings: number of scenes and frames.
          grid: (height, width) of the model.
          gaps: of its flow.
          estimator: of its flow.
        """
        self._config = SceneConfig(frames=settings.frames, height=grid[0], width=grid[1])
        self._settings, self._gaps, self._estimator = settings, tuple(gaps), estimator
        self._file = ArrayFile()
        self._clips: dict[int, tuple[StoredArray, ...]] = {}

    def __getitem__(self, number: int) -> FlowClip:
        """Clip `number`, modulo the number of clips."""
        number %= self._settings.scenes
        if number not in self._clips:
            self._clips[number] = self._render(number)
        flow, amodal, modal = (stored.read() for stored in self._clips[number])
        return FlowClip(flow=flow.astype(np.float32), amodal=amodal, modal=modal)

    def _render(self, number: int) -> tuple[StoredArray, ...]:
        config = self._config
        rng = np.random.default_rng((self._settings.seed, _SCENE_SEED, number))
        sample = render(compose_scene(rng, config, scene_kind(number)))
        flow = gap_flows(sample["video"], self._gaps, self._estimator)
        layers = np.arange(1, LAYERS + 1, dtype=np.uint8)
        modal = (sample["segmentations"][..., None] == layers).astype(np.uint8)
        fields = resize_flow(flow, config.height, config.width).astype(np.float16)
        return tuple(self._file.append(array) for array in (fields, sample["amodal"], modal))


def make_batches(
    places: Sequence[ClipPlace],
    labels: Sequence[Labels],
    flows: Sequence[StoredFlow],
    scenes: RenderedScenes,
    gaps: Sequence[int],
    settings: AdaptSettings,
    part: int,
) -> Iterator[Batch]:
    """An endless stream of this process's batches for its devices.

    It is the same for the same settings, part, process and number of devices.

    In the share of each device, clips of the footage come first, each at one of `settings.gaps`
    times the model's gaps; then rendered clips. All are augmented. Videos are drawn evenly,
    whatever their length.
    """
    rng = np.random.default_rng((settings.seed, part, jax.process_index()))
    devices = jax.local_device_count()
    by_video: dict[int, list[ClipPlace]] = {}
    for place in places:
        by_video.setdefault(place.video, []).append(place)
    videos = list(by_video)
    while True:
        clips = []
        for real in ([True] * settings.real + [False] * settings.rendered) * devices:
            if real:
                options = by_video[videos[rng.integers(len(videos))]]
                place = options[rng.integers(len(options))]
                factor = settings.gaps[rng.integers(len(settings.gaps))]
                at = [factor * gap for gap in gaps]
                clip = footage_clip(labels[place.video], flows[place.video], place.frames, at)
            else:
                clip = drop_unseen(scenes[int(rng.integers(settings.scenes))])
            clips.append(augment(clip, rng, Augmentation()))
        yield {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}
