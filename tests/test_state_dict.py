import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from manet_jax.pretrained import __main__ as command
from manet_jax.pretrained import state_dict
from tfds_ma52.errors import UserError

ONES = np.ones(2, np.float32)


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d / "none.pth", r"^there is no file .*none.pth$"),
        (lambda d: write(d / "a.safetensors", b"hello"), r"a.safetensors is not a whole .safetensors file \("),
        (lambda d: write(d / "a.safetensors", b""), r"a.safetensors is not a whole .safetensors file \("),
        (lambda d: d, r"is a folder: give a file, or add --to_pytorch to write the model of a workdir$"),
    ],
)
def test_read_of_no_such_file_is_one_sentence(tmp_path, make, message):
    with pytest.raises(UserError, match=message) as error:
        state_dict.read(make(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("state", "metadata", "message"),
    [
        (
            {"conv1.weight": ONES, "module.conv1.weight": ONES},
            {},
            "has tensors both with and without 'module.' or '_orig_mod.' in front of the same name: keep one kind$",
        ),
        ({"backbone.a": ONES}, {"manet_jax": "{"}, "is not a whole .safetensors file"),
        (
            {"backbone.a": ONES},
            {"manet_jax": "[1]"},
            "the notes in its metadata are not those that --to_pytorch writes$",
        ),
    ],
)
def test_read_of_other_content_is_one_sentence(tmp_path, state, metadata, message):
    safetensors.numpy.save_file(state, tmp_path / "a.safetensors", metadata)
    with pytest.raises(UserError, match=message) as error:
        state_dict.read(tmp_path / "a.safetensors")
    assert "\n" not in str(error.value)


def test_read_strips_prefixes_of_wrappers(tmp_path):
    tensors = {"module.a": ONES, "b": 2 * ONES, "_orig_mod.c": 3 * ONES, "module._orig_mod.d": 4 * ONES}
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors")
    state, notes = state_dict.read(tmp_path / "a.safetensors")
    assert {name: value[0] for name, value in state.items()} == {"a": 1, "b": 2, "c": 3, "d": 4}
    assert notes == {}


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_read_makes_half_precision_float32(tmp_path, dtype):
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(dtype)
    safetensors.numpy.save_file({"a": values}, tmp_path / "a.safetensors")
    state, _ = state_dict.read(tmp_path / "a.safetensors")
    assert state["a"].dtype == np.float32
    np.testing.assert_array_equal(state["a"], values.astype(np.float32))


def test_write_comes_back_with_its_notes(tmp_path):
    state_dict.write(tmp_path / "out" / "a.safetensors", {"a": ONES}, {"labels": ["b"]})
    state, notes = state_dict.read(tmp_path / "out" / "a.safetensors")
    np.testing.assert_array_equal(state["a"], ONES)
    assert notes == {"labels": ["b"]}
    with safetensors.safe_open(tmp_path / "out" / "a.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt", "manet_jax": json.dumps(notes)}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.safetensors"]
    assert (tmp_path / "out" / "a.safetensors").stat().st_mode & 0o044 == 0o044
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"b.safetensors cannot be written \(.+\)$"):
        state_dict.write(tmp_path / "file" / "b.safetensors", {"a": ONES}, {})


def test_read_without_torch_names_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "m.pth").write_bytes(b"anything")
    assert command.main([str(tmp_path / "m.pth"), str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"manet_jax: {tmp_path}/m.pth needs PyTorch to be read: pip install -e '.[convert]' (or pip install torch), "
        "or save the weights as .safetensors"
    )
