"""Measures how far the network and its training are from the recorded outputs of the released code.

Needs neither videos nor the packages that read them, nor Orbax.
"""

import dataclasses
import functools
import io
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from golden import inputs
from golden.inputs import GOLDEN

from manet_jax import optimizers, parallel, pretrained
from manet_jax.models import ClipSpec, ModelSpec
from manet_jax.models.manet import MANetOptions
from manet_jax.models.variables import abstract_variables, merge, replace
from manet_jax.pretrained.table import to_state_dict, to_variables
from manet_jax.tasks import JointEmbedding, SingleLabel
from manet_jax.train_step import TrainState, create_step
from tfds_ma52.labels import MA52

EXACT = json.loads((GOLDEN / "exact_training.json").read_text())


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A quantity, the largest difference that is tolerated, and the one that was measured."""

    quantity: str
    tolerance: float
    difference: float


@dataclasses.dataclass(frozen=True)
class Steps:
    """Losses and gradient norms of the recorded steps; after them the parameters' changes and norms, and the logits."""

    losses: list[float]
    grad_norms: list[float]
    changes: dict[str, float]
    norms: dict[str, float]
    logits: np.ndarray


@functools.cache
def outputs():
    with np.load(GOLDEN / "released_outputs.npz") as file:
        return {name: json.loads(str(value)) if value.ndim == 0 else value for name, value in file.items()}


def released_model():
    """The network with the recorded run's weights, and these."""
    state, table = inputs.weights(0), pretrained.manet.TABLE
    spec = ModelSpec(table.network, table.options_from(state))
    return spec, load(state, spec, "the recorded run's weights")


def load(state, spec, title):
    values = to_variables(state, spec, pretrained.manet.TABLE, title)
    return jax.tree.map(jnp.asarray, replace(abstract_variables(spec)[1], values))


@functools.partial(jax.jit, static_argnums=0)
def apply(graphdef, variables, video):
    """The model's outputs for clips, and each frame's pooled features."""
    model = merge(graphdef, variables)
    return model({"video": video}), model.features(video).mean((2, 3))


def relative_to_largest(ours, theirs):
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def largest_relative(ours, theirs):
    return float(np.max(np.abs(np.array(ours) / theirs - 1)))


def forward(spec, variables):
    (graphdef, _), video = abstract_variables(spec), jnp.array(inputs.clips(0))
    (logits, embedding, *_), pooled = apply(graphdef, variables, video)
    backwards = apply(graphdef, variables, video[:, ::-1])[0].logits
    return [
        Measurement(f"{quantity}, of the largest", 1e-4, relative_to_largest(values, outputs()[name]))
        for quantity, values, name in (
            ("logits", logits, "logits"),
            ("embedding", embedding, "embedding"),
            ("pooled features", pooled, "pooled_features"),
            ("logits of the clips played backwards", backwards, "logits_time_reversed"),
        )
    ]


def forward_of_small_model():
    """Of the network of 14 layers and 32 x 32 pixels that version 0.1.0 wrote; for machines that have little time."""
    with zipfile.ZipFile(GOLDEN / "format_1.zip") as file:
        state = safetensors.numpy.load(file.read("manet.safetensors"))
        record = dict(np.load(io.BytesIO(file.read("outputs.npz"))))
    clip = ClipSpec(num_frames=2, short_side=40, crop_size=32)
    options = MANetOptions(num_classes=3, embedding_dim=50, depth=14, width=4, shift_div=4, clip=clip)
    spec = ModelSpec("manet", options)
    variables = load(state, spec, "the recorded small network")
    (logits, embedding, *_), _ = apply(abstract_variables(spec)[0], variables, jnp.array(record["video"]))
    return [
        Measurement("logits, of the largest", 1e-4, relative_to_largest(logits, record["manet_logits"])),
        Measurement("embedding, of the largest", 1e-4, relative_to_largest(embedding, record["manet_embedding"])),
    ]


def run_steps(spec, variables):
    """Runs the three recorded steps from the recorded weights."""
    optimizer = optimizers.create_optimizer(
        lambda step: 0.00125, momentum=0.9, weight_decay=1e-4, clip_norm=20.0, head_lr_multiplier=5.0, head="last"
    )
    trained, _ = abstract_variables(ModelSpec(spec.name, dataclasses.replace(spec.options, dropout=0.0)))
    task = SingleLabel(MA52, JointEmbedding(inputs.label_vectors(0), weight=50.0))
    mesh, opt_state = parallel.make_mesh(1), optimizer.init(variables["params"])
    step = create_step(trained, optimizer, (task,), mesh, seed=0)
    # Placed as the step returns it: else the second step is compiled anew.
    state = parallel.replicate(TrainState(step=jnp.int32(0), **variables, opt_state=opt_state), mesh)
    batch = parallel.shard_batch({"video": inputs.clips(0), "label": inputs.LABELS.astype(np.int32)}, mesh)
    losses, grad_norms = [], []
    for _ in range(3):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
        grad_norms.append(float(metrics["grad_norm"]))
    old, new = (to_state_dict(each, spec, pretrained.manet.TABLE) for each in (variables, state.variables))
    names = outputs()["param_delta_norms"]
    changes = {name: float(np.linalg.norm((new[name] - old[name]).ravel().astype(np.float64))) for name in names}
    norms = {name: float(np.linalg.norm(new[name].ravel().astype(np.float64))) for name in names}
    after = jax.device_put(state.variables, jax.devices()[0])
    logits = apply(abstract_variables(spec)[0], after, jnp.array(inputs.clips(0)))[0].logits
    return Steps(losses, grad_norms, changes, norms, np.asarray(logits))


def training(steps):
    record = outputs()
    changes = [abs(steps.changes[name] / change - 1) for name, change in record["param_delta_norms"].items()]
    norms = [abs(steps.norms[name] / norm - 1) for name, norm in record["param_norms_after"].items()]
    return [
        Measurement("losses of three training steps, relative", 1e-4, largest_relative(steps.losses, record["losses"])),
        Measurement("gradient norms, relative", 1e-3, largest_relative(steps.grad_norms, record["grad_norms"])),
        Measurement("each parameter's change, its norm, relative", 1e-2, max(changes)),
        Measurement("each parameter's norm afterwards, relative", 1e-4, max(norms)),
        Measurement(
            "logits afterwards, of the largest", 1e-2, relative_to_largest(steps.logits, record["logits_after"])
        ),
    ]
