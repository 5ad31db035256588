"""Checkpoints of drawn weights, for tests that need a model but no training."""

import contextlib

import numpy as np
from checkpoints import random_variables
from helpers import shrink

from manet_jax import configuration
from manet_jax.checkpoint import Checkpoints
from manet_jax.models import ClipSpec
from manet_jax.run_metadata import RunMetadata
from tfds_ma52.labels import LabelSet

LABELS = LabelSet(("nodding", "waving", "tiptoe"), ("head", "hand", "leg"), (0, 1, 2))
INPUTS = {"video": ClipSpec(num_frames=4, short_side=40, crop_size=32)}


def save(workdir, config, labels=LABELS, emotions=(), multilabel=False, vectors=None):
    """Writes a checkpoint of drawn variables, whose outputs differ from clip to clip."""
    embedding_dim = 0 if vectors is None else vectors.shape[1]
    model = configuration.parse(config).model_spec(labels, embedding_dim, len(emotions))
    variables = random_variables(model)
    metadata = RunMetadata(
        model=model, labels=labels, emotions=tuple(emotions), multilabel=multilabel, config=config.to_dict()
    )
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        checkpoints.save("best", 1, {"model": variables}, metadata)
    return workdir


def small(config):
    """A config small enough for a test, of no data."""
    return shrink(config, "nowhere")


def softmax(logits):
    """Probabilities [b, n], float64."""
    powers = np.exp(np.asarray(logits, np.float64) - np.max(logits, 1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
