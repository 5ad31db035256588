"""Models and their variables: from options to nested dicts of arrays and back."""

from collections.abc import Callable
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

    def create() -> dict[str, PyTree]:
        return split_variables(create_model(options, nnx.Rngs(seed)))[1]

    return compile_once(create)()


def compile_once(create: Callable[[], PyTree]) -> Callable[[], PyTree]:
    """Compiles a function that is called once, such as one that draws variables: quickly rather than well.

    It is one program: a compilation for every layer's initialiser takes several times as long. Of XLA's optimisations
    only the first level is used, which halves the seconds that a CPU takes to compile and draws the same bits.
    """
    return jax.jit(create, compiler_options={"xla_backend_optimization_level": 1})


def abstract_variables(options: dict[str, Any]) -> tuple[nnx.GraphDef, dict[str, PyTree]]:
    """Returns `split_variables` of `create_model(options)` with shapes in place of arrays, without making those."""
    return split_variables(nnx.eval_shape(lambda: create_model(options, nnx.Rngs(0))))


def count_parameters(params: PyTree) -> int:
    """Number of values in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
