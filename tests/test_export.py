import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import write_clip
from test_predict import LABELS, VIEW, save, small

import manet_jax
from configs import ma52, ma52_pro
from manet_jax import export, inference, preprocess
from tfds_ma52.errors import UserError

# Imports nothing but JAX and NumPy; the model is applied to one clip, then to three.
READER = """
import json, sys
import jax, numpy as np
from jax import export
folder = sys.argv[1]
notes = json.load(open(folder + "/model.json"))
exported = export.deserialize(bytearray(open(folder + "/model.stablehlo", "rb").read()))
clips = np.load(folder + "/clips.npz")
for count in (1, 3):
    said = exported.call(*(clips[name][:count] for name in notes["inputs"]))
    assert sorted(said) == sorted(notes["outputs"])
    np.savez(f"{folder}/said_{count}.npz", **said)
assert not {"flax", "manet_jax", "tfds_ma52", "orbax"} & {name.partition(".")[0] for name in sys.modules}
"""


def read_elsewhere(folder, clips):
    """What another process says of clips that has nothing of ours: of the first one, and of all three."""
    np.savez(folder / "clips.npz", **clips)
    done = subprocess.run(
        [sys.executable, "-I", "-c", READER, str(folder)], cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [dict(np.load(folder / f"said_{count}.npz")) for count in (1, 3)]


def make_clips(model):
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (3, *shape), np.uint8) for name, shape in export.input_shapes(model).items()}


@pytest.mark.parametrize("form", ["micro_actions", "appearance", "fused"])
def test_it_says_the_same_elsewhere(form, tmp_path):
    emotions = () if form == "micro_actions" else ("fear", "joy")
    workdir = save(tmp_path / "run", small(ma52_pro.get_config(form)), emotions=emotions, multilabel=True)
    notes = export.export_model(workdir, tmp_path / "out")
    assert notes == json.loads((tmp_path / "out" / "model.json").read_text())
    model = manet_jax.load_model(workdir)
    clips = make_clips(model)
    assert (
        set(notes["inputs"])
        == {
            "micro_actions": {"video"},
            "appearance": {"appearance"},
            "fused": {"video", "appearance"},
        }[form]
    )
    expected = model(clips.get("video"), clips.get("appearance"))
    expected = dict(zip(("logits", "embedding", "emotion"), expected, strict=False))
    expected = {name: value for name, value in expected.items() if value is not None}
    assert set(notes["outputs"]) == set(expected)
    for count, said in zip((1, 3), read_elsewhere(tmp_path / "out", clips), strict=True):
        for name, value in expected.items():
            np.testing.assert_allclose(said[name], value[:count], rtol=1e-4, atol=1e-6)
    assert (notes["scores"], notes["emotions"]) == ("sigmoid of logits", list(emotions))
    assert notes["labels"]["names"] == list(LABELS.names)


def test_half_precision_says_float32(tmp_path):
    config = small(ma52.get_config())
    config.model.dtype = "bfloat16"
    workdir = save(tmp_path / "run", config)
    export.export_model(workdir, tmp_path / "out")
    model = manet_jax.load_model(workdir)
    clips = make_clips(model)
    _, said = read_elsewhere(tmp_path / "out", clips)
    assert said["logits"].dtype == np.float32
    np.testing.assert_allclose(said["logits"], model(clips["video"])[0], rtol=2e-2, atol=2e-2)


def test_the_notes_tell_how_to_cut_frames(tmp_path):
    """A clip cut by the notes alone, with NumPy, gives what the model predicts of the file."""
    write_clip(tmp_path / "a.mp4", num_frames=17, height=80, width=64)
    workdir = save(tmp_path / "run", small(ma52.get_config()))
    notes = export.export_model(workdir, tmp_path / "out")
    cut = notes["preprocessing"]
    assert {name: cut[name] for name in VIEW} == VIEW
    reader = preprocess.open_video(tmp_path / "a.mp4")
    segments = cut["num_segments"]
    numbers = np.floor((np.arange(segments) + 0.5) * len(reader) / segments).astype(int)
    frames = preprocess.resize_short_side(preprocess.decode_frames(reader, numbers), cut["short_side"])
    top, left = ((side - cut["size"]) // 2 for side in frames.shape[1:3])
    clip = frames[None, :, top : top + cut["size"], left : left + cut["size"]]
    assert notes["scores"] == "softmax of logits"
    said, _ = read_elsewhere(tmp_path / "out", {"video": np.repeat(clip, 3, 0)})
    expected = manet_jax.load_model(workdir).predict(tmp_path / "a.mp4")[0].probabilities
    np.testing.assert_allclose(inference.to_probabilities(said["logits"], multilabel=False)[0], expected, rtol=1e-4)


def test_the_command(tmp_path, capsys):
    workdir = save(tmp_path / "run", small(ma52.get_config()))
    assert export.main(["--workdir", str(workdir), str(tmp_path / "out")]) == 0
    first, _, *usage = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path}/out/model.stablehlo: ")
    assert first.endswith("MB, step 1, for cpu, cuda, tpu; video [b, 4, 32, 32, 3]")
    scope = {"video": jnp.zeros((2, 4, 32, 32, 3), jnp.uint8)}
    exec("\n".join(usage), scope)  # what it prints works as it stands
    assert scope["said"]["logits"].shape == (2, 3)

    assert export.main(["--workdir", str(workdir), str(tmp_path / "out")]) == 2
    assert "model.stablehlo exists already: name another folder" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert export.main(["--workdir", str(workdir), str(tmp_path / "file" / "out")]) == 2
    assert "file/out cannot be written (Not a directory)" in capsys.readouterr().err
    assert export.main(["--workdir", str(tmp_path), str(tmp_path / "new")]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err
    with pytest.raises(UserError, match="there is no checkpoint kind 'last'"):
        export.export_model(workdir, tmp_path / "new", "last")
