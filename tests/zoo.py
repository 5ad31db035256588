"""Measures how far the networks of the zoo are from the recorded outputs of their PyTorch references.

A network of the zoo is an entry in `NETWORKS`. Its published names come from the weight table, its shapes and the
names of what is recorded from golden/zoo/<name>.json.

python tests/zoo.py [NAME ...]
"""

import dataclasses
import functools
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from golden import zoo_inputs
from jax import Array
from recorded import Measurement, relative_to_largest

from manet_jax import losses, pretrained
from manet_jax.models import ClipSpec, ModelSpec, c3d
from manet_jax.models.gc_tsm import GCTSMOptions
from manet_jax.models.i3d import I3DOptions
from manet_jax.models.manet import MANetOptions
from manet_jax.models.ops import max_of_pairs, max_pool
from manet_jax.models.resnet3d import max_pool_frames
from manet_jax.models.slowfast import SlowFastOptions
from manet_jax.models.swin import SwinOptions
from manet_jax.models.timesformer import TimeSformerOptions
from manet_jax.models.tin import TINOptions
from manet_jax.models.uniformer import UniFormerOptions
from manet_jax.models.variables import abstract_variables, count_parameters, flatten, merge, replace
from manet_jax.models.videomae import VideoMAEOptions
from manet_jax.pretrained import table

# conftest.py's options are for programs that are small; these run for seconds.
COMPILER_OPTIONS = {"xla_backend_optimization_level": 3, "xla_cpu_parallel_codegen_split_count": 32}


@dataclasses.dataclass(frozen=True)
class Trace:
    """Where the recorded output of a module is in ours.

    Attributes:
      module: of ours, its path; its `__call__` returns what is recorded.
      change: what PyTorch's module does beyond it.
      channels_first: whether PyTorch has the channels, our last axis, after the batch.
    """

    module: str
    change: Callable[[Array], Array] = lambda x: x
    channels_first: bool = True


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of the zoo.

    Attributes:
      spec: at its full size.
      traces: the recorded modules.
      stacked: modules whose outputs are recorded whole, one after the other, by the name of the record.
      gradient_tolerances: the largest differences of gradients that are tolerated, where they are more than 1e-3.
      by_clip: whether gradients are computed apart from the outputs, and clip by clip: the larger networks take more
        than 17 GB otherwise, with remat too.
    """

    spec: ModelSpec
    traces: dict[str, Trace]
    stacked: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    gradient_tolerances: dict[str, float] = dataclasses.field(default_factory=dict)
    by_clip: bool = False


def clip_fields(name):
    """What the reference sees, as fields of a clip specification."""
    return {key: tuple(x) if isinstance(x, list) else x for key, x in zoo_inputs.record(name).clip.items()}


RESNET = {
    "conv1": Trace("stem", nnx.relu),
    "maxpool": Trace("stem", lambda x: max_pool(nnx.relu(x))),
    "layer1": Trace("blocks.2"),
    "layer2": Trace("blocks.6"),
    "layer3": Trace("blocks.12"),
    "layer4": Trace("blocks.15"),
}


def with_prefix(prefix, traces):
    return {f"{prefix}.{module}": trace for module, trace in traces.items()}


def of_frames(module):
    """The trace of a module of ours that has the frames of each clip in an axis of their own."""
    return Trace(module, lambda x: x.reshape(-1, *x.shape[2:]))


SLOWFAST_TRACES = {
    "backbone.slow_path.conv1": Trace("slow.stem", nnx.relu),
    "backbone.fast_path.conv1": Trace("fast.stem", nnx.relu),
    "backbone.slow_path.conv1_lateral": Trace("laterals.stage1"),
    "backbone.slow_path.layer3_lateral": Trace("laterals.stage4"),
    **{
        f"backbone.{path}_path.layer{stage}": Trace(f"{path}.blocks.{block}")
        for path in ("slow", "fast")
        for stage, block in enumerate((2, 6, 12, 15), 1)
    },
}

VIDEOMAE_TRACES = {
    "patch_embed": Trace("patches", channels_first=False),
    "blocks.0.attn": Trace("blocks.0.attention", channels_first=False),
    "blocks.0.mlp": Trace("blocks.0.mlp", channels_first=False),
    **{f"blocks.{i}": Trace(f"blocks.{i}", channels_first=False) for i in (0, 5, 11)},
}

UNIFORMER_TRACES = {
    **{f"backbone.patch_embed{stage}": Trace(f"stage{stage}.embedding") for stage in range(1, 5)},
    **{f"backbone.blocks{stage}.0": Trace(f"stage{stage}.blocks.0") for stage in range(1, 5)},
    "backbone.norm": Trace("norm", lambda x: x.reshape(2, -1, *x.shape[1:])),
}


def of_swin(**options):
    """A Video Swin; what a stage returns is recorded before it is merged."""
    found = SwinOptions(**options)
    traces = {f"layers.{stage}": f"blocks.{end - 1}" for stage, end in enumerate(np.cumsum(found.depths))}
    traces |= {"layers.0.blocks.0": "blocks.0", "layers.0.blocks.1": "blocks.1", "norm3": "norm"}
    listed = {f"backbone.{module}": Trace(ours, channels_first=False) for module, ours in traces.items()}
    return Network(ModelSpec("swin", found), {"backbone.patch_embed": Trace("patches"), **listed}, by_clip=True)


NETWORKS: dict[str, Network] = {
    "tsn": Network(ModelSpec("manet", MANetOptions(se=False, shift=False)), with_prefix("backbone", RESNET)),
    "tsm": Network(ModelSpec("manet", MANetOptions(se=False)), with_prefix("backbone", RESNET)),
    "tin": Network(
        ModelSpec("tin", TINOptions()),
        with_prefix(
            "backbone",
            RESNET
            | {
                "layer1.0.conv1.conv.net1": of_frames("blocks.0.interlace"),
                "layer2.0.conv1.conv.net1": of_frames("blocks.3.interlace"),
            },
        ),
        stacked={"offsets": [f"blocks.{i}.interlace.offset_net" for i in range(16)]},
        # Small, and behind many ReLUs: the recorded one is 5.5e-4 from that in double precision, ours 2.8e-4 to 1.1e-3
        # from the recorded one, as the compiler orders its sums.
        gradient_tolerances={"backbone.layer2.0.conv1.conv.net1.offset_net.fc1.weight": 2e-3},
    ),
    "gc_tsm": Network(
        ModelSpec("gc_tsm", GCTSMOptions()),
        with_prefix(
            "module.base_model",
            {"relu" if module == "conv1" else module: trace for module, trace in RESNET.items()}
            | {
                "layer2.0.eft1": of_frames("blocks.3.gates.local"),
                "layer2.0.eft2": of_frames("blocks.3.gates.time"),
                "layer2.0.eft3": of_frames("blocks.3.gates.space"),
                "layer2.0.eft4": of_frames("blocks.3.gates.clip"),
            },
        ),
    ),
    "c3d": Network(
        ModelSpec("c3d", c3d.C3DOptions()),
        {
            "backbone.pool1": Trace("convs.0", lambda x: c3d.pool(nnx.relu(x), 0)),
            "backbone.pool2": Trace("convs.1", lambda x: c3d.pool(nnx.relu(x), 1)),
            "backbone.pool3": Trace("convs.3", lambda x: c3d.pool(nnx.relu(x), 2)),
            "backbone.pool4": Trace("convs.5", lambda x: c3d.pool(nnx.relu(x), 3)),
            "backbone.pool5": Trace("convs.7", lambda x: c3d.pool(nnx.relu(x), 4)),
            "backbone.fc6": Trace("fc6"),
        },
        # Rounding decides which of two nearly equal values five max poolings take: the recorded gradient of the first
        # layer is up to 3.3e-3 of its largest value from that in double precision, and 1.0e-3 from ours by the norm.
        gradient_tolerances={"backbone.conv1a.conv.weight": 5e-3},
    ),
    "i3d": Network(
        ModelSpec("i3d", I3DOptions()),
        {
            **with_prefix("backbone", RESNET),
            "backbone.maxpool": Trace("stem", lambda x: max_pool_frames(nnx.relu(x)[:, ::2])),
            "backbone.pool2": Trace("blocks.2", lambda x: max_of_pairs(x, axis=1)),
        },
    ),
    "slowfast_4x16": Network(ModelSpec("slowfast", SlowFastOptions()), SLOWFAST_TRACES),
    "slowfast_8x8": Network(ModelSpec("slowfast", SlowFastOptions(tau=4, alpha=4, lateral_kernel=7)), SLOWFAST_TRACES),
    "timesformer": Network(
        ModelSpec("timesformer", TimeSformerOptions()),
        {
            "backbone.patch_embed": Trace("patches", channels_first=False),
            "backbone.transformer_layers.layers.0.attentions.0": Trace("blocks.0.temporal", channels_first=False),
            "backbone.transformer_layers.layers.0.attentions.1": Trace("blocks.0.spatial", channels_first=False),
            **{
                f"backbone.transformer_layers.layers.{i}": Trace(f"blocks.{i}", channels_first=False)
                for i in (0, 5, 11)
            },
        },
    ),
    "videomae_s": Network(ModelSpec("videomae", VideoMAEOptions()), VIDEOMAE_TRACES),
    "videomae_b": Network(ModelSpec("videomae", VideoMAEOptions(width=768, num_heads=12)), VIDEOMAE_TRACES),
    "uniformer_s": Network(ModelSpec("uniformer", UniFormerOptions()), UNIFORMER_TRACES),
    "uniformer_b": Network(ModelSpec("uniformer", UniFormerOptions(depths=(5, 8, 20, 7))), UNIFORMER_TRACES),
    "swin_tiny": of_swin(),
    # Its maps are padded, and smaller than a window in space too.
    "swin_tiny_12x96": of_swin(clip=ClipSpec(num_frames=12, short_side=96, crop_size=96)),
    "swin_small": of_swin(depth=18),
    "swin_base": of_swin(depth=18, width=128, num_heads=4),
}


def measure(name):
    """How far a network is from all that is recorded of it.

    Its weights come from the published names, and go back to them; the published ones are those of a file as
    `pretrained.state_dict` reads it, without `module.` in front.
    """
    drawn, video = zoo_inputs.weights(name), zoo_inputs.clips(name)
    np.testing.assert_array_equal(zoo_inputs.check(drawn, video), zoo_inputs.outputs(name)["check"])
    state = {_published(key): value for key, value in drawn.items()}
    weights = table.recognise(state, pretrained.TABLES, name)
    variables = load(name, state, weights)
    ran = jax.device_get(run(name, variables, weights, jnp.asarray(video)))
    return compare(name, weights, *ran)


def load(name, state, weights):
    """The variables of a network with published weights, after it was made sure that nothing of them is lost."""
    spec, record = NETWORKS[name].spec, zoo_inputs.record(name)
    found = weights.options_from(state)
    assert dataclasses.replace(found, clip=spec.options.clip) == spec.options
    assert spec.options.clip == dataclasses.replace(spec.options.clip, **clip_fields(name))
    abstract = abstract_variables(spec)[1]
    assert count_parameters(abstract["params"]) == record.parameters
    variables = replace(abstract, table.to_variables(state, spec, weights, name))
    back = table.to_state_dict(variables, spec, weights)
    unused = {key for keys in table.find_unused(state, weights).values() for key in keys}
    assert back.keys() == state.keys() - unused
    for key, value in back.items():
        np.testing.assert_array_equal(value, state[key])
    return jax.tree.map(jnp.asarray, variables)


def run(name, variables, weights, video):
    """Outputs, loss, logits of the clips backwards, traces, and gradients by their published names."""
    network, record = NETWORKS[name], zoo_inputs.record(name)
    graphdef, _ = abstract_variables(network.spec)
    paths = {tensor.name: tensor.path for tensor in table.tensors_of(network.spec, weights)}
    gradients = [paths[_published(key)] for key in record.gradients]

    def loss_of(chosen, variables, video, labels):
        model = merge(graphdef, replace(variables, chosen))
        show_inherited_calls(model)
        outputs, captured = nnx.capture(model, nnx.Intermediate, method_outputs=nnx.Intermediate)({"video": video})
        returned = flatten(nnx.to_pure_dict(captured))
        traces = {key: trace.change(returned[f"{trace.module}.__call__.0"]) for key, trace in network.traces.items()}
        for key, modules in network.stacked.items():
            traces[key] = jnp.stack([returned[f"{module}.__call__.0"] for module in modules])
        return losses.cross_entropy(outputs.logits, labels).mean(), (outputs, traces)

    compiled = functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
    differentiate = compiled(jax.value_and_grad(loss_of, has_aux=True))
    backwards = compiled(lambda variables, video: merge(graphdef, variables)({"video": video[:, ::-1]}).logits)
    chosen, labels = {path: flatten(variables)[path] for path in gradients}, jnp.asarray(zoo_inputs.LABELS)
    if network.by_clip:
        loss, (outputs, traces) = compiled(loss_of)({}, variables, video, labels)
        each = [differentiate(chosen, variables, video[i : i + 1], labels[i : i + 1])[1] for i in range(len(labels))]
        gradient = jax.tree.map(lambda *clips: jnp.stack(clips).mean(0), *each)
    else:
        (loss, (outputs, traces)), gradient = differentiate(chosen, variables, video, labels)
    return outputs, loss, backwards(variables, video), traces, gradient


def show_inherited_calls(model):
    """Makes the inherited `__call__` of each module one of its own class, of which alone `nnx.capture` takes note."""
    for _, module in nnx.iter_modules(model):
        own = type(module)
        call = next((vars(each)["__call__"] for each in own.__mro__ if "__call__" in vars(each)), None)
        if call is not None:
            own.__call__ = call


def compare(name, weights, outputs, loss, backwards, traces, gradients):
    """The differences of what `run` returns from what is recorded."""
    network, record, known = NETWORKS[name], zoo_inputs.record(name), zoo_inputs.outputs(name)
    # Where the classifier multiplies the features of each frame, ours are their mean.
    features = known["pooled"].reshape(len(known["logits"]), -1, known["pooled"].shape[-1]).mean(1)
    measured = [
        Measurement("logits", 1e-5, relative_to_largest(outputs.logits, known["logits"])),
        Measurement("logits of the clips backwards", 1e-5, relative_to_largest(backwards, known["logits_reversed"])),
        Measurement("features", 1e-5, relative_to_largest(outputs.features, features)),
        Measurement("loss", 1e-5, relative_to_largest(loss, known["loss"])),
    ]
    for key in network.stacked:
        measured.append(Measurement(key, 1e-5, relative_to_largest(traces.pop(key), known[key])))
    assert traces.keys() == record.traces.keys()
    for key, shape in record.traces.items():
        value = np.moveaxis(traces[key], -1, 1) if network.traces[key].channels_first else traces[key]
        assert value.size == np.prod(shape), key
        measured.append(Measurement(key, 1e-4, probe_difference(value, known[f"trace/{key}"])))
    tensors = {tensor.name: tensor for tensor in table.tensors_of(network.spec, weights)}
    for key in record.gradients:
        tensor = tensors[_published(key)]
        gradient = tensor.to_pytorch(gradients[tensor.path])
        difference = gradient_difference(gradient, known[f"grad/{key}"])
        tolerance = network.gradient_tolerances.get(key, 1e-3)
        measured.append(Measurement(f"gradient of {key}", tolerance, difference))
    return measured


def probe_difference(ours, theirs):
    """The largest difference of an array's probe: of its values and its mean over the largest value, of its norm."""
    (mean, norm, *values), (known_mean, known_norm, *known) = zoo_inputs.probe(ours), theirs
    largest = np.abs(known).max()
    values = np.abs(np.array(values) - known).max() / largest
    return float(max(values, abs(mean - known_mean) / largest, abs(norm / known_norm - 1)))


def gradient_difference(ours, theirs):
    """The difference of a gradient's probe: the norm of its values' differences over the norm of the values.

    Single values differ by more: where rounding decides which pixel of a window is the largest, or the sign of a value
    before a ReLU, a gradient takes another way.
    """
    (_, norm, *values), (_, known_norm, *known) = zoo_inputs.probe(ours), theirs
    difference = np.linalg.norm(np.array(values) - known) / np.linalg.norm(known)
    return float(max(difference, abs(norm / known_norm - 1)))


def _published(name):
    return name.removeprefix("module.")


if __name__ == "__main__":
    for name in sys.argv[1:] or NETWORKS:
        for each in measure(name):
            print(f"{name}: {each.quantity}: {each.difference:.2g} (at most {each.tolerance:g})")
