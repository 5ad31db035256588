"""The benchmark that tells where a CPU's time goes."""

import json
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks import profile


@pytest.fixture(scope="module")
def compiled():
    def run(x, kernel, matrix):
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.tanh(y.reshape(-1, 8) @ matrix)

    shapes = (2, 9, 9, 5), (3, 3, 5, 8), (8, 6)
    return jax.jit(run).lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).compile()


def test_kinds_of_instructions_have_their_operations_and_bytes(compiled):
    program = profile.parse(compiled.as_text())
    *_, entry = program.values()
    seconds = dict.fromkeys(entry, 0.5) | {"": 7.0}
    # At one operation and one byte a second, milliseconds are thousands of them.
    rows = {row.pop(""): row for row in profile.summarize(program, seconds, 1e3, 1e3)}
    pixels = 2 * 7 * 7
    convolution, product = rows["convolutions"], rows["matrix products"]
    assert convolution["operations / rate (ms)"] == 2 * pixels * 8 * 3 * 3 * 5
    assert product["operations / rate (ms)"] == 2 * pixels * 6 * 8
    assert convolution["bytes / bandwidth (ms)"] == 4 * (2 * 9 * 9 * 5 + 3 * 3 * 5 * 8 + pixels * 8)
    assert convolution["ms"] == 500 * convolution["instructions"]
    whole = rows["a call"]
    assert whole["ms"] == 7000
    assert whole["operations / rate (ms)"] == 2 * pixels * (8 * 3 * 3 * 5 + 6 * 8)


def test_instructions_are_timed(compiled):
    arguments = [jnp.ones(each.shape, each.dtype) for each in jax.tree.leaves(compiled.in_avals)]
    seconds = profile.time_instructions(lambda: compiled(*arguments).block_until_ready(), repeats=1)
    whole = seconds.pop("")
    names = {name for computation in profile.parse(compiled.as_text()).values() for name in computation}
    assert seconds
    assert seconds.keys() <= names
    assert all(0 < each <= whole for each in seconds.values())


def test_the_network_that_is_named_is_profiled(tmp_path, monkeypatch, capsys, unchecked):
    monkeypatch.setattr(profile.measure, "matrix_rate", lambda dtype: 1e9)
    monkeypatch.setattr(profile.measure, "bandwidth", lambda: 1e9)
    tiny = ["depth=1", "width=32", "num_heads=2"]
    few = ["--size=32", "--batch_size=1", "--repeats=1", "--json", str(tmp_path / "rows.json")]
    monkeypatch.setattr(sys, "argv", ["profile", "--model=videomae", *few, "--options", *tiny])
    profile.main()
    assert capsys.readouterr().out.startswith("videomae, depth 1, width 32, num_heads 2; ")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    # A clip has 8 x 2 x 2 patches of 2 x 16 x 16 x 3 values. Each is embedded, and goes through 3 + 1 + 8 matrices of
    # 32 x 32 and two products with the 32 tokens.
    operations = 2 * 32 * (1536 * 32 + 12 * 32**2 + 2 * 32 * 32)
    call = {part: each[-1]["operations / rate (ms)"] * 1e6 for part, each in rows.items()}
    assert operations <= call["forward"] < 1.2 * operations
    assert 2 * operations < call["train step"] < 4 * operations
