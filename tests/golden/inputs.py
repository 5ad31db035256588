"""The inputs of the recorded outputs, drawn from a seed: weights, clips, label vectors. See README.md."""

import json
import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent
SHAPES = json.loads((GOLDEN / "released_shapes.json").read_text())
LABELS = np.array([3, 41])  # of the two clips in the recorded training steps


def weights(seed):
    """A tensor for every key of the released checkpoint, in its order; He-like, so that activations stay in range."""
    rng = np.random.default_rng(seed)
    return {name: draw_tensor(rng, name, shape) for name, shape in SHAPES.items()}


def draw_tensor(rng, name, shape):
    last = name.rpartition(".")[2]
    if last == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if last in ("bias", "running_mean"):
        tensor = rng.normal(0, 0.1, shape)
    elif last == "running_var":
        tensor = rng.uniform(0.5, 1.5, shape)
    elif ".bn." in name:
        tensor = rng.uniform(0.5, 1.5, shape) * (0.3 if ".conv3." in name else 1.0)
    else:
        gain, fan_in = 1.0 if "fc_" in name else 2.0, int(np.prod(shape[1:]))
        tensor = rng.normal(0, np.sqrt(gain / fan_in), shape)
    return tensor.astype(np.float32)


def clips(seed, num_clips=2, size=224):
    """uint8 [num_clips, 8, size, size, 3]: six blobs of colour that wander over a noisy ground."""
    rng = np.random.default_rng(seed + 1000)
    y, x = (axis.astype(np.float32) / size for axis in np.mgrid[:size, :size])
    video = np.zeros((num_clips, 8, size, size, 3), np.float32)
    for clip in video:
        for _ in range(6):
            start, end = rng.uniform(0.1, 0.9, 2), rng.uniform(0.1, 0.9, 2)
            radius, colour = rng.uniform(0.05, 0.2), rng.uniform(-200, 200, 3)
            for t, frame in enumerate(clip):
                centre = start + (end - start) * t / 7
                distance2 = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
                frame += np.exp(-distance2 / (2 * radius * radius))[..., None] * colour
        clip += 128 + rng.uniform(-40, 40, 3)
    return np.clip(video + rng.normal(0, 4, video.shape), 0, 255).astype(np.uint8)


def label_vectors(seed):
    """float32 [52, 300]: targets of the joint embedding."""
    return np.random.default_rng(seed + 2000).normal(0, 0.3, (52, 300)).astype(np.float32)
