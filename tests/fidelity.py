"""Measures how far we are from the recorded outputs of the released code; prints the tables of docs/fidelity.md.

python tests/fidelity.py
python tests/fidelity.py --json FILE    all measurements as JSON, without PyTorch's, instead of the tables
"""

import argparse
import dataclasses
import functools
import importlib.util
import itertools
import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from golden import inputs
from helpers import stored

from manet_jax import checkpoint, optimizers, parallel, pretrained
from manet_jax.data import clips, decoding, sampling
from manet_jax.models import ClipSpec, ModelSpec
from manet_jax.models.variables import abstract_variables, merge
from manet_jax.pretrained.convert import convert
from manet_jax.pretrained.table import to_state_dict
from manet_jax.tasks import JointEmbedding, SingleLabel
from manet_jax.train_step import TrainState, create_step
from tfds_ma52.clip_frames import ClipFrames
from tfds_ma52.transcode import transcode

GOLDEN = inputs.GOLDEN
VIDEOS = ("portrait_54f", "landscape_13f", "short_5f")
TRANSCODED = tuple(itertools.product(("h264", "jpeg"), VIDEOS))
INPUTS = {"video": ClipSpec(num_frames=8, short_side=256, crop_size=224)}
EXACT = json.loads((GOLDEN / "exact_training.json").read_text())


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A quantity, the largest difference that is tolerated, and the one that was measured."""

    quantity: str
    tolerance: float
    difference: float


@functools.cache
def recorded():
    with np.load(GOLDEN / "released_outputs.npz") as file:
        return {name: json.loads(str(value)) if value.ndim == 0 else value for name, value in file.items()}


@functools.cache
def recorded_frames():
    with np.load(GOLDEN / "released_frames.npz") as file:
        return dict(file)


@functools.cache
def released_model():
    """The model with the recorded run's weights, by way of the converter."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = pathlib.Path(folder, "manet.safetensors"), pathlib.Path(folder, "run")
        safetensors.numpy.save_file(inputs.weights(0), source)
        convert(source, out)
        return checkpoint.read_model(out, "best")


@functools.partial(jax.jit, static_argnums=0)
def apply(graphdef, variables, video):
    """The model's outputs for clips, and each frame's pooled features."""
    model = merge(graphdef, variables)
    return model({"video": video}), model.features(video).mean((2, 3))


def relative_to_largest(ours, theirs):
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def forward():
    saved, video = released_model(), jnp.array(inputs.clips(0))
    (logits, embedding, *_), pooled = apply(saved.graphdef, saved.variables, video)
    reversed_logits = apply(saved.graphdef, saved.variables, video[:, ::-1])[0].logits
    return [
        Measurement("logits, of the largest", 1e-4, relative_to_largest(logits, recorded()["logits"])),
        Measurement("embedding, of the largest", 1e-4, relative_to_largest(embedding, recorded()["embedding"])),
        Measurement(
            "pooled features, of the largest", 1e-4, relative_to_largest(pooled, recorded()["pooled_features"])
        ),
        Measurement(
            "logits of the clips played backwards, of the largest",
            1e-4,
            relative_to_largest(reversed_logits, recorded()["logits_time_reversed"]),
        ),
    ]


@functools.cache
def run_recorded_steps():
    """Losses, gradient norms, changes and norms of the parameters, and logits after the three recorded steps."""
    saved = released_model()
    spec = saved.metadata.model
    optimizer = optimizers.create_optimizer(
        lambda step: 0.00125, momentum=0.9, weight_decay=1e-4, clip_norm=20.0, head_lr_multiplier=5.0, head="last"
    )
    trained, _ = abstract_variables(ModelSpec(spec.name, dataclasses.replace(spec.options, dropout=0.0)))
    task = SingleLabel(saved.metadata.labels, JointEmbedding(inputs.label_vectors(0), weight=50.0))
    mesh, opt_state = parallel.make_mesh(1), optimizer.init(saved.variables["params"])
    step = create_step(trained, optimizer, (task,), mesh, seed=0)
    # Placed as the step returns it: else the second step is compiled anew.
    state = parallel.replicate(TrainState(step=jnp.int32(0), **saved.variables, opt_state=opt_state), mesh)
    batch = parallel.shard_batch({"video": inputs.clips(0), "label": inputs.LABELS.astype(np.int32)}, mesh)
    history = []
    for _ in range(3):
        state, metrics = step(state, batch)
        history.append((float(metrics["loss"]), float(metrics["grad_norm"])))
    old, new = (to_state_dict(each, spec, pretrained.manet.TABLE) for each in (saved.variables, state.variables))
    names = recorded()["param_delta_norms"]
    changes = {name: float(np.linalg.norm((new[name] - old[name]).ravel().astype(np.float64))) for name in names}
    norms = {name: float(np.linalg.norm(new[name].ravel().astype(np.float64))) for name in names}
    after = jax.device_put(state.variables, jax.devices()[0])
    logits = apply(saved.graphdef, after, jnp.array(inputs.clips(0)))[0].logits
    return *zip(*history, strict=True), changes, norms, logits


def training():
    losses, norms, changes, after_norms, logits = run_recorded_steps()
    return [
        Measurement("losses of three training steps, relative", 1e-4, largest_relative(losses, recorded()["losses"])),
        Measurement("gradient norms, relative", 1e-3, largest_relative(norms, recorded()["grad_norms"])),
        Measurement(
            "each parameter's change, its norm, relative",
            1e-2,
            max(abs(changes[name] / change - 1) for name, change in recorded()["param_delta_norms"].items()),
        ),
        Measurement(
            "each parameter's norm afterwards, relative",
            1e-4,
            max(abs(after_norms[name] / norm - 1) for name, norm in recorded()["param_norms_after"].items()),
        ),
        Measurement("logits afterwards, of the largest", 1e-2, relative_to_largest(logits, recorded()["logits_after"])),
    ]


def largest_relative(ours, theirs):
    return float(np.max(np.abs(np.array(ours) / theirs - 1)))


def frames(name):
    """How a video's test frames differ from the recorded ones: their numbers, and their pixels in grey levels."""
    content = (GOLDEN / "video" / f"{name}.mp4").read_bytes()
    difference = np.abs(
        clips.eval_clip(stored(content, decoding.decode_original), INPUTS)["video"].astype(int)
        - recorded_frames()[f"{name}_images"]
    )
    ours = sampling.center_segments(stored(content).num_frames, 8)
    wrong = int((ours != recorded_frames()[f"{name}_frames"]).sum())
    return [
        Measurement(f"frame numbers of {name} that differ", 0, wrong),
        Measurement(f"pixels of {name}, mean grey levels", 1.0, float(difference.mean())),
        Measurement(f"pixels of {name}, largest", 1.0, float(difference.max())),
    ]


@functools.cache
def transcoded(name, form):
    """Of a video rewritten as the data set's builder does it, in one of its forms.

    Returns the PSNR in dB of its test frames, the size of the file (new / old), the largest change of the logits over
    the largest logit, and whether the most probable class stays.
    """
    path = GOLDEN / "video" / f"{name}.mp4"
    content, info = transcode(ClipFrames(path), 256, form)
    rewritten = decoding.StoredVideo(content, info.num_frames, decoding.DECODERS[form])
    old, new = (
        clips.eval_clip(video, INPUTS)["video"]
        for video in (stored(path.read_bytes(), decoding.decode_original), rewritten)
    )
    psnr = 10 * np.log10(255**2 / np.mean((old.astype(float) - new) ** 2))
    saved = released_model()
    old_logits, new_logits = np.asarray(apply(saved.graphdef, saved.variables, np.stack([old, new]))[0].logits)
    change = relative_to_largest(new_logits, old_logits)
    return float(psnr), len(content) / path.stat().st_size, change, bool(old_logits.argmax() == new_logits.argmax())


def write_json(path):
    *_, changes, _, _ = run_recorded_steps()
    measurements = {
        "forward": [dataclasses.asdict(each) for each in forward()],
        "training": [dataclasses.asdict(each) for each in training()],
        "changes": changes,
        "transcoded": {f"{form} {name}": transcoded(name, form) for form, name in TRANSCODED},
    }
    path.write_text(json.dumps(measurements, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.json:
        write_json(arguments.json)
        return
    print("| quantity | tolerance | measured |\n|---|---|---|")
    for each in [*forward(), *training(), *(row for name in VIDEOS for row in frames(name))]:
        print(f"| {each.quantity} | {each.tolerance:g} | {each.difference:.2g} |")
    exact, record = EXACT["param_delta_norms"], recorded()["param_delta_norms"]
    print()
    for label, changes in (("recorded", record), ("ours", run_recorded_steps()[2])):
        name = max(exact, key=lambda name, of=changes: abs(of[name] / exact[name] - 1))
        print(f"largest deviation from float64, {label}: {abs(changes[name] / exact[name] - 1):.2%} ({name})")
    if importlib.util.find_spec("torch"):
        import torch
        from golden import make_golden

        for num_threads in (2, 1):
            torch.set_num_threads(num_threads)
            changes = make_golden.recorded_steps(torch.float32)["param_delta_norms"]
            worst = max(abs(changes[name] / record[name] - 1) for name in record)
            print(f"largest deviation of a plain PyTorch MANet from the record, {num_threads} threads: {worst:.2%}")
    print("\n| transcoded video | PSNR | change of the logits, of the largest | same class first |\n|---|---|---|---|")
    for form, name in TRANSCODED:
        psnr, size, change, same = transcoded(name, form)
        print(f"| {form} {name} | {psnr:.1f} dB, {size:.2f} of the bytes | {change:.2g} | {'yes' if same else 'no'} |")


if __name__ == "__main__":
    main()
