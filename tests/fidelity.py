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

import numpy as np
import recorded
import safetensors.numpy
from golden import inputs
from helpers import stored
from recorded import Measurement

from manet_jax import checkpoint
from manet_jax.data import clips, decoding, sampling
from manet_jax.models import ClipSpec
from manet_jax.pretrained.convert import convert
from tfds_ma52 import jpegs
from tfds_ma52.clip_frames import ClipFrames
from tfds_ma52.transcode import transcode

GOLDEN = inputs.GOLDEN
VIDEOS = ("portrait_54f", "landscape_13f", "short_5f")
TRANSCODED = tuple(itertools.product(("h264", "jpeg"), VIDEOS))
INPUTS = {"video": ClipSpec(num_frames=8, short_side=256, crop_size=224)}


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


def forward():
    saved = released_model()
    return recorded.forward(saved.metadata.model, saved.variables)


@functools.cache
def run_steps():
    saved = released_model()
    return recorded.run_steps(saved.metadata.model, saved.variables)


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
    stored_content = jpegs.split(content) if form == "jpeg" else content
    rewritten = decoding.StoredVideo(stored_content, info.num_frames, decoding.DECODERS[form])
    old, new = (
        clips.eval_clip(video, INPUTS)["video"]
        for video in (stored(path.read_bytes(), decoding.decode_original), rewritten)
    )
    psnr = 10 * np.log10(255**2 / np.mean((old.astype(float) - new) ** 2))
    saved = released_model()
    outputs, _ = recorded.apply(saved.graphdef, saved.variables, np.stack([old, new]))
    old_logits, new_logits = np.asarray(outputs.logits)
    change = recorded.relative_to_largest(new_logits, old_logits)
    return float(psnr), len(content) / path.stat().st_size, change, bool(old_logits.argmax() == new_logits.argmax())


def write_json(path):
    measurements = {
        "forward": [dataclasses.asdict(each) for each in forward()],
        "training": [dataclasses.asdict(each) for each in recorded.training(run_steps())],
        "changes": run_steps().changes,
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
    for each in [*forward(), *recorded.training(run_steps()), *(row for name in VIDEOS for row in frames(name))]:
        print(f"| {each.quantity} | {each.tolerance:g} | {each.difference:.2g} |")
    exact, record = recorded.EXACT["param_delta_norms"], recorded.outputs()["param_delta_norms"]
    print()
    for label, changes in (("recorded", record), ("ours", run_steps().changes)):
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
