"""The variables of models: nested dicts of arrays, `params` and `batch_stats`, and their paths."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PyTree

from manet_jax import models
from manet_jax.models.options import ModelSpec

Variables = dict[str, PyTree]


def split_variables(model: nnx.Module) -> tuple[nnx.GraphDef, Variables]:
    """Splits a model into its structure and its variables; `merge` puts it together again."""
    graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, {"params": nnx.to_pure_dict(params), "batch_stats": nnx.to_pure_dict(batch_stats)}


def merge(graphdef: nnx.GraphDef, variables: Variables) -> Any:
    """Puts a model together from its structure and its variables."""
    return nnx.merge(graphdef, variables["params"], variables["batch_stats"])


def create_variables(spec: ModelSpec, seed: int, sharding: jax.sharding.Sharding | None = None) -> Variables:
    """Returns fresh variables of a model, on the first device or as `sharding` places them."""
    return _initializer(spec, seed, sharding)()


@functools.cache  # compiled once a process
def _initializer(spec: ModelSpec, seed: int, sharding: jax.sharding.Sharding | None) -> Callable[[], Variables]:
    return jit_init(lambda: split_variables(models.create(spec, CountedRngs(seed)))[1], sharding)


class CountedRngs(nnx.Rngs):
    """`nnx.Rngs(seed)`, with the same keys, for networks that are made while JAX traces.

    There Flax's own counts in a traced variable. Each time it changes JAX composes the text of an error that nobody
    sees, from all operations so far: three quarters of the time that tracing takes.
    """

    def __init__(self, seed: int):
        super().__init__(seed)
        self.default = _Stream(jax.random.key(seed), tag="default")


class _Stream(nnx.RngStream):
    """Keys that are counted in Python."""

    drawn = 0

    def __call__(self) -> jax.Array:
        key = jax.random.fold_in(self.key[...], self.drawn)
        self.drawn += 1
        return key


def jit_init(create: Callable[..., PyTree], sharding: jax.sharding.Sharding | None = None) -> Callable[..., PyTree]:
    """Compiles a function that is called once, such as one that draws variables: quickly rather than well.

    It is one program: a compilation for every layer's initialiser takes several times as long. Of XLA's optimisations
    only the first level is used, which halves the seconds that a CPU takes to compile and draws the same bits.
    """
    return jax.jit(create, out_shardings=sharding, compiler_options={"xla_backend_optimization_level": 1})


def abstract_variables(spec: ModelSpec) -> tuple[nnx.GraphDef, Variables]:
    """Returns `split_variables` of a model with shapes instead of arrays, which are not made."""
    graphdef, variables = _abstract_variables(spec)
    return graphdef, jax.tree.map(lambda leaf: leaf, variables)


@functools.cache  # a command asks several times for one model, and tracing a large one takes a second
def _abstract_variables(spec: ModelSpec) -> tuple[nnx.GraphDef, Variables]:
    return split_variables(nnx.eval_shape(lambda: models.create(spec, CountedRngs(0))))


def count_parameters(params: PyTree) -> int:
    """Number of values in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def forward_function(spec: ModelSpec) -> Callable[[Variables, jax.Array], tuple[jax.Array | None, jax.Array | None]]:
    """A model's forward pass: its variables and a batch's video -> logits and embedding."""
    graphdef, _ = abstract_variables(spec)

    def forward(variables: Variables, video: jax.Array) -> tuple[jax.Array | None, jax.Array | None]:
        outputs = merge(graphdef, variables)({"video": video})
        return outputs.logits, outputs.embedding

    return forward


def count_forward_flops(spec: ModelSpec, batch_size: int = 1) -> float:
    """Floating-point operations of a model's forward pass over clips, by XLA; half of them are multiply-adds."""
    clip = spec.options.clip
    shape = (batch_size, clip.num_frames, clip.crop_size, clip.crop_size, 3)
    video = jax.ShapeDtypeStruct(shape, jnp.uint8)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):  # other backends do not count before they compile
        cost: Any = jax.jit(forward_function(spec)).lower(abstract_variables(spec)[1], video).cost_analysis()
    return cost["flops"]


def flatten(variables: PyTree) -> dict[str, Any]:
    """The leaves of nested dicts by their path, such as `params.blocks.0.conv1.conv.kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def replace(variables: PyTree, values: dict[str, Any]) -> PyTree:
    """Nested dicts with some of their leaves, named as by `flatten`, replaced."""
    return jax.tree.unflatten(jax.tree.structure(variables), (flatten(variables) | values).values())


def nest(leaves: dict[str, Any]) -> PyTree:
    """Nested dicts from their leaves by path; the inverse of `flatten`, with text for the numbers of lists."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split(".")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = leaf
    return tree
