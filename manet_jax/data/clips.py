"""Clips from videos as a network sees them: its frames, cropped and scaled. NumPy, OpenCV and decoders only.

A clip is a dict of uint8 [t, size, size, 3], RGB, by the key of the network's inputs.
"""

import dataclasses
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from jaxtyping import Int, UInt8

from manet_jax.data import sampling
from manet_jax.data.augment import NO_AUGMENTATION, Augmentation, augment
from manet_jax.data.decoding import StoredVideo
from manet_jax.data.views import SINGLE_VIEW, Views
from manet_jax.models import ClipSpec
from manet_jax.models.options import Numbers

MAX_SCALE_GAP = 1  # how many crop scales width and height may lie apart
# Crop corners in quarters of the free room, (y, x): the corners, the centre, the edges' middles, the inner corners.
CROP_POSITIONS = (
    *((0, 0), (0, 4), (4, 0), (4, 4), (2, 2)),
    *((2, 0), (2, 4), (4, 2), (0, 2)),
    *((1, 1), (1, 3), (3, 1), (3, 3)),
)

Clip = dict[str, UInt8[np.ndarray, "_ _ _ 3"]]
CroppedFrame = dict[str, UInt8[np.ndarray, "_ _ _ 3"]]  # in each crop


def train_clip(
    rng: np.random.Generator,
    video: StoredVideo,
    inputs: dict[str, ClipSpec],
    augmentation: Augmentation = NO_AUGMENTATION,
) -> Clip:
    """Decodes a random training clip of a video: random frames, crops and flips, and what else is asked for.

    Args:
      rng: draws them.
      video: of a built data set.
      inputs: what the network sees.
      augmentation: of the crops.

    Raises:
      DamagedVideoError: the video cannot be decoded.
    """
    frames = sampling.random_frames(rng, video.num_frames, inputs)
    crops = {name: _random_crops(rng, images, inputs[name]) for name, images in _decode(video, frames).items()}
    return {name: augment(rng, images, inputs[name], augmentation) for name, images in crops.items()}


@dataclasses.dataclass(frozen=True)
class EvalClips:
    """What evaluation sees of a video: `clips[view]` is a clip for each of some views. They share their frames.

    Attributes:
      num_frames: of the video.
      frames: those that the clips consist of, cropped, by their numbers.
      inputs: what the network sees.
      views: of the video.
    """

    num_frames: int
    frames: dict[int, CroppedFrame]
    inputs: dict[str, ClipSpec]
    views: Views

    def __getitem__(self, view: int) -> Clip:
        clip, crop, mirrored = self.views.parts(view)
        clips = {}
        for name, indices in sampling.eval_frames(self.num_frames, self.inputs, clip, self.views.num_clips).items():
            images = np.stack([self.frames[i][name][crop] for i in indices.tolist()])
            clips[name] = flip(images) if mirrored else images
        return clips


def eval_clips(
    num_frames: int, read: Callable[[list[int]], list[CroppedFrame]], inputs: dict[str, ClipSpec], views: Views
) -> EvalClips:
    """Reads what evaluation sees of a video.

    Args:
      num_frames: of the video.
      read: gives some of its frames, from `crop_frame`.
      inputs: what the network sees.
      views: of the video.
    """
    of_clips = [sampling.eval_frames(num_frames, inputs, i, views.num_clips) for i in range(views.num_clips)]
    wanted = np.unique(np.concatenate([indices for frames in of_clips for indices in frames.values()])).tolist()
    return EvalClips(num_frames, dict(zip(wanted, read(wanted), strict=True)), inputs, views)


def stored_eval_clips(video: StoredVideo, inputs: dict[str, ClipSpec], views: Views) -> EvalClips:
    """Decodes what evaluation sees of a video of a built data set, in one pass over it.

    Raises:
      DamagedVideoError: the video cannot be decoded.
    """

    def read(indices: list[int]) -> list[CroppedFrame]:
        return [crop_frame(image, inputs, views.num_crops) for image in video.frames(np.array(indices))]

    return eval_clips(video.num_frames, read, inputs, views)


def eval_clip(video: StoredVideo, inputs: dict[str, ClipSpec]) -> Clip:
    """Decodes the clip of a video that evaluation uses, where that is only one: centred frames, centre crops.

    Args: see `stored_eval_clips`.

    Raises:
      DamagedVideoError: the video cannot be decoded.
    """
    return stored_eval_clips(video, inputs, SINGLE_VIEW)[0]


def crop_frame(image: UInt8[np.ndarray, "h w 3"], inputs: dict[str, ClipSpec], num_crops: int = 1) -> CroppedFrame:
    """A frame as each input of the network sees it in evaluation, scaled, in each crop of `views.Views`."""
    return {name: eval_crops(image, spec, num_crops) for name, spec in inputs.items()}


def blank_clip(inputs: dict[str, ClipSpec]) -> Clip:
    """A black clip, which fills up a batch."""
    return {name: np.zeros(clip_shape(spec), np.uint8) for name, spec in inputs.items()}


def clip_shape(spec: ClipSpec) -> tuple[int, int, int, int]:
    """The shape of a clip of one input."""
    return spec.num_frames, spec.crop_size, spec.crop_size, 3


def _decode(video: StoredVideo, frames: dict[str, Int[np.ndarray, " _"]]) -> dict[str, UInt8[np.ndarray, "_ h w 3"]]:
    """Decodes the frames of all inputs in one pass over the video."""
    images = video.frames(np.concatenate(list(frames.values())))
    ends = np.cumsum([len(indices) for indices in frames.values()])[:-1]
    return dict(zip(frames, np.split(images, ends), strict=True))


def _random_crops(
    rng: np.random.Generator, images: UInt8[np.ndarray, "t h w 3"], spec: ClipSpec
) -> UInt8[np.ndarray, "t size size 3"]:
    images = resize_short_side(cut_box(images, spec.box), spec.short_side)
    if spec.center_crop_first:
        images = center_crop(images, spec.crop_size)
    images = random_crop(rng, images, spec.crop_scales, spec.crop_size)
    return np.ascontiguousarray(flip(images) if rng.random() < 0.5 else images)


def eval_crops(image: UInt8[np.ndarray, "h w 3"], spec: ClipSpec, num_crops: int) -> UInt8[np.ndarray, "_ size size 3"]:
    """Scales a frame and cuts the crops of evaluation out of it, without their mirror images.

    As in mmaction2, three crops are cut where the shorter side has `crop_size` pixels, and of ten crops the corners'
    distances from the first one are multiples of 4 pixels.
    """
    side = spec.crop_size if num_crops == 3 else spec.short_side
    scaled = resize_short_side(cut_box(image[None], spec.box), side)[0]
    room = scaled.shape[0] - spec.crop_size, scaled.shape[1] - spec.crop_size
    corners = {
        1: [(room[0] // 2, room[1] // 2)],
        3: [(i * (room[0] // 2), i * (room[1] // 2)) for i in range(3)],
        10: [(row * (room[0] // 4), column * (room[1] // 4)) for row, column in CROP_POSITIONS[:5]],
    }[num_crops]
    return np.stack([scaled[top : top + spec.crop_size, left : left + spec.crop_size] for top, left in corners])


def resize_short_side(frames: UInt8[np.ndarray, "t h w 3"], size: int) -> UInt8[np.ndarray, "t h2 w2 3"]:
    """Scales frames, with bilinear interpolation, so that their shorter side has `size` pixels."""
    height, width = frames.shape[1:3]
    scale = size / min(height, width)
    return _resize(frames, int(height * scale + 0.5), int(width * scale + 0.5))


def random_crop(
    rng: np.random.Generator, frames: UInt8[np.ndarray, "t h w 3"], scales: Sequence[float], size: int
) -> UInt8[np.ndarray, "t size size 3"]:
    """Cuts the same random box out of all frames and scales it to size x size.

    Multi-scale cropping of TSN: the box's sides are two of `scales`, as shares of the frames' shorter side, at most
    MAX_SCALE_GAP steps apart; it lies at one of 13 positions.
    """
    height, width = frames.shape[1:3]
    sides = [int(min(height, width) * scale) for scale in scales]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= MAX_SCALE_GAP]
    crop_height, crop_width = pairs[rng.integers(len(pairs))]
    row, column = CROP_POSITIONS[rng.integers(len(CROP_POSITIONS))]
    top, left = row * ((height - crop_height) // 4), column * ((width - crop_width) // 4)
    return _resize(frames[:, top : top + crop_height, left : left + crop_width], size, size)


def center_crop(frames: UInt8[np.ndarray, "t h w 3"], size: int) -> UInt8[np.ndarray, "t size size 3"]:
    """Cuts size x size pixels out of the middle of all frames."""
    height, width = frames.shape[1:3]
    top, left = (height - size) // 2, (width - size) // 2
    return frames[:, top : top + size, left : left + size]


def flip(frames: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t h w 3"]:
    """Mirrors frames left to right. No class of MA-52 names a side, so this keeps the label."""
    flipped = np.empty(frames.shape, np.uint8)
    for frame, target in zip(frames, flipped, strict=True):
        cv2.flip(frame, 1, dst=target)  # a seventh of the time that NumPy needs
    return flipped


def cut_box(frames: UInt8[np.ndarray, "t h w 3"], box: Numbers) -> UInt8[np.ndarray, "t h2 w2 3"]:
    """Cuts the part between the edges top, left, bottom and right, shares of height and width, out of all frames."""
    height, width = frames.shape[1:3]
    top, bottom = round(box[0] * height), round(box[2] * height)
    left, right = round(box[1] * width), round(box[3] * width)
    return frames[:, top : max(bottom, top + 1), left : max(right, left + 1)]


def _resize(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    if frames.shape[1:3] == (height, width):
        return frames
    resized = np.empty((len(frames), height, width, 3), np.uint8)
    for frame, target in zip(frames, resized, strict=True):
        cv2.resize(frame, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
    return resized
