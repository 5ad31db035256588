import dataclasses
import json
import pathlib
import subprocess
import sys

import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import stored, write_clip
from saved_models import INPUTS, LABELS, save, small, softmax

import manet_jax
from configs import ma52, ma52_pro
from manet_jax import export
from manet_jax.data import clips as clips_lib
from tfds_ma52.errors import UserError

FORMS = ("micro_actions", "appearance", "fused")
# Imports nothing but JAX and NumPy; each model is applied to one clip, then to three.
READER = """
import json, sys
import jax, numpy as np
from jax import export
for folder in sys.argv[1:]:
    notes = json.load(open(folder + "/model.json"))
    exported = export.deserialize(bytearray(open(folder + "/model.stablehlo", "rb").read()))
    clips = np.load(folder + "/clips.npz")
    for count in (1, 3):
        outputs = exported.call(*(clips[name][:count] for name in notes["inputs"]))
        assert sorted(outputs) == sorted(notes["outputs"])
        np.savez(f"{folder}/outputs_{count}.npz", **outputs)
assert not {"flax", "manet_jax", "tfds_ma52", "orbax"} & {name.partition(".")[0] for name in sys.modules}
"""


@dataclasses.dataclass(frozen=True)
class Export:
    """An exported model; `outputs` are those of another process for the first of its clips, and for all three."""

    folder: pathlib.Path
    notes: dict
    model: manet_jax.loaded_model.LoadedModel
    clips: dict
    outputs: list = dataclasses.field(default_factory=list)


def export_small(root, config, **options):
    """Exports a model of drawn weights, and draws clips for it."""
    workdir = save(root / "run", config, **options)
    notes = export.export_model(workdir, root / "out")
    model, rng = manet_jax.load_model(workdir), np.random.default_rng(0)
    shapes = {name: (3, *clips_lib.clip_shape(spec)) for name, spec in model.inputs.items()}
    clips = {name: rng.integers(0, 256, shape, np.uint8) for name, shape in shapes.items()}
    np.savez(root / "out" / "clips.npz", **clips)
    return Export(root / "out", notes, model, clips)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Exports of each form and of a model in half precision, with outputs of a process that has nothing of ours."""
    root, found = tmp_path_factory.mktemp("exports"), {}
    for form in FORMS:
        emotions = () if form == "micro_actions" else ("fear", "joy")
        config = small(ma52_pro.get_config(form))
        found[form] = export_small(root / form, config, emotions=emotions, multilabel=True)
    config = small(ma52.get_config())
    config.model.dtype = "bfloat16"
    found["half"] = export_small(root / "half", config)
    command = [sys.executable, "-I", "-c", READER, *(str(each.folder) for each in found.values())]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for each in found.values():
        each.outputs.extend(dict(np.load(each.folder / f"outputs_{count}.npz")) for count in (1, 3))
    return found


@pytest.mark.parametrize("form", FORMS)
def test_export_gives_the_same_outputs_elsewhere(form, exports):
    exported = exports[form]
    notes = exported.notes
    assert notes == json.loads((exported.folder / "model.json").read_text())
    inputs = {"micro_actions": {"video"}, "appearance": {"appearance"}, "fused": {"video", "appearance"}}
    assert set(notes["inputs"]) == inputs[form]
    expected = exported.model(exported.clips)._asdict()
    expected = {name: value for name, value in expected.items() if value is not None and name != "features"}
    assert set(notes["outputs"]) == set(expected)
    for count, outputs in zip((1, 3), exported.outputs, strict=True):
        for name, value in expected.items():
            np.testing.assert_allclose(outputs[name], value[:count], rtol=1e-4, atol=1e-6)
    probabilities = {"logits": "sigmoid", "emotion": "softmax"}
    assert notes["probabilities"] == {name: each for name, each in probabilities.items() if name in expected}
    assert notes["emotions"] == ([] if form == "micro_actions" else ["fear", "joy"])
    assert notes["labels"]["names"] == list(LABELS.names)


def test_export_of_half_precision_returns_float32(exports):
    exported = exports["half"]
    _, outputs = exported.outputs
    assert outputs["logits"].dtype == np.float32
    np.testing.assert_allclose(outputs["logits"], exported.model(exported.clips).logits, rtol=2e-2, atol=2e-2)


def test_notes_describe_which_frames_are_seen(tmp_path):
    config = small(ma52_pro.get_config("fused"))
    config.clip.update({"sampling": "dense", "frame_interval": 3})
    notes = export.export_model(save(tmp_path / "run", config, emotions=("fear", "joy")), tmp_path / "out")
    dense = "frame i of 4: floor(max(n - 10, 0) / 2) + 3 * i, modulo n; where n < 10, floor(i * (n - 1) / 3 + 1/2)"
    assert notes["preprocessing"]["frames"] == {
        "video": dense,
        "appearance": f"{dense}; of these 4, 2: floor((i + 1/2) * 4 / 2)",
    }


def test_notes_describe_how_to_cut_frames(tmp_path):
    """A clip cut by the notes alone, with NumPy, gives what the model predicts of the file."""
    write_clip(tmp_path / "a.mp4", num_frames=17, height=80, width=64)
    workdir = save(tmp_path / "run", small(ma52.get_config()))
    notes = export.export_model(workdir, tmp_path / "out")
    cut = notes["preprocessing"]["video"]
    names = ("num_frames", "short_side", "crop_size")
    assert [cut[name] for name in names] == [getattr(INPUTS["video"], name) for name in names]
    video = stored((tmp_path / "a.mp4").read_bytes())
    segments = cut["num_frames"]
    rule = "frame i of 4: floor((i + 1/2) * n / 4), the middle one of each of 4 equal parts"
    assert notes["preprocessing"]["frames"] == {"video": rule}
    numbers = np.floor((np.arange(segments) + 0.5) * video.num_frames / segments).astype(int)
    frames = clips_lib.resize_short_side(video.frames(numbers), cut["short_side"])
    top, left = ((side - cut["crop_size"]) // 2 for side in frames.shape[1:3])
    clip = frames[None, :, top : top + cut["crop_size"], left : left + cut["crop_size"]]
    assert notes["probabilities"] == {"logits": "softmax"}
    exported = jax.export.deserialize(bytearray((tmp_path / "out" / export.MODEL_FILE).read_bytes()))
    outputs = exported.call(clip)
    expected = manet_jax.load_model(workdir).predict(tmp_path / "a.mp4")[0].probabilities
    np.testing.assert_allclose(softmax(outputs["logits"])[0], expected, rtol=1e-4)


def test_export_holds_the_forms_of_every_platform(tmp_path):
    export.export_model(save(tmp_path / "run", small(ma52.get_config())), tmp_path / "out")
    exported = jax.export.deserialize(bytearray((tmp_path / "out" / export.MODEL_FILE).read_bytes()))
    assert exported.platforms == export.PLATFORMS
    text = exported.mlir_module()
    assert "dim_numbers = [2, b, 0, 1, f]x" in text  # a TPU's shift, as a convolution over time
    assert "dim_numbers = [b, 0, 1, f]x" in text


def test_export_command(tmp_path, capsys):
    workdir = save(tmp_path / "run", small(ma52.get_config()))
    assert export.main(["--workdir", str(workdir), str(tmp_path / "out")]) == 0
    first, _, *usage = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path}/out/model.stablehlo: ")
    assert first.endswith("MB, step 1, for cpu, cuda, tpu; video [b, 4, 32, 32, 3]")
    scope = {"video": jnp.zeros((2, 4, 32, 32, 3), jnp.uint8)}
    exec("\n".join(usage), scope)  # the printed lines work as they stand
    assert scope["outputs"]["logits"].shape == (2, 3)

    assert export.main(["--workdir", str(workdir), str(tmp_path / "out")]) == 2
    assert "model.stablehlo exists already: give another folder" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert export.main(["--workdir", str(workdir), str(tmp_path / "file" / "out")]) == 2
    assert "file/out cannot be written (Not a directory)" in capsys.readouterr().err
    assert export.main(["--workdir", str(tmp_path), str(tmp_path / "new")]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err
    with pytest.raises(UserError, match="there is no checkpoint 'last'"):
        export.export_model(workdir, tmp_path / "new", "last")
