"""Times forward pass and training step of MANet, ours and a plain PyTorch one in turn, on the same batch.

Beside each stands what the machine allows: the network's floating-point operations over the rate of a large matrix
product, and the bytes that the compiled program moves over the memory's bandwidth, both measured in the same run.
Needs jax, flax, optax, jaxtyping, numpy, scipy and torch only.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import measure
from manet_jax import optimizers, parallel, tasks, train_step
from manet_jax.models import ModelSpec
from manet_jax.models.manet import MANetOptions
from manet_jax.models.resnet import STAGES
from manet_jax.models.variables import abstract_variables, merge
from tfds_ma52.labels import MA52


def model(**options: Any) -> ModelSpec:
    """The released model, or one with other options."""
    return ModelSpec("manet", MANetOptions(**{"embedding_dim": 300, **options}))


def main() -> None:
    """Runs the command."""
    parser = measure.parser("benchmarks.step", __doc__, repeats=5)
    parser.add_argument("--batch_size", type=int, default=2, help="clips of 8 frames")
    parser.add_argument("--size", type=int, default=224, help="pixels of a frame's sides")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the computation")
    parser.add_argument("--remat", action="store_true", help="recompute activations in the backward pass")
    parser.add_argument("--no_torch", action="store_true", help="time ours alone")
    arguments = parser.parse_args()

    batch = make_batch(arguments.batch_size, arguments.size)
    spec = model(dtype=arguments.dtype, remat=arguments.remat)
    functions, compiled, compile_seconds = ours(batch, spec)
    if not arguments.no_torch:
        on_gpu = jax.default_backend() == "gpu"
        functions |= plain_pytorch(batch, spec, "cuda" if on_gpu else "cpu", compiled=on_gpu)
    seconds = measure.in_turn(functions, arguments.repeats)

    forward_flops = count_forward_flops(batch, spec)
    rate, bandwidth = measure.matrix_rate(arguments.dtype), measure.bandwidth()
    rows = []
    for part, factor in (("forward", 1), ("train step", 3)):
        flops, num_bytes = factor * forward_flops, compiled[part].cost_analysis()["bytes accessed"]
        times = {
            name: measure.spread(seconds[f"{name} {part}"])
            for name in ("ours", "pytorch")
            if f"{name} {part}" in seconds
        }
        row = {"": part}
        for name, time_of in times.items():
            row |= {
                f"{name} (s)": time_of["median"],
                f"{name}, middle half": f"{time_of['low']:.3g}-{time_of['high']:.3g}",
            }
        if "pytorch" in times:
            row["speed over pytorch"] = times["pytorch"]["median"] / times["ours"]["median"]
        row |= {"operations / rate (s)": flops / rate, "bytes / bandwidth (s)": num_bytes / bandwidth}
        rows.append(
            row | {"share of the rate": flops / rate / times["ours"]["median"], "compile (s)": compile_seconds[part]}
        )
    print(f"{arguments.batch_size} clips of 8 x {arguments.size} x {arguments.size}, {arguments.dtype}")
    print(f"{measure.machine()}, {rate / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s\n{measure.table(rows)}")
    measure.finish({"arguments": vars(arguments) | {"json": None}, "seconds": seconds, "rows": rows}, arguments.json)


def make_batch(batch_size: int, size: int) -> dict[str, np.ndarray]:
    """A batch of random pixels and labels."""
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (batch_size, 8, size, size, 3), np.uint8)
    return {"video": video, "label": rng.integers(0, 52, batch_size).astype(np.int32)}


def forward_function(spec: ModelSpec) -> Callable:
    """A model's forward pass as a function of variables and video."""
    graphdef, _ = abstract_variables(spec)

    def forward(variables: Any, video: jax.Array) -> tuple[jax.Array | None, jax.Array | None]:
        outputs = merge(graphdef, variables)({"video": video})
        return outputs.logits, outputs.embedding

    return forward


def count_forward_flops(batch: dict[str, np.ndarray], spec: ModelSpec) -> float:
    """Floating-point operations of a forward pass over a batch; a training step has three times as many."""
    video = jax.ShapeDtypeStruct(batch["video"].shape, jnp.uint8)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):  # other backends do not count before they compile
        return jax.jit(forward_function(spec)).lower(abstract_variables(spec)[1], video).cost_analysis()["flops"]


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
    task = tasks.SingleLabel(MA52, tasks.JointEmbedding(vectors, 50.0))
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


def plain_pytorch(
    batch: dict[str, np.ndarray], spec: ModelSpec, device: str, *, compiled: bool
) -> dict[str, Callable[[], None]]:
    """Functions that run a plain PyTorch MANet's forward pass and training step once.

    On a GPU in PyTorch's fast form: channels last, the fastest of cuDNN's convolutions and, for bfloat16, autocast.

    Args:
      batch: of `make_batch`.
      spec: the model.
      device: "cuda" or "cpu".
      compiled: by torch.compile, at the first call of each function.
    """
    import torch

    from tests.torch_reference import manet as torch_manet

    on_gpu = device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU, but JAX does: install a CUDA build of torch, or add --no_torch")
    options = spec.options
    stages = STAGES[options.depth]
    model = torch_manet.MANet(options.num_classes, options.embedding_dim, stages, options.width).to(device)
    optimizer = torch_manet.create_optimizer(model)
    video, label = (torch.tensor(batch[name], device=device) for name in ("video", "label"))
    vectors = torch.randn(52, 300, device=device)
    if on_gpu:
        model = model.to(memory_format=torch.channels_last)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if compiled:
        model = torch.compile(model)
    context = functools.partial(torch.autocast, device, torch.bfloat16, enabled=options.dtype == "bfloat16")

    def run_forward() -> None:
        model.eval()
        with torch.inference_mode(), context():
            model(video)[0].float().sum().item()

    def run_step() -> None:
        with context():
            torch_manet.train_step(model, optimizer, video, label.long(), vectors)

    return {"pytorch forward": run_forward, "pytorch train step": run_step}


if __name__ == "__main__":
    main()
