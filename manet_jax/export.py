"""Writes a trained model as one StableHLO file that runs wherever JAX does, without this package.

python -m manet_jax.export --workdir runs/first exported
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from manet_jax import checkpoint as checkpoint_lib
from manet_jax.emotion import EmotionNet
from tfds_ma52.errors import UserError

MODEL_FILE, NOTES_FILE = "model.stablehlo", "model.json"
PLATFORMS = ("cpu", "cuda", "tpu")
_USE = """\
import jax.export, pathlib
model = jax.export.deserialize(bytearray(pathlib.Path("{file}").read_bytes()))
said = model.call({inputs})  # uint8, as {notes} says
said["{output}"].argmax(1)"""


def export_model(workdir: str | pathlib.Path, out: str | pathlib.Path, checkpoint: str = "best") -> dict[str, Any]:
    """Writes `model.stablehlo`, the network with its weights for any batch size, and `model.json`, how to use it.

    The file takes uint8 frames, RGB, as `preprocess.middle_views` cuts them, and returns a dict of float32 arrays:
    `logits` [b, n] of actions, `embedding` [b, e] and `emotion` [b, k] logits, those of them that the model has.

    Args:
      workdir: of a training, or of converted weights.
      out: a folder, made if it is missing.
      checkpoint: "best" or "latest".

    Returns:
      What `model.json` says.

    Raises:
      UserError: there is no such checkpoint, or `out` holds a model already or cannot be written.
    """
    out = pathlib.Path(out).expanduser()
    if (out / MODEL_FILE).exists():
        raise UserError(f"{out / MODEL_FILE} exists already: name another folder")
    model = checkpoint_lib.load_model(workdir, checkpoint)
    (batch,) = jax.export.symbolic_shape("b")
    shapes = input_shapes(model)
    inputs = [jax.ShapeDtypeStruct((batch, *shape), np.uint8) for shape in shapes.values()]

    def forward(*views: Array) -> dict[str, Array]:
        return _outputs(model.model, dict(zip(shapes, views, strict=True)))

    exported = jax.export.export(jax.jit(forward), platforms=PLATFORMS)(*inputs)
    notes = checkpoint_lib.as_json(_notes(model, shapes, list(jax.eval_shape(forward, *inputs))))
    try:
        out.mkdir(parents=True, exist_ok=True)
        # The model comes last and under another name first: where it is, all is.
        (out / NOTES_FILE).write_text(json.dumps(notes, indent=1) + "\n")
        partial = out / f"{MODEL_FILE}.partial"
        partial.write_bytes(exported.serialize())
        partial.replace(out / MODEL_FILE)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror})") from error
    return notes


def input_shapes(model: checkpoint_lib.LoadedModel) -> dict[str, tuple[int, ...]]:
    """The shapes of a clip's `video` and `appearance`, those that a model wants, in the order of its arguments."""
    views, shapes = model.views, {}
    if views["video"]:
        shapes["video"] = (views["num_segments"], views["size"], views["size"], 3)
    if appearance := views.get("appearance"):
        shapes["appearance"] = (appearance.num_frames, appearance.size, appearance.size, 3)
    return shapes


def _outputs(model, views: dict[str, Array]) -> dict[str, Array]:
    if isinstance(model, EmotionNet):
        said = model(views.get("video"), views.get("appearance"))._asdict()
    else:
        said = dict(zip(("logits", "embedding"), model(views["video"]), strict=True))
    return {name: value.astype(np.float32) for name, value in said.items() if value is not None}


def _notes(model: checkpoint_lib.LoadedModel, shapes: dict[str, tuple[int, ...]], outputs: list[str]) -> dict[str, Any]:
    views = model.views
    preprocessing = {
        "frames": "the middle one of each of num_segments equal parts: floor((i + 1/2) * frames / num_segments)",
        "colors": "RGB, 0..255, uint8; the model normalises them itself",
        "resize": "bilinear, so that the shorter side has short_side pixels; then the middle size x size pixels",
        **{name: views[name] for name in ("num_segments", "short_side", "size")},
    }
    if appearance := views.get("appearance"):
        preprocessing["appearance"] = {
            "frames": "by the same rule, num_frames of the clip's num_segments ones",
            "box": "top, left, bottom, right as shares of the frame, cut out before resizing",
            **{k: v for k, v in dataclasses.asdict(appearance).items() if k != "crop_scales"},
        }
    return {
        "inputs": {name: ["b", *shape] for name, shape in shapes.items()},
        "outputs": outputs,
        "scores": "sigmoid of logits" if model.multilabel else "softmax of logits",
        "labels": dataclasses.asdict(model.labels),
        "emotions": list(model.emotions),
        "preprocessing": preprocessing,
        "platforms": list(PLATFORMS),
        **{name: model.metadata[name] for name in ("step", "config")},
        "versions": checkpoint_lib.versions(),
    }


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m manet_jax.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", metavar="OUT", help="a folder for the model")
    parser.add_argument("--workdir", required=True, help="of a training, or of converted weights")
    parser.add_argument("--checkpoint", default="best", choices=checkpoint_lib.KINDS, help="which one (best)")
    arguments = parser.parse_args(argv)
    try:
        notes = export_model(arguments.workdir, arguments.out, arguments.checkpoint)
    except UserError as error:
        print(f"manet_jax: {error}", file=sys.stderr)
        return 2
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
