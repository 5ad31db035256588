import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manet_jax import parallel
from tfds_ma52.errors import UserError


def step(state, batch):
    """Gradient descent on the mean of (w x)^2 / 2 over all devices."""
    gradient = jax.grad(lambda w: jnp.mean((batch["x"] @ w) ** 2) / 2)(state["w"])
    new = {"w": state["w"] - 0.1 * jax.lax.pmean(gradient, parallel.AXIS)}
    return new, {"sum": jax.lax.psum(batch["x"].sum(), parallel.AXIS)}


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=4).astype(np.float32), rng.normal(size=(16, 4)).astype(np.float32)


@pytest.mark.parametrize("mapping", parallel.MAPPINGS)
@pytest.mark.parametrize("num_devices", [1, 8])
def test_map_step_gives_the_gradient_of_the_whole_batch(mapping, num_devices):
    w, x = data()
    mesh = parallel.make_mesh(num_devices)
    run = parallel.map_step(step, mesh, mapping, donate_state=True)
    state = parallel.replicate({"w": jnp.array(w)}, mesh)
    new, metrics = run(state, parallel.shard_batch({"x": x}, mesh))
    np.testing.assert_allclose(new["w"], w - 0.1 * (x @ w) @ x / 16, rtol=1e-5)  # not N times too far
    np.testing.assert_allclose(metrics["sum"], x.sum(), rtol=1e-4)
    assert state["w"].is_deleted()  # donated
    assert new["w"].sharding.is_fully_replicated
    assert len(new["w"].sharding.device_set) == num_devices


def test_replicate_makes_copies_that_share_no_memory():
    mesh = parallel.make_mesh(1)
    original = {"w": jnp.arange(4.0)}
    copy = parallel.replicate(original, mesh)
    jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)(copy)
    np.testing.assert_array_equal(original["w"], [0, 1, 2, 3])


def test_shard_batch_spreads_numbers_and_leaves_text_out():
    mesh = parallel.make_mesh(8)
    batch = parallel.shard_batch({"label": np.arange(16), "video_id": np.array(["a"] * 16)}, mesh)
    assert list(batch) == ["label"]
    assert [shard.data.tolist() for shard in batch["label"].addressable_shards] == [
        [2 * i, 2 * i + 1] for i in range(8)
    ]


@pytest.mark.parametrize(("size", "fitting"), [(12, "8 or 16"), (3, "8")])
def test_check_batch_size_reports_the_next_sizes(size, fitting):
    with pytest.raises(UserError, match=f"config.batch_size is {size}, .* among 8 devices; set it to {fitting}"):
        parallel.check_batch_size("batch_size", size, parallel.make_mesh(8))
    parallel.check_batch_size("batch_size", 16, parallel.make_mesh(8))
