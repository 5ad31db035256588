"""The inputs of the recorded outputs of the zoo's networks, drawn from a seed: weights and clips. See README.md.

The value of a tensor depends on its name, its shape and the seed alone. Everything is sums, products and quotients of
float64, so that every machine draws the same bytes; `check` makes sure.
"""

import dataclasses
import functools
import json
import pathlib
import zlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "zoo"
LABELS = np.array([3, 41], np.int32)  # of the two clips
SEED = 0


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of a network of the zoo beside its outputs.

    Attributes:
      config: of the reference.
      family: "cnn", "vit" or "hybrid"; the weights' scale depends on it.
      clip: frames, pixels of the sides, mean and std of the pixels that the reference sees.
      parameters: their number.
      traces: the shapes of the recorded outputs of modules.
      gradients: the names of the tensors whose gradients are recorded.
      tensors: shape and dtype of each tensor of a published checkpoint.
    """

    config: str
    family: str
    clip: dict
    parameters: int
    traces: dict
    gradients: list
    tensors: dict


@functools.cache
def record(network):
    return Record(**json.loads((GOLDEN / f"{network}.json").read_text()))


@functools.cache
def outputs(network):
    """The recorded arrays of a network, by name."""
    found = {}
    for path in GOLDEN.glob("*.npz"):
        with np.load(path) as file:
            names = [name for name in file if name.startswith(f"{network}/")]
            found |= {name.partition("/")[2]: file[name] for name in names}
    return found


def weights(network):
    """A tensor for every name of a published checkpoint, in PyTorch's layout."""
    known = record(network)
    return {name: draw_tensor(name, shape, dtype, known.family) for name, (shape, dtype) in known.tensors.items()}


def draw_tensor(name, shape, dtype, family):
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("relative_position_index"):
        return relative_positions(8, 7, 7)
    rng = np.random.default_rng([zlib.crc32(name.encode()), SEED])
    if name.endswith("running_var"):
        tensor = rng.uniform(0.5, 1.5, shape)
    elif name.endswith(("running_mean", "bias")):
        tensor = 0.1 * rng.standard_normal(shape)
    elif name.endswith(".weight") and len(shape) == 1:  # of a normalisation; small where a residual branch ends
        tensor = rng.uniform(0.5, 1.5, shape) * (0.3 if name.endswith((".conv3.bn.weight", ".bn3.weight")) else 1.0)
    elif name.endswith("relative_position_bias_table"):
        tensor = 0.5 * rng.standard_normal(shape)
    elif name.endswith(("cls_token", "pos_embed", "time_embed")):
        tensor = 0.3 * rng.standard_normal(shape)
    else:
        is_classifier = ".fc_cls." in name or ".new_fc." in name
        gain = 0.1 if is_classifier and family != "vit" else 2.0 if family == "cnn" else 1.0
        tensor = rng.standard_normal(shape) * np.sqrt(gain / int(np.prod(shape[1:])))
        if name.endswith(".pos_embed.weight"):  # UniFormer's convolutions, after which nothing is normalised
            tensor *= 0.2
        if name == "backbone.conv1a.conv.weight":  # C3D's pixels have a standard deviation of about 60
            tensor /= 64
    return tensor.astype(dtype)


def relative_positions(*window):
    """int64 [n, n]: Video Swin's row of a table of positions for each pair of the n places of a window."""
    places = np.stack(np.meshgrid(*(np.arange(size) for size in window), indexing="ij")).reshape(3, -1)
    t, h, w = places[:, :, None] - places[:, None, :] + np.array(window).reshape(3, 1, 1) - 1
    return (t * (2 * window[1] - 1) + h) * (2 * window[2] - 1) + w


def clips(network, num_clips=2):
    """uint8 [num_clips, frames, size, size, 3]: blobs of colour that wander over a noisy ground."""
    clip = record(network).clip
    num_frames, size = clip["num_frames"], clip["crop_size"]
    rng = np.random.default_rng([SEED, num_frames, size])
    y, x = (axis / size for axis in np.mgrid[:size, :size].astype(np.float64))
    video = np.zeros((num_clips, num_frames, size, size, 3))
    for each in video:
        for _ in range(6):
            start, end = rng.uniform(0.1, 0.9, 2), rng.uniform(0.1, 0.9, 2)
            radius, colour = rng.uniform(0.05, 0.2), rng.uniform(-200, 200, 3)
            for t, frame in enumerate(each):
                top, left = start + (end - start) * (t / (num_frames - 1))
                distance2 = ((y - top) * (y - top) + (x - left) * (x - left)) / (radius * radius)
                frame += (1 / (1 + distance2 * distance2))[..., None] * colour
        each += 128 + rng.uniform(-40, 40, 3)
    video += rng.integers(-12, 13, video.shape)
    return np.clip(video, 0, 255).astype(np.uint8)


def check(state, video):
    """float64 [4], recorded as `check`: CRC-32 of the weights in the order of their names, of the clips; both sums."""
    code = 0
    for name in sorted(state):
        code = zlib.crc32(np.ascontiguousarray(state[name]), code)
    total = sum(float(tensor.sum(dtype=np.float64)) for _, tensor in sorted(state.items()))
    return np.array([code, zlib.crc32(video), total, float(video.sum(dtype=np.int64))])


def probe(array):
    """float32 [130] of an array in PyTorch's layout: mean, L2 norm, its first 64 values and 64 evenly spaced ones."""
    flat = np.ascontiguousarray(array).reshape(-1)
    exact = flat.astype(np.float64)
    spaced = flat[np.arange(64) * (flat.size - 1) // 63]
    return np.concatenate([[exact.mean(), np.sqrt(np.square(exact).sum())], flat[:64], spaced]).astype(np.float32)
