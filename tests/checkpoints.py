"""Checkpoints of small networks, and PyTorch's names, that several test modules use."""

import contextlib

import jax.numpy as jnp
import numpy as np

from manet_jax.checkpoint import Checkpoints, read_model
from manet_jax.models import MODELS, ModelSpec
from manet_jax.models.variables import abstract_variables, flatten, replace
from manet_jax.run_metadata import RunMetadata
from tfds_ma52.labels import MA52


def tiny_manet(**options):
    """A small MANet for MA-52's classes."""
    return ModelSpec("manet", MODELS["manet"].Options.tiny(**{"num_classes": 52, "embedding_dim": 6, **options}))


def random_variables(spec, seed=0):
    """Random variables of a network; those of its heads are so large that small differences show in the outputs."""
    _, abstract = abstract_variables(spec)
    rng = np.random.default_rng(seed)
    drawn = {}
    for path, leaf in sorted(flatten(abstract).items()):
        scale = np.sqrt(2 / np.prod(leaf.shape[:-1]))  # of He et al.
        kernel = path.endswith("kernel")
        values = rng.normal(0, scale, leaf.shape) if kernel else rng.uniform(0.5, 1, leaf.shape)
        drawn[path] = jnp.array(values, leaf.dtype)
    return replace(abstract, drawn)


def save_checkpoint(workdir, spec=None, *, step=7, seed=0, **metadata):
    """Writes the best checkpoint of a run of MA-52's classes; returns its variables."""
    spec = spec or tiny_manet()
    variables = random_variables(spec, seed)
    config = {"data": {"manual_dir": "/home/me/secret"}, "seed": 3}
    record = RunMetadata(
        **{"model": spec, "labels": MA52, "config": config, "versions": {}, "commit": None, **metadata}
    )
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        checkpoints.save("best", step, {"model": variables}, record)
    return variables


def read_checkpoint(workdir, name="best"):
    """The variables of a checkpoint, by path, and its metadata."""
    saved = read_model(workdir, name)
    return flatten(saved.variables), saved.metadata


def torchvision_names(layers, width=64, num_classes=1000):
    """Names and shapes of torchvision's ResNets with bottlenecks."""
    shapes = {
        "conv1.weight": (width, 3, 7, 7),
        "fc.weight": (num_classes, 32 * width),
        "fc.bias": (num_classes,),
    }

    def add_bn(name, size):
        shapes.update({f"{name}.{part}": (size,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    add_bn("bn1", width)
    before = width
    for stage, blocks in enumerate(layers, 1):
        size = width * 2 ** (stage - 1)
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            for i, (kernel, out) in enumerate([((size, before, 1, 1), size), ((size, size, 3, 3), size)], 1):
                shapes[f"{name}.conv{i}.weight"] = kernel
                add_bn(f"{name}.bn{i}", out)
            shapes[f"{name}.conv3.weight"] = (4 * size, size, 1, 1)
            add_bn(f"{name}.bn3", 4 * size)
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * size, before, 1, 1)
                add_bn(f"{name}.downsample.1", 4 * size)
            before = 4 * size
    return shapes
