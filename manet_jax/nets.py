"""Models and their variables: from options to nested dicts of arrays and back."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import PyTree

from manet_jax.emotion import EmotionNet
from manet_jax.models import MANet


def create_model(options: dict[str, Any], rngs: nnx.Rngs) -> MANet | EmotionNet:
    """Makes the model that a checkpoint's options name: `EmotionNet` if they name its form, else `MANet`."""
    return (EmotionNet if "form" in options else MANet)(**options, rngs=rngs)


def split_variables(model: nnx.Module) -> tuple[nnx.GraphDef, dict[str, PyTree]]:
    """Splits a model into its structure and its variables: nested dicts of arrays, `params` and `batch_stats`.

    `nnx.merge(graphdef, variables["params"], variables["batch_stats"])` puts it together again.
    """
    graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, {"params": nnx.to_pure_dict(params), "batch_stats": nnx.to_pure_dict(batch_stats)}


def create_variables(options: dict[str, Any], seed: int) -> dict[str, PyTree]:
    """Returns `split_variables` of `create_model(options)` with fresh weights, without its structure."""

    @jax.jit  # as one program: a compilation for every layer's initialiser takes several times as long
    def create() -> dict[str, PyTree]:
        return split_variables(create_model(options, nnx.Rngs(seed)))[1]

    return create()


def abstract_variables(options: dict[str, Any]) -> tuple[nnx.GraphDef, dict[str, PyTree]]:
    """Returns `split_variables` of `create_model(options)` with shapes in place of arrays, without making those."""
    return split_variables(nnx.eval_shape(lambda: create_model(options, nnx.Rngs(0))))


def count_parameters(params: PyTree) -> int:
    """Number of values in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
