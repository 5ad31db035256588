"""Times forward pass and training step of a network on random clips as it sees them; MANet without arguments.

Some take turns with PyTorch's on the same batch: MANet with a plain one, TimeSformer and VideoMAE with those of the
package transformers, Swin with torchvision's.
Beside each stands what the machine allows: the network's floating-point operations over the rate of a large matrix
product, and the bytes that the compiled program moves over the memory's bandwidth, both measured in the same run.
Needs jax, flax, optax, jaxtyping, numpy, scipy and torch only, and what the network's PyTorch is in.
"""

import argparse
import ast
import dataclasses
import functools
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import measure
from manet_jax import optimizers, parallel, tasks, train_step
from manet_jax.models import MODELS, ModelSpec, OptionError
from manet_jax.models.manet import MANetOptions
from manet_jax.models.resnet import STAGES
from manet_jax.models.variables import abstract_variables, count_forward_flops, forward_function
from tfds_ma52.labels import MA52

# What the PyTorch networks are in that are not in tests/torch_reference.
_PACKAGES = {"timesformer": "transformers", "videomae": "transformers", "swin": "torchvision"}


def model(**options: Any) -> ModelSpec:
    """The released model, or one with other options."""
    return ModelSpec("manet", MANetOptions(**{"embedding_dim": 300, **options}))


def main() -> None:
    """Runs the command."""
    parser = measure.parser("benchmarks.step", __doc__, repeats=5)
    add_network_flags(parser)
    parser.add_argument("--no_torch", action="store_true", help="time ours alone")
    arguments = parser.parse_args()
    spec = chosen_network(parser, arguments)
    clip = spec.options.clip
    batch = make_batch(arguments.batch_size, clip.crop_size, clip.num_frames)
    functions, compiled, compile_seconds = ours(batch, spec)
    if has_pytorch(spec) and not arguments.no_torch:
        on_gpu = jax.default_backend() == "gpu"
        functions |= plain_pytorch(batch, spec, "cuda" if on_gpu else "cpu", compiled=on_gpu)
    seconds = measure.in_turn(functions, arguments.repeats)

    flops = count_forward_flops(spec, arguments.batch_size)
    rate, bandwidth = measure.matrix_rate(arguments.dtype), measure.bandwidth()
    rows = []
    for part, factor in (("forward", 1), ("train step", 3)):
        num_bytes = compiled[part].cost_analysis()["bytes accessed"]
        limits = {"operations / rate (s)": factor * flops / rate, "bytes / bandwidth (s)": num_bytes / bandwidth}
        rows.append(_row(part, seconds, arguments.batch_size, limits) | {"compile (s)": compile_seconds[part]})
    shape = f"{clip.num_frames} x {clip.crop_size} x {clip.crop_size}"
    print(network_name(arguments))
    print(f"{arguments.batch_size} clips of {shape}, {arguments.dtype}")
    print(f"{flops / arguments.batch_size / 2e9:.4g} GFLOPs (multiply-adds) a clip, forward")
    print(f"{measure.machine()}, {rate / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s\n{measure.table(rows)}")
    measure.finish({"arguments": vars(arguments) | {"json": None}, "seconds": seconds, "rows": rows}, arguments.json)


def _row(part: str, seconds: dict[str, list[float]], batch_size: int, limits: dict[str, float]) -> dict[str, Any]:
    """A row of the table: the times of a part, ours and PyTorch's if there are any, beside the machine's limits."""
    names = [name for name in ("ours", "pytorch") if f"{name} {part}" in seconds]
    times = {name: measure.spread(seconds[f"{name} {part}"]) for name in names}
    row = {"": part}
    for name, time_of in times.items():
        row |= {
            f"{name} (clips/s)": batch_size / time_of["median"],
            f"{name} (s)": time_of["median"],
            f"{name}, middle half": f"{time_of['low']:.3g}-{time_of['high']:.3g}",
        }
    if "pytorch" in times:
        row["speed over pytorch"] = times["pytorch"]["median"] / times["ours"]["median"]
    share = limits["operations / rate (s)"] / times["ours"]["median"]
    return row | limits | {"share of the rate": share}


def add_network_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that choose a network and its batch, see `chosen_network`."""
    parser.add_argument("--model", choices=[name for name in MODELS if name != "emotion"], default="manet")
    parser.add_argument(
        "--options", nargs="+", type=_option, default=[], metavar="NAME=VALUE", help="of the model, as in config.model"
    )
    parser.add_argument("--batch_size", type=int, default=2, help="clips")
    parser.add_argument("--size", type=int, help="pixels of a frame's sides (default: the network's)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the computation")
    parser.add_argument("--remat", action="store_true", help="recompute activations in the backward pass")


def _option(text: str) -> tuple[str, Any]:
    """An option's name and value, of NAME=VALUE."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE with a number, True or False") from error


def chosen_network(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> ModelSpec:
    """The network that a command's flags choose; the command ends if no network has such options."""
    options = {**dict(arguments.options), "dtype": arguments.dtype, "remat": arguments.remat}
    make = MODELS[arguments.model].Options
    try:
        if arguments.size:
            options["clip"] = dataclasses.replace(make().clip, short_side=arguments.size, crop_size=arguments.size)
        return model(**options) if arguments.model == "manet" else ModelSpec(arguments.model, make(**options))
    except (OptionError, TypeError) as error:
        parser.error(f"--model {arguments.model}: {error}")


def network_name(arguments: argparse.Namespace) -> str:
    """Name and options of the network that a command's flags choose."""
    return ", ".join([arguments.model, *(f"{name} {value}" for name, value in arguments.options)])


def make_batch(batch_size: int, size: int, num_frames: int = 8) -> dict[str, np.ndarray]:
    """A batch of random pixels and labels."""
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (batch_size, num_frames, size, size, 3), np.uint8)
    return {"video": video, "label": rng.integers(0, 52, batch_size).astype(np.int32)}


def create_step(spec: ModelSpec, mesh: jax.sharding.Mesh) -> tuple[Callable, optax.GradientTransformation]:
    """The step of training over a mesh, and its optimiser."""
    vectors = np.random.default_rng(0).normal(size=(52, 300)).astype(np.float32)
    optimizer = optimizers.create_optimizer(
        optax.constant_schedule(0.00125),
        momentum=0.9,
        weight_decay=1e-4,
        clip_norm=20.0,
        head_lr_multiplier=5.0,
        head="last",
    )
    graphdef, _ = abstract_variables(spec)
    task = tasks.SingleLabel(MA52, tasks.JointEmbedding(vectors, 50.0) if spec.options.embedding_dim else None)
    return train_step.create_step(graphdef, optimizer, [task], mesh, seed=0), optimizer


def ours(batch: dict[str, np.ndarray], spec: ModelSpec):
    """Functions that run our forward pass and training step once, their compiled programs and compile times."""
    mesh = parallel.make_mesh(1)
    step, optimizer = create_step(spec, mesh)
    state = train_step.create_train_state(spec, optimizer, 0, mesh)
    batch = parallel.shard_batch(batch, mesh)
    variables = parallel.replicate(state.variables, mesh)  # copies: the step takes its state's memory
    forward = jax.jit(forward_function(spec), compiler_options=parallel.compiler_options())
    compiled, compile_seconds = {}, {}
    for part, lowered in (
        ("forward", forward.lower(variables, batch["video"])),
        ("train step", step.lower(state, batch)),
    ):
        start = time.perf_counter()
        compiled[part] = lowered.compile()
        compile_seconds[part] = time.perf_counter() - start

    def run_step() -> None:
        nonlocal state
        state, metrics = compiled["train step"](state, batch)
        jax.block_until_ready((state, metrics))

    def run_forward() -> None:
        jax.block_until_ready(compiled["forward"](variables, batch["video"]))

    return {"ours forward": run_forward, "ours train step": run_step}, compiled, compile_seconds


def has_pytorch(spec: ModelSpec) -> bool:
    """Whether there is a PyTorch network to compare with: for the released MANet at any size, and those of packages."""
    options = spec.options
    if spec.name == "manet":
        return options.shift and options.se and options.embedding_dim > 0 and options.shift_div == 8
    return spec.name in _PACKAGES and not options.embedding_dim


def plain_pytorch(
    batch: dict[str, np.ndarray], spec: ModelSpec, device: str, *, compiled: bool
) -> dict[str, Callable[[], None]]:
    """Functions that run a plain PyTorch network's forward pass and training step once.

    On a GPU in PyTorch's fast form: channels last, the fastest of cuDNN's convolutions and, for bfloat16, autocast.

    Args:
      batch: of `make_batch`.
      spec: a network that `has_pytorch`.
      device: "cuda" or "cpu".
      compiled: by torch.compile, at the first call of each function.
    """
    import torch

    from tests.torch_reference import manet as torch_manet

    on_gpu = device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU, but JAX does: install a CUDA build of torch, or add --no_torch")
    model = _torch_model(spec).to(device)
    optimizer = torch_manet.create_optimizer(model)
    video, label = (torch.tensor(batch[name], device=device) for name in ("video", "label"))
    vectors = torch.randn(52, 300, device=device)
    if on_gpu:
        if all(parameter.ndim < 5 for parameter in model.parameters()):  # it has no form of kernels over clips
            model = model.to(memory_format=torch.channels_last)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if compiled:
        model = torch.compile(model)
    context = functools.partial(torch.autocast, device, torch.bfloat16, enabled=spec.options.dtype == "bfloat16")

    def run_forward() -> None:
        model.eval()
        with torch.inference_mode(), context():
            model(video)[0].float().sum().item()

    def run_step() -> None:
        with context():
            torch_manet.train_step(model, optimizer, video, label.long(), vectors)

    return {"pytorch forward": run_forward, "pytorch train step": run_step}


def _torch_model(spec: ModelSpec) -> Any:
    """The PyTorch network: uint8 [b, t, h, w, 3] -> logits [b, n], embedding [b, e] or None."""
    options = spec.options
    if spec.name == "manet":
        from tests.torch_reference import manet

        return manet.MANet(options.num_classes, options.embedding_dim, STAGES[options.depth], options.width)
    package = _PACKAGES[spec.name]
    if importlib.util.find_spec(package) is None:
        raise SystemExit(f"the PyTorch {spec.name} is that of {package}: pip install {package}, or add --no_torch")
    from tests.torch_reference import published

    return getattr(published, spec.name)(options)


if __name__ == "__main__":
    main()
