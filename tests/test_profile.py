"""The benchmark that tells where a CPU's time goes."""

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
