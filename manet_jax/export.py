"""Writes a trained model as one StableHLO file that runs wherever JAX does, without this package.

python -m manet_jax.export --workdir runs/first exported
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from manet_jax import compilation_cache
from manet_jax.checkpoint import CHECKPOINTS, json_roundtrip
from manet_jax.data.clips import clip_shape
from manet_jax.loaded_model import LoadedModel, load_model
from manet_jax.models import ClipSpec, ops
from manet_jax.run_metadata import versions
from tfds_ma52.command import run_command
from tfds_ma52.errors import UserError
from tfds_ma52.files import write_atomically

MODEL_FILE, NOTES_FILE = "model.stablehlo", "model.json"
PLATFORMS = ("cpu", "cuda", "tpu")
_USE = """\
import jax.export, pathlib
model = jax.export.deserialize(bytearray(pathlib.Path("{file}").read_bytes()))
outputs = model.call({inputs})  # uint8, see {notes}
outputs["{output}"].argmax(1)"""


def export_model(workdir: str | pathlib.Path, out: str | pathlib.Path, checkpoint: str = "best") -> dict[str, Any]:
    """Writes `model.stablehlo`, the network with its weights for any batch size, and `model.json`, how to use it.

    The exported function takes uint8 frames, RGB, as `clips.eval_clip` cuts them, and returns a dict of float32 arrays:
    `logits` [b, n] of actions, `embedding` [b, e] and `emotion` [b, k] logits, those of them that the model has.

    Args:
      workdir: of a run, or of converted weights.
      out: a folder, made if it is missing.
      checkpoint: "best" or "latest".

    Returns:
      The content of `model.json`.

    Raises:
      UserError: there is no such checkpoint, or `out` holds a model already or cannot be written.
    """
    out = pathlib.Path(out).expanduser()
    if (out / MODEL_FILE).exists():
        raise UserError(f"{out / MODEL_FILE} exists already: give another folder")
    model = load_model(workdir, checkpoint)
    (batch,) = jax.export.symbolic_shape("b")
    shapes = {name: clip_shape(spec) for name, spec in model.inputs.items()}
    arguments = [jax.ShapeDtypeStruct((batch, *shape), np.uint8) for shape in shapes.values()]

    def forward(*inputs: Array) -> dict[str, Array]:
        outputs = model.network(dict(zip(shapes, inputs, strict=True)))
        return {name: getattr(outputs, name) for name in model.metadata.model.options.outputs}

    with ops.traced_for(None):
        exported = jax.export.export(jax.jit(forward), platforms=PLATFORMS)(*arguments)
    notes = json_roundtrip(_notes(model, shapes))
    try:
        out.mkdir(parents=True, exist_ok=True)
        # The model comes last: where it is, all is.
        write_atomically(out / NOTES_FILE, json.dumps(notes, indent=1) + "\n")
        write_atomically(out / MODEL_FILE, exported.serialize())
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror})") from error
    return notes


def _notes(model: LoadedModel, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    scores = {task.output: "softmax" if task.exclusive else "sigmoid" for task in model.tasks}
    return {
        "inputs": {name: ["b", *shape] for name, shape in shapes.items()},
        "outputs": list(model.metadata.model.options.outputs),
        "probabilities": scores,
        "labels": dataclasses.asdict(model.labels),
        "emotions": list(model.emotions),
        "preprocessing": {
            "frames": {name: _describe_frames(spec) for name, spec in model.inputs.items()},
            "box": "top, left, bottom, right as shares of the frame, cut out before resizing",
            "resize": "bilinear, so that the shorter side has short_side pixels; then the middle crop_size x crop_size",
            "colors": "RGB, 0..255, uint8; the model normalises them itself",
            **{name: dataclasses.asdict(spec) for name, spec in model.inputs.items()},
        },
        "platforms": list(PLATFORMS),
        "step": model.metadata.step,
        "config": model.metadata.config,
        "versions": versions(),
    }


def _describe_frames(spec: ClipSpec) -> str:
    """The rule by which evaluation takes the frames of a video, n frames long."""
    count = spec.subset_of or spec.num_frames
    text = f"frame i of {count}: floor((i + 1/2) * n / {count}), the middle one of each of {count} equal parts"
    if spec.sampling == "dense":
        text = f"frame i of {count}: floor(max(n - {spec.span}, 0) / 2) + {spec.frame_interval} * i, modulo n"
        if spec.short_videos == "spread":
            text += f"; where n < {spec.span}, floor(i * (n - 1) / {count - 1} + 1/2)"
    if spec.subset_of:
        text += f"; of these {count}, {spec.num_frames}: floor((i + 1/2) * {count} / {spec.num_frames})"
    return text


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m manet_jax.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", metavar="OUT", help="a folder for the model")
    parser.add_argument("--workdir", required=True, help="of a training run, or of converted weights")
    parser.add_argument("--checkpoint", default="best", choices=CHECKPOINTS, help="which one (best)")
    arguments = parser.parse_args(argv)
    return run_command("manet_jax", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    compilation_cache.use()
    notes = export_model(arguments.workdir, arguments.out, arguments.checkpoint)
    file = pathlib.Path(arguments.out) / MODEL_FILE
    inputs = ", ".join(notes["inputs"])
    shapes = " and ".join(f"{name} {shape}" for name, shape in notes["inputs"].items()).replace("'", "")
    megabytes = file.expanduser().stat().st_size / 1e6
    print(f"{file}: {megabytes:.1f} MB, step {notes['step']}, for {', '.join(PLATFORMS)}; {shapes}\n")
    output = "logits" if "logits" in notes["outputs"] else "emotion"
    print(_USE.format(file=file, inputs=inputs, notes=NOTES_FILE, output=output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
