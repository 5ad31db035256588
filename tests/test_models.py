"""The contract of a network, see `manet_jax.models`, held by each network in `MODELS`; then what MANet is beyond it."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import random_variables
from flax import nnx
from helpers import BACKBONES, slow_but

from manet_jax import models
from manet_jax.export import PLATFORMS
from manet_jax.models import MODELS, ClipSpec, ModelSpec, NetworkOptions, OptionError, layers, manet, ops
from manet_jax.models.variables import (
    CountedRngs,
    abstract_variables,
    count_parameters,
    create_variables,
    flatten,
    merge,
)
from manet_jax.optimizers import layer_of

BATCH_SIZE = 3

# Parameters of full-size networks; a network in MODELS needs at least one entry here.
RESNET50, RESNET101 = 23_508_032, 42_500_160  # without their classifiers
# Squeeze-and-excitation holds c * c / 4 * 2 values for a block's c input channels.
SE50 = sum(c * c // 2 for c in [64, *[256] * 3, *[512] * 4, *[1024] * 6, *[2048] * 2])
INPUTS101 = [64, *[256] * 3, *[512] * 4, *[1024] * 23, *[2048] * 2]
APPEARANCE = {"num_classes": 7, "shift": False, "se": False}
COUNTS = {
    "manet": [
        ({"embedding_dim": 300}, 32_284_252),  # the released MANet without its unused action_p2 convolutions
        ({"se": False, "shift": False}, RESNET50 + 2049 * 52),
        ({"se": False}, RESNET50 + 2049 * 52),
        ({"se": False, "depth": 101}, RESNET101 + 2049 * 52),
        # The joint embedding: 2048 -> 300 -> 300.
        ({"se": False, "embedding_dim": 300}, RESNET50 + 2049 * 52 + 2049 * 300 + 301 * 300),
        ({}, RESNET50 + 2049 * 52 + SE50),
    ],
    "c3d": [
        ({}, 78_208_820),
        ({"embedding_dim": 300}, 78_208_820 + 4097 * 300 + 301 * 300),
        # 512 channels at 2 x 5 x 5 locations instead of 1 x 4 x 4.
        ({"clip": ClipSpec(num_frames=33, crop_size=130)}, 78_208_820 + 512 * (2 * 5 * 5 - 1 * 4 * 4) * 4096),
    ],
    "i3d": [
        ({}, 27_330_420),
        ({"embedding_dim": 300}, 27_330_420 + 2049 * 300 + 301 * 300),
    ],
    "slowfast": [
        ({}, 33_677_148),
        ({"tau": 4, "alpha": 4, "lateral_kernel": 7}, 33_763_420),
        ({"embedding_dim": 300}, 33_677_148 + 2305 * 300 + 301 * 300),
    ],
    "tin": [
        ({}, 23_645_588),
        # A block's c input channels: convolutions to 1 and to 2 of a quarter of them, and linear layers over 8 frames.
        ({"depth": 101}, RESNET101 + 2049 * 52 + sum(3 * c // 4 * 3 + 3 + 8 * 9 + 9 * 2 for c in INPUTS101)),
    ],
    "gc_tsm": [
        ({}, 24_879_604),
        ({"embedding_dim": 300}, 24_879_604 + 2049 * 300 + 301 * 300),
    ],
    "timesformer": [
        ({}, 121_298_740),
        ({"embedding_dim": 300}, 121_298_740 + 769 * 300 + 301 * 300),
        ({"table_frames": 16, "table_size": 448}, 121_298_740 + (8 + 28**2 - 14**2) * 768),
    ],
    "videomae": [
        ({}, 21_899_956),
        ({"width": 768, "num_heads": 12}, 86_267_188),
        ({"embedding_dim": 300}, 21_899_956 + 385 * 300 + 301 * 300),
    ],
    "uniformer": [
        ({}, 21_221_876),
        ({"depths": (5, 8, 20, 7), "embedding_dim": 300}, 49_634_676 + 513 * 300 + 301 * 300),
    ],
    "swin": [
        ({}, 27_890_458),
        ({"depth": 18}, 49_549_066),
        ({"depth": 18, "width": 128, "num_heads": 4}, 87_692_284),
        ({"embedding_dim": 300}, 27_890_458 + 769 * 300 + 301 * 300),
        # Windows of 16 frames: 16 differences more of each of 13 x 13, for the heads of all blocks.
        ({"window_frames": 16}, 27_890_458 + 16 * 13 * 13 * 3 * (2 * 1 + 2 * 2 + 6 * 4 + 2 * 8)),
    ],
    "emotion": [
        # Of the emotions: a linear layer on 2048 features and 52 probabilities.
        (
            {"num_emotions": 7, "micro_action": {"embedding_dim": 300}, "appearance": APPEARANCE},
            32_284_252 + 2101 * 7 + RESNET50 + 2049 * 7,
        ),
        ({"num_emotions": 7, "appearance": APPEARANCE}, RESNET50 + 2049 * 7),
    ],
}

# Options that no network can be made of, and all their problems.
BAD_OPTIONS = {
    "manet": (
        {"num_classes": 0, "embedding_dim": -1, "dropout": 1.0, "dtype": "float64", "depth": 34, "width": 4},
        [
            "num_classes is 0; it must be at least 1",
            "embedding_dim is -1; it must be at least 0",
            "dtype is 'float64'; choose one of float32, bfloat16",
            "dropout is 1.0; it must lie in 0..1, below 1",
            "depth is 34; choose one of 8, 14, 50, 101",
            "shift_div is 8: with width 4 no channel moves",
        ],
    ),
    "c3d": (
        {"num_classes": 0, "width": 0, "clip": ClipSpec(num_frames=15)},
        [
            "num_classes is 0; it must be at least 1",
            "width is 0; it must be at least 1",
            "clip.num_frames is 15; it must be at least 16",
        ],
    ),
    "i3d": (
        {"dropout": -1.0, "depth": 101, "width": 0, "clip": ClipSpec(num_frames=4)},
        [
            "dropout is -1.0; it must lie in 0..1, below 1",
            "depth is 101; choose one of 8, 14, 50",
            "width is 0; it must be at least 1",
            "clip.num_frames is 4; it must be at least 5",
        ],
    ),
    "slowfast": (
        {"depth": 101, "width": 12, "tau": 6, "alpha": 4, "lateral_kernel": 4, "clip": ClipSpec(num_frames=8)},
        [
            "depth is 101; choose one of 8, 14, 50",
            "width is 12; it must be a multiple of 8",
            "lateral_kernel is 4; it must be odd",
            "alpha is 4; it must divide tau, which is 6",
            "clip.num_frames is 8; it must be a multiple of tau, 6",
        ],
    ),
    "tin": (
        {"depth": 18, "width": 3, "shift_div": 0},
        [
            "depth is 18; choose one of 8, 14, 50, 101",
            "width is 3; it must be at least 4",
            "shift_div is 0; it must be at least 1",
        ],
    ),
    "gc_tsm": (
        {"width": 6, "shift_div": 7},
        ["shift_div is 7: with width 6 no channel moves", "width is 6; it must be a multiple of 4"],
    ),
    "timesformer": (
        {
            **{"num_classes": 0, "depth": 0, "width": 32, "num_heads": 5, "patch_size": 15, "drop_path": 1.0},
            **{"table_frames": 0, "table_size": 100, "clip": ClipSpec()},
        },
        [
            "num_classes is 0; it must be at least 1",
            "depth is 0; it must be at least 1",
            "table_frames is 0; it must be at least 1",
            "width is 32; it must be a multiple of num_heads, 5",
            "patch_size is 15; clip.crop_size, 224, must be a multiple of it",
            "patch_size is 15; table_size, 100, must be a multiple of it",
            "drop_path is 1.0; it must lie in 0..1, below 1",
        ],
    ),
    "videomae": (
        {
            **{"dropout": 1.0, "depth": 0, "width": 32, "num_heads": 5, "patch_size": 15, "tubelet_size": 3},
            **{"drop_path": -0.1, "clip": ClipSpec()},
        },
        [
            "dropout is 1.0; it must lie in 0..1, below 1",
            "depth is 0; it must be at least 1",
            "width is 32; it must be a multiple of num_heads, 5",
            "patch_size is 15; clip.crop_size, 224, must be a multiple of it",
            "tubelet_size is 3; clip.num_frames, 8, must be a multiple of it",
            "drop_path is -0.1; it must lie in 0..1, below 1",
        ],
    ),
    "uniformer": (
        {
            **{"num_classes": 0, "head_size": 0, "depths": (3, 4, 8), "widths": (8, 8, 0, 16)},
            **{"drop_path": 1.0, "clip": ClipSpec(crop_size=80)},
        },
        [
            "num_classes is 0; it must be at least 1",
            "head_size is 0; it must be at least 1",
            "depths is (3, 4, 8); give a number of at least 1 for each of the 4 stages",
            "widths is (8, 8, 0, 16); give a number of at least 1 for each of the 4 stages",
            "clip.crop_size is 80; it must be a multiple of 32",
            "drop_path is 1.0; it must lie in 0..1, below 1",
        ],
    ),
    "swin": (
        {
            **{"dropout": 1.0, "depth": 0, "width": 32, "num_heads": 5, "window_frames": 0, "window_size": 0},
            **{"patch_frames": 0, "drop_path": -0.1},
        },
        [
            "dropout is 1.0; it must lie in 0..1, below 1",
            "depth is 0; it must be at least 1",
            "window_frames is 0; it must be at least 1",
            "window_size is 0; it must be at least 1",
            "patch_frames is 0; it must be at least 1",
            "width is 32; it must be a multiple of num_heads, 5",
            "drop_path is -0.1; it must lie in 0..1, below 1",
        ],
    ),
    "emotion": (
        {"num_emotions": 1, "micro_action": None, "appearance": None},
        [
            "num_emotions is 1; it must be at least 2",
            "micro_action and appearance are both missing: give one or both",
        ],
    ),
}

# Modules that the files of a network hold and no computation uses.
UNUSED = {"gc_tsm": "gates.space.bn"}

# Parameters that training does not move: a BatchNorm takes away again what they add.
TAKEN_AWAY = {"uniformer": "stage4.blocks.0.mlp.fc2.bias"}

# Networks that drop out features before those that the heads see, too.
DROPS_INSIDE = ("c3d",)

networks = pytest.mark.parametrize("name", MODELS)
backbones = pytest.mark.parametrize("name", BACKBONES)
# For tests that compile: in every run one network of each kind: over frames, over clips, of tokens, of two networks.
compiled = slow_but("manet", "i3d", "timesformer", "emotion", networks=MODELS)


def change(spec, **changes):
    """The specification with changes to the options of all networks in it, as far as they have them."""
    options = spec.options
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    parts = {name: change(value, **changes) for name, value in values.items() if isinstance(value, ModelSpec)}
    own = {name: value for name, value in changes.items() if name in values}
    return ModelSpec(spec.name, dataclasses.replace(options, **parts, **own))


def tiny(name, **changes):
    """A small network: its specification, structure and random variables."""
    return _tiny(change(ModelSpec(name, MODELS[name].Options.tiny()), **changes))


@functools.cache
def _tiny(spec):
    return spec, abstract_variables(spec)[0], random_variables(spec)


def make_inputs(options, batch_size=BATCH_SIZE, seed=0):
    """A batch of random clips, each of a brightness of its own."""
    rng = np.random.default_rng(seed)
    brightness = np.linspace(256, 64, batch_size).reshape(-1, 1, 1, 1, 1)
    shapes = {
        key: (batch_size, clip.num_frames, clip.crop_size, clip.crop_size, 3) for key, clip in options.inputs.items()
    }
    return {key: jnp.asarray((brightness * rng.random(shape)).astype(np.uint8)) for key, shape in shapes.items()}


def make_keys(batch_size=BATCH_SIZE):
    return jax.random.split(jax.random.key(0), batch_size)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(graphdef, variables, inputs, keys):
    """The outputs of a network as it is made, without and with dropout, its class maps, and its statistics after it."""
    network = merge(graphdef, variables)
    maps = network.class_maps(inputs) if hasattr(network, "class_maps") else None
    return network(inputs), network(inputs, keys), maps, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))


@functools.cache
def evaluated(name):
    spec, graphdef, variables = tiny(name)
    return jax.device_get(evaluate(graphdef, variables, make_inputs(spec.options), make_keys()))


def is_used(name, path):
    """Whether a network's computations use a variable, by its path."""
    return name not in UNUSED or UNUSED[name] not in path


def run(graphdef, variables, inputs):
    return merge(graphdef, variables)(inputs)


def shapes(graphdef, variables, inputs):
    """The shapes of a network's outputs."""
    return jax.eval_shape(functools.partial(run, graphdef), variables, inputs)


def given(outputs):
    """Those of a network's outputs that it has, by name."""
    return {name: value for name, value in outputs._asdict().items() if value is not None}


def output_sizes(options):
    """The sizes of a network's outputs, features aside, by its options."""
    if isinstance(options, NetworkOptions):
        sizes = {"logits": options.num_classes, "embedding": options.embedding_dim}
    else:
        sizes = {**output_sizes(options.micro_action.options), "emotion": options.num_emotions}
    return {name: size for name, size in sizes.items() if size}


@networks
def test_options_are_frozen_values(name):
    options = MODELS[name].Options.tiny()
    assert isinstance(options, MODELS[name].Options)
    assert options == MODELS[name].Options.tiny()
    assert hash(options) == hash(MODELS[name].Options.tiny())
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.inputs = {}
    for field in dataclasses.fields(options):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(options, field.name, None)


@backbones
def test_layers_have_every_parameter_once(name):
    spec, _, variables = tiny(name)
    numbers = {layer_of(path.split("."), spec.options.layers) for path in flatten(variables["params"])}
    assert numbers == set(range(len(spec.options.layers)))
    assert "heads" in spec.options.layers[-1]


@networks
def test_options_come_back_from_json(name):
    for spec in (
        ModelSpec(name, MODELS[name].Options.tiny()),
        change(tiny(name)[0], embedding_dim=0, dtype="bfloat16"),
    ):
        assert models.spec_from_json(json.loads(json.dumps(spec.to_json()))) == spec


@networks
def test_bad_options_are_reported_at_once(name):
    bad, problems = BAD_OPTIONS[name]
    for make in (MODELS[name].Options, MODELS[name].Options.tiny):
        with pytest.raises(OptionError) as error:
            make(**bad)
        assert error.value.problems == problems
        assert str(error.value) == "; ".join(problems)


@networks
def test_inputs_are_those_that_the_options_name(name):
    spec, graphdef, variables = tiny(name)
    assert all(isinstance(clip, ClipSpec) for clip in spec.options.inputs.values())
    inputs = make_inputs(spec.options)
    for key in inputs:
        with pytest.raises(KeyError, match=key):
            shapes(graphdef, variables, {other: clips for other, clips in inputs.items() if other != key})


@networks
@pytest.mark.parametrize("embedding_dim", [0, 6])
def test_outputs_are_those_that_the_options_name(name, embedding_dim):
    spec, graphdef, variables = tiny(name, embedding_dim=embedding_dim)
    outputs = given(shapes(graphdef, variables, make_inputs(spec.options)))
    assert {value.dtype for value in outputs.values()} == {np.dtype("float32")}
    assert outputs.pop("features").ndim == 2
    assert tuple(outputs) == spec.options.outputs
    sizes = output_sizes(spec.options)
    assert {name: value.shape for name, value in outputs.items()} == {
        name: (BATCH_SIZE, size) for name, size in sizes.items()
    }


@compiled
def test_outputs_are_finite_and_of_each_clip(name):
    for value in given(evaluated(name)[0]).values():
        assert np.isfinite(value).all()
        assert np.abs(value - value[:1]).max(axis=1)[1:].min() > 1e-2


@networks
def test_another_number_of_frames_is_refused(name):
    # Twice the frames of a network that takes frames as a batch would become two clips.
    spec, graphdef, variables = tiny(name)
    inputs = make_inputs(spec.options)
    for key, clip in spec.options.inputs.items():
        for count in (clip.num_frames - 1, 2 * clip.num_frames):
            wrong = {**inputs, key: jnp.zeros((BATCH_SIZE, count, *inputs[key].shape[2:]), jnp.uint8)}
            with pytest.raises(ValueError, match=f"takes {clip.num_frames} frames a clip, but got {count}"):
                shapes(graphdef, variables, wrong)


@networks
def test_pixels_that_are_not_bytes_are_refused(name, unchecked):
    # Floats of 0..1 would pass for nearly black frames.
    spec, graphdef, variables = tiny(name)
    inputs = make_inputs(spec.options)
    for key in inputs:
        with pytest.raises(ValueError, match=r"the model takes uint8 pixels, 0\.\.255, but got float32"):
            shapes(graphdef, variables, {**inputs, key: inputs[key].astype(jnp.float32)})


@compiled
def test_evaluation_is_the_default_and_changes_nothing(name):
    _, _, variables = tiny(name)
    statistics = evaluated(name)[3]
    jax.tree.map(np.testing.assert_array_equal, statistics, variables["batch_stats"])


@compiled
def test_clips_of_a_batch_do_not_mix(name):
    # Neither in evaluation nor by dropout, whose keys are the clips' own: batches may be split over devices anyhow.
    spec, graphdef, variables = tiny(name)
    inputs, keys = make_inputs(spec.options), make_keys()
    parts = [
        evaluate(graphdef, variables, {key: clips[i : i + 1] for key, clips in inputs.items()}, keys[i : i + 1])[:2]
        for i in range(BATCH_SIZE)
    ]
    alone = jax.tree.map(lambda *each: np.concatenate(each), *jax.device_get(parts))
    for together, apart in zip(evaluated(name)[:2], alone, strict=True):
        assert together._fields == apart._fields
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), together, apart)


@compiled
def test_dropout_is_for_what_the_heads_see(name):
    plain, dropped = (given(outputs) for outputs in evaluated(name)[:2])
    assert plain.keys() == dropped.keys()
    for key, value in plain.items():
        if key == "features" and name not in DROPS_INSIDE:
            np.testing.assert_array_equal(dropped[key], value)
        else:
            assert np.abs(dropped[key] - value).max() > 0.1


def test_fresh_weights_have_the_keys_of_flax():
    def draw(create):
        rngs = create(3)
        return jnp.stack([jax.random.bits(key) for key in (rngs.params(), rngs.params(), rngs.other(), rngs())])

    expected = draw(nnx.Rngs)
    assert len(set(expected.tolist())) == 4
    np.testing.assert_array_equal(draw(CountedRngs), expected)
    np.testing.assert_array_equal(jax.jit(draw, static_argnums=0)(CountedRngs), expected)


@backbones
def test_heads_hold_all_that_belongs_to_a_task(name):
    spec, _, _ = tiny(name)
    network = nnx.eval_shape(lambda: models.create(spec, nnx.Rngs(0)))
    assert isinstance(network.heads, layers.Heads)
    of_others = change(spec, num_classes=spec.options.num_classes + 1, embedding_dim=0)
    ours, theirs = (
        {path: leaf.shape for path, leaf in flatten(abstract_variables(each)[1]).items()} for each in (spec, of_others)
    )
    differing = {path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path)}
    assert differing
    assert all(path.startswith("params.heads.") for path in differing)


@compiled
def test_class_maps_average_to_the_logits(name):
    _, graphdef, variables = tiny(name)
    outputs, _, maps, _ = evaluated(name)
    if maps is None:
        assert not hasattr(merge(graphdef, variables), "class_maps")
        return
    assert maps.dtype == np.float32
    assert maps.shape[0] == BATCH_SIZE
    assert maps.shape[-1] == outputs.logits.shape[-1]
    np.testing.assert_allclose(maps.mean((1, 2, 3)), outputs.logits, rtol=1e-4, atol=1e-4)


@functools.partial(jax.jit, static_argnums=0)
def train(graphdef, variables, inputs, keys):
    """A network's outputs and statistics in training, and its outputs in evaluation right after."""
    network = merge(graphdef, variables)
    training = nnx.view(network, train=True, axis_name=None, raise_if_not_found=False)
    outputs = training(inputs, keys)
    return outputs, nnx.to_pure_dict(nnx.state(training, nnx.BatchStat)), network(inputs)


@compiled
def test_training_is_a_view_that_leaves_the_mode(name):
    spec, graphdef, variables = tiny(name)
    inputs, keys = make_inputs(spec.options), make_keys()
    outputs, statistics, after = jax.device_get(train(graphdef, variables, inputs, keys))
    changed = jax.tree.map(lambda old, new: np.abs(old - new).max() > 1e-3, variables["batch_stats"], statistics)
    assert all(value == is_used(name, path) for path, value in flatten(changed).items())
    if changed:
        dropped = evaluated(name)[1]
        assert all(np.abs(value - getattr(dropped, key)).max() > 1e-2 for key, value in given(outputs).items())
    # The view shares its variables with the network that it is a view of, which still evaluates.
    again = evaluate(graphdef, {**variables, "batch_stats": statistics}, inputs, keys)[0]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), after, again)


@slow_but("manet", "timesformer")
def test_remat_keeps_less_and_changes_no_gradient(name):
    def step(remat):
        spec, graphdef, variables = tiny(name, remat=remat)
        inputs, keys = make_inputs(spec.options), make_keys()

        def loss(params):
            network = merge(graphdef, {**variables, "params": params})
            training = nnx.view(network, train=True, axis_name=None, raise_if_not_found=False)
            outputs = training(inputs, keys)
            statistics = nnx.to_pure_dict(nnx.state(training, nnx.BatchStat))
            return jnp.square(outputs.logits).sum() + jnp.square(outputs.embedding).sum(), statistics

        kept = jax.eval_shape(lambda params: jax.vjp(loss, params, has_aux=True)[1], variables["params"])
        differentiate = jax.jit(jax.value_and_grad(loss, has_aux=True))
        return differentiate(variables["params"]), sum(leaf.size for leaf in jax.tree.leaves(kept))

    (plain, kept), (recomputed, kept_less) = step(remat=False), step(remat=True)
    assert max(np.abs(gradient).max() for gradient in jax.tree.leaves(plain[1])) > 1
    for path, gradient in flatten(plain[1]).items():
        learns = is_used(name, path) and path != TAKEN_AWAY.get(name)
        assert (np.abs(gradient).max() > 1e-3) == learns, path
    ours, reference = (
        [*jax.tree.leaves(values), *(x for path, x in flatten(grads).items() if path != TAKEN_AWAY.get(name))]
        for values, grads in (recomputed, plain)
    )
    for one, other in zip(ours, reference, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 + 1e-4 * np.abs(other).max())
    assert kept_less < kept / 2


@networks
def test_networks_can_be_exported_for_any_number_of_clips(name):
    spec, graphdef, variables = tiny(name)
    (size,) = jax.export.symbolic_shape("b")
    clips = {key: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for key, x in make_inputs(spec.options).items()}
    with ops.traced_for(None):
        exported = jax.export.export(jax.jit(lambda inputs: run(graphdef, variables, inputs)), platforms=PLATFORMS)(
            clips
        )
    assert {str(leaf.shape[0]) for leaf in exported.out_avals} == {"b"}


@compiled
def test_bfloat16_computes_with_float32_parameters(name):
    spec, graphdef, variables = tiny(name, dtype="bfloat16")
    _, abstract = abstract_variables(spec)
    assert {leaf.dtype for leaf in jax.tree.leaves(abstract)} == {jnp.dtype("float32")}
    inputs = make_inputs(spec.options)
    _, dropped, maps, _ = evaluate.eval_shape(graphdef, variables, inputs, make_keys())
    assert {value.dtype for value in (*given(dropped).values(), *jax.tree.leaves(maps))} == {jnp.dtype("float32")}
    outputs = jax.jit(functools.partial(run, graphdef))(variables, inputs)
    for key, value in given(outputs).items():
        assert value.dtype == jnp.float32
        reference = getattr(evaluated(name)[0], key)
        np.testing.assert_allclose(value, reference, atol=0.05 * np.abs(reference).max())


def test_every_network_has_a_pinned_size():
    assert COUNTS.keys() == BAD_OPTIONS.keys() == MODELS.keys()
    assert all(COUNTS.values())


@pytest.mark.parametrize(
    ("name", "options", "expected"), [(name, *each) for name, some in COUNTS.items() for each in some]
)
def test_parameter_counts(name, options, expected):
    parts = {key: ModelSpec("manet", MODELS["manet"].Options(**x)) for key, x in options.items() if isinstance(x, dict)}
    _, variables = abstract_variables(ModelSpec(name, MODELS[name].Options(**{**options, **parts})))
    assert count_parameters(variables["params"]) == expected


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        (
            {"num_frames": 0, "crop_size": 31},
            ["num_frames is 0; it must be at least 1", "crop_size is 31; it must be at least 32"],
        ),
        ({"num_frames": 5, "subset_of": 4}, ["num_frames is 5, more than the video's 4: lower it"]),
        (
            {"box": (0.5, 0.0, 0.5, 1.0)},
            ["box is (0.5, 0.0, 0.5, 1.0); give the top, left, bottom and right edge as shares of the frame, 0..1"],
        ),
        ({"short_side": 200}, ["crop_size is 224, more than short_side 200: lower it"]),
        ({"crop_scales": (1.0, 0.0)}, ["crop_scales is (1.0, 0.0); each must be a number in 0..1, above 0"]),
        (
            {"mean": (1.0, 2.0), "std": (1.0, 1.0, 0.0)},
            [
                "mean is (1.0, 2.0); give a number for each of red, green and blue, 0..255",
                "std is (1.0, 1.0, 0.0); give a number for each of red, green and blue, 0..255",
            ],
        ),
    ],
)
def test_clip_spec_reports_all_that_is_wrong(changes, problems, unchecked):
    with pytest.raises(OptionError) as error:
        ClipSpec(**changes)
    assert error.value.problems == problems


# Layers, and what MANet is beyond the contract.


def test_squeeze_excite_by_hand():
    se = layers.SqueezeExcite(4, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    se.squeeze.kernel[...] = jnp.array([[1.0], [0.0], [-1.0], [0.0]])
    se.excite.kernel[...] = jnp.array([[0.0, 1.0, -1.0, 2.0]])
    x = np.zeros((2, 1, 2, 4), np.float32)
    x[0, 0, :, 0] = [2, 4]  # mean 3, gates sigmoid([0, 3, -3, 6])
    x[1, 0, :, 2] = [2, 4]  # squeezed to -3, cut to 0: all gates 1/2
    x[..., 1] = 1
    gates = 1 / (1 + np.exp(-np.array([[0, 3, -3, 6], [0, 0, 0, 0]])))
    np.testing.assert_allclose(se(jnp.array(x)), x * gates[:, None, None, :], rtol=1e-6)


def test_batch_norm_has_pytorchs_statistics():
    bn = layers.BatchNorm(3)
    bn.scale[...], bn.bias[...] = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 1.0, 2.0])
    x = np.random.default_rng(0).normal(2, 3, (4, 2, 5, 3)).astype(np.float32)
    flat = x.reshape(-1, 3)
    y = nnx.view(bn, train=True, axis_name=None)(jnp.array(x))
    normal = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(y, normal * [1, 2, 3] + [0, 1, 2], atol=1e-5)
    np.testing.assert_allclose(bn.mean[...], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(bn.var[...], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)  # unbiased

    mean, var = np.array(bn.mean[...]), np.array(bn.var[...])
    y = bn(jnp.array(x))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5) * [1, 2, 3] + [0, 1, 2], atol=1e-5)
    np.testing.assert_array_equal(bn.mean[...], mean)


@slow_but("manet", networks=["manet", "tin", "gc_tsm"])
def test_networks_train_alike_on_a_tpu(name):
    # It has forms of its own: of the order of frames, the shift, the pooling, BatchNorm's statistics.
    spec, graphdef, variables = tiny(name)
    inputs, keys = make_inputs(spec.options), make_keys()

    def differentiate():
        def loss(params):
            training = nnx.view(merge(graphdef, {**variables, "params": params}), train=True)
            outputs = training(inputs, keys)
            statistics = nnx.to_pure_dict(nnx.state(training, nnx.BatchStat))
            return jnp.square(outputs.logits).sum() + jnp.square(outputs.embedding).sum(), (outputs, statistics)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    on_cpu = differentiate()
    with ops.traced_for("tpu"):
        on_tpu = differentiate()
    for ours, reference in zip(*map(jax.tree.leaves, (on_tpu, on_cpu)), strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-3 * np.abs(reference).max())


@pytest.mark.parametrize("features", [6, 3])
def test_conv_bn_has_the_outputs_statistics_on_a_tpu(features):
    # With more outputs than inputs they are computed from the inputs.
    layer = layers.ConvBN(4, features, 1, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(2, 3, (4, 2, 5, 4)).astype(np.float32)
    product = x.reshape(-1, 4) @ np.asarray(layer.conv.kernel[...])
    with ops.traced_for("tpu"):
        y = nnx.view(layer, train=True, axis_name=None)(jnp.array(x))
    normal = (product - product.mean(0)) / np.sqrt(product.var(0) + 1e-5)
    np.testing.assert_allclose(y.reshape(-1, features), normal, atol=1e-4)
    np.testing.assert_allclose(layer.bn.mean[...], 0.1 * product.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(layer.bn.var[...], 0.9 + 0.1 * product.var(0, ddof=1), rtol=1e-4)


def test_conv_bn_pads_as_pytorch_does():
    # A 3x3 convolution of ones with stride 2 on a 4x4 image of ones: padding 1 on every side, not "SAME".
    conv = layers.ConvBN(1, 1, 3, 2, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    conv.conv.kernel[...] = jnp.ones((3, 3, 1, 1))
    y = conv.conv(jnp.ones((1, 4, 4, 1)))[0, :, :, 0]
    np.testing.assert_array_equal(y, [[4, 6], [6, 9]])


def test_dropout_has_a_key_for_each_clip():
    x = jnp.ones((3, 4, 1000))
    keys = jax.random.split(jax.random.key(0), 3)
    dropped = np.asarray(layers.dropout(x, keys, 0.25))
    assert set(np.unique(dropped).tolist()) == {0.0, np.float32(1 / 0.75)}
    assert 0.2 < (dropped == 0).mean() < 0.3
    np.testing.assert_array_equal(layers.dropout(x[1:], keys[1:], 0.25), dropped[1:])
    assert (dropped[0] != dropped[1]).any()
    assert (dropped[0, 0] != dropped[0, 1]).any()  # frames have masks of their own


def test_dropout_of_no_share_draws_nothing():
    x = jnp.ones((2, 3, 4))
    assert layers.dropout(x, jax.random.split(jax.random.key(0), 2), 0.0) is x


def test_heads_share_one_mask_of_dropout():
    options = MODELS["manet"].Options.tiny(num_classes=6, embedding_dim=6, dropout=0.25)

    def apply(pooled, keys):
        # The classifier returns what it sees, the joint embedding its hyperbolic tangent.
        heads = layers.Heads(6, options, rngs=nnx.Rngs(0))
        for linear in (heads.classifier.linear, heads.joint_embedding.hidden, heads.joint_embedding.out):
            linear.kernel[...], linear.bias[...] = jnp.eye(6), jnp.zeros(6)
        return heads(pooled, keys)

    pooled = jnp.ones((2, 1, 6))
    outputs = jax.jit(apply)(pooled, make_keys(2))
    assert 0 < (outputs.logits == 0).sum() < 12
    np.testing.assert_allclose(outputs.embedding, np.tanh(outputs.logits), rtol=1e-6)
    np.testing.assert_array_equal(outputs.features, pooled[:, 0])


def test_bottleneck_shortcut_gets_the_raw_input():
    def apply(x):
        block = manet.MANetBlock(16, 4, 1, MODELS["manet"].Options.tiny(), rngs=nnx.Rngs(0))
        assert block.shortcut is None
        block.conv3.bn.scale[...] = jnp.zeros(16)  # silences the residual branch
        return block(x)

    x = np.random.default_rng(0).normal(size=(4, 3, 3, 16)).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(apply)(x), np.maximum(x, 0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_manet_returns_maps_of_a_32nd_of_the_size(dtype):
    spec, graphdef, variables = tiny("manet", dtype=dtype, depth=14)
    video = make_inputs(spec.options)["video"]
    found = jax.eval_shape(lambda variables, video: merge(graphdef, variables).features(video), variables, video)
    assert found.shape == (BATCH_SIZE, 4, 1, 1, 256)
    assert found.dtype == jnp.dtype(dtype)


@pytest.mark.parametrize("shift", [True, False])
def test_manet_sees_the_order_of_frames_by_the_shift_alone(shift):
    spec, graphdef, variables = tiny("manet", shift=shift)
    inputs = make_inputs(spec.options)
    backward = {"video": inputs["video"][:, ::-1]}
    first, second = (evaluate(graphdef, variables, each, make_keys())[0].logits for each in (inputs, backward))
    assert np.allclose(first, second, atol=1e-4) == (not shift)


def test_manets_fresh_heads_are_small_and_blocks_he_initialised():
    spec, _, _ = tiny("manet", depth=14)
    variables = create_variables(spec, seed=0)
    described = jax.tree.map(lambda x: (x.shape, x.dtype), (variables, abstract_variables(spec)[1]))
    assert described[0] == described[1]
    params = flatten(variables["params"])
    for name in ("classifier.linear", "joint_embedding.hidden", "joint_embedding.out"):
        assert not np.any(params[f"heads.{name}.bias"])
    assert np.std(params["heads.classifier.linear.kernel"]) == pytest.approx(0.001, rel=0.1)
    kernel = params["blocks.3.conv2.conv.kernel"]  # 3 x 3 x in x out, fan out 9 * out
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * kernel.shape[-1])), rel=0.05)
