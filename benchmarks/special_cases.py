"""Our special forms (manet_jax/models/ops.py and others) beside XLA's plain ones: seconds and differences, on a device.

A form is special where XLA's own was found slow on a CPU; which one a device gets should rest on figures like these.
"""

import functools
import itertools
import unittest.mock
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks import measure, step
from manet_jax import parallel
from manet_jax.models import ModelSpec, ops
from manet_jax.models.variables import Variables, abstract_variables, create_variables, merge

Make = Callable[[], Callable[[], Any]]  # makes a form: compiled, with its arguments
Pair = tuple[str, str, str]  # a case, and the names of its special and its plain form
Group = tuple[dict[str, Make], list[Pair]]  # forms that are timed in turn


def measure_all(*, small: bool) -> list[dict[str, Any]]:
    """Measures every case: the seconds of both forms, and the largest difference of their results, of the largest.

    A case that cannot run, as on a device that lacks the memory or an option of the compiler, has an `error` instead.
    """
    rows = []
    for makes, pairs in itertools.chain(_layers(small), [_models(small)]):
        rows += _measure(makes, pairs, repeats=1 if small else 5)
    return rows


def _measure(makes: dict[str, Make], pairs: list[Pair], repeats: int) -> list[dict[str, Any]]:
    functions, results, errors = {}, {}, {}
    for name, make in makes.items():
        try:
            function = make()
            results[name] = jax.tree.leaves(jax.device_get(function()))
            functions[name] = functools.partial(_wait, function)
        except Exception as error:
            errors[name] = (str(error) or type(error).__name__).splitlines()[0]
    seconds = {name: measure.spread(times)["median"] for name, times in measure.in_turn(functions, repeats).items()}
    rows = []
    for case, special, plain in pairs:
        if failed := [errors[name] for name in (special, plain) if name in errors]:
            rows.append({"case": case, "error": failed[0]})
            continue
        difference = max(_difference(*pair) for pair in zip(results[special], results[plain], strict=True))
        rows.append({"case": case, "special": seconds[special], "plain": seconds[plain], "difference": difference})
    return rows


def _wait(function: Callable[[], Any]) -> None:
    jax.block_until_ready(function())


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    ours, theirs = (values.astype(np.float32) for values in (ours, theirs))
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), np.finfo(np.float32).tiny))


def _layers(small: bool) -> Iterator[Group]:
    """One operation each, forward and gradient, in bfloat16, at the sizes of 16 clips of 8 x 224 x 224."""
    clips, parts, scale = (1, 7, 8) if small else (16, 1, 1)  # sides are divided by `parts`, channels by `scale`

    def video(side: int, channels: int) -> jax.Array:
        return _values(clips * 8, side // parts, side // parts, max(1, channels // scale))

    def with_gradient(function: Callable, *shapes: tuple) -> Make:
        return lambda: _with_gradient(function, *(make(*sizes) for make, *sizes in shapes))

    def case(name: str, special: Callable, plain: Callable, *shapes: tuple) -> Group:
        forms = {"special": special, "plain": plain}
        makes = {key: functools.partial(_jitted, function, *shapes) for key, function in forms.items()}
        return makes, [(name, "special", "plain")]

    frames = (lambda side, channels: video(side, channels).reshape(clips, 8, side // parts, side // parts, -1), 56, 256)
    shift = functools.partial(ops.temporal_shift, shift_div=8)
    yield case(
        "temporal shift: a choice, its gradient by hand (not taken on a TPU) / slices",
        _with_gradient(shift),
        _with_gradient(_shift_by_slices),
        frames,
    )
    yield case(
        "gradient of max pooling: by hand (not taken on a TPU) / XLA's",
        ops.gradient_of_max_pool,
        lambda x, gradient: jax.vjp(ops.max_pool_with_xla, x)[1](gradient),
        (video, 112, 64),
        (video, 56, 64),
    )
    for size, stride, side, channels, features in ((7, 2, 224, 3, 64), (3, 1, 56, 64, 64), (3, 2, 56, 128, 128)):
        yield case(
            f"gradients of a {size}x{size} convolution, stride {stride}: products (taken on a CPU) / XLA's",
            functools.partial(ops.gradients_as_products, stride=stride),
            functools.partial(ops.gradients_with_xla, stride=stride),
            (video, side, channels),
            (_values, size, size, max(1, channels // scale), features // scale),
            (video, side // stride, features),
        )
    yield case(
        "a 3x3 convolution of 2 x 2 pixels: a product / XLA's",
        _with_gradient(functools.partial(ops.convolve, stride=1)),
        _with_gradient(functools.partial(ops.convolve_with_xla, stride=1)),
        (_values, clips * 8, 2, 2, 512 // scale),
        (_values, 3, 3, 512 // scale, 512 // scale),
    )
    yield case(
        "a 1x1 convolution: a product / XLA's",
        _with_gradient(lambda x, kernel: x @ kernel[0, 0]),
        _with_gradient(functools.partial(ops.convolve_with_xla, stride=1)),
        (video, 56, 256),
        (_values, 1, 1, 256 // scale, 64 // scale),
    )


def _values(*shape: int) -> jax.Array:
    # Few different values, so that windows hold their largest one several times, and sums are nearly exact.
    return jnp.asarray(np.random.default_rng(0).integers(-2, 3, shape, np.int8)).astype(jnp.bfloat16)


def _jitted(function: Callable, *arguments: tuple) -> Callable[[], Any]:
    return functools.partial(jax.jit(function), *(make(*sizes) for make, *sizes in arguments))


def _with_gradient(function: Callable) -> Callable:
    """A function that returns a function's result and its gradients, given the result as that of the result."""

    def apply(*values: jax.Array) -> Any:
        result, vjp = jax.vjp(function, *values)
        return result, vjp(result)

    return apply


def _shift_by_slices(x: jax.Array) -> jax.Array:
    fold = x.shape[-1] // 8
    later = jnp.concatenate([x[:, 1:, ..., :fold], jnp.zeros_like(x[:, :1, ..., :fold])], 1)
    back = x[..., fold : 2 * fold]
    earlier = jnp.concatenate([jnp.zeros_like(back[:, :1]), back[:, :-1]], 1)
    return jnp.concatenate([later, earlier, x[..., 2 * fold :]], -1)


def _models(small: bool) -> Group:
    """Loss and gradient of a network with a block in each stage, in bfloat16; the results are the loss and the norm."""
    options: dict[str, Any] = {"depth": 8, "width": 8} if small else {"depth": 14}
    video = step.make_batch(*((1, 32) if small else (16, 224)))["video"]
    spec, remat = (step.model(dtype="bfloat16", remat=remat, **options) for remat in (False, True))
    variables = create_variables(spec, seed=0)
    usual = functools.partial(_gradient, spec, variables, video)
    late = {"xla_disable_hlo_passes": "cse_barrier_expander"}
    on_cpu, on_tpu = parallel.compiler_options() == late, jax.default_backend() == "tpu"
    makes = {
        "usual": usual,
        "no barriers": functools.partial(_without_barriers, usual),
        "remat": functools.partial(_gradient, remat, variables, video),
        "other options": functools.partial(_with_options, {} if on_cpu else late, usual),
        "other forms": functools.partial(_with_forms, "gpu" if on_tpu else "tpu", usual),
    }
    dropped_late, kept = ("usual", "other options") if on_cpu else ("other options", "usual")
    by_platform = ("usual", "other forms") if on_tpu else ("other forms", "usual")
    return makes, [
        ("gradient of a network: optimisation barriers / none", "usual", "no barriers"),
        ("gradient of a network: barriers dropped late (taken on a CPU) / kept", dropped_late, kept),
        ("gradient of a network: remat / none", "remat", "usual"),
        ("gradient of a network: a TPU's forms / the others'", *by_platform),
    ]


def _gradient(spec: ModelSpec, variables: Variables, video: np.ndarray) -> Callable[[], Any]:
    graphdef, _ = abstract_variables(spec)

    def loss_and_norm(params: Any, video: jax.Array) -> tuple[jax.Array, jax.Array]:
        def loss(params: Any) -> jax.Array:
            model = nnx.view(merge(graphdef, variables | {"params": params}), train=True)
            outputs = model({"video": video})
            return jnp.square(outputs.logits - 1).mean() + jnp.square(outputs.embedding - 1).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        return value, optax.tree.norm(gradients)

    arguments = variables["params"], jnp.asarray(video)
    compiled = jax.jit(loss_and_norm, compiler_options=parallel.compiler_options()).lower(*arguments).compile()
    return functools.partial(compiled, *arguments)


def _without_barriers(make: Make) -> Callable[[], Any]:
    with unittest.mock.patch.object(jax.lax, "optimization_barrier", lambda values: values):
        return make()


def _with_forms(platform: str, make: Make) -> Callable[[], Any]:
    with ops.traced_for(platform):
        return make()


def _with_options(options: dict[str, str], make: Make) -> Callable[[], Any]:
    with unittest.mock.patch.object(parallel, "compiler_options", return_value=options):
        return make()
