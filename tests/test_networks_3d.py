"""C3D, I3D and SlowFast beyond the contract of a network: their clips, their start from images, their files."""

import dataclasses
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import random_variables, save_checkpoint
from flax import nnx

from configs.models import slowfast as slowfast_config
from manet_jax import configuration, pretrained
from manet_jax.models import MODELS, ClipSpec, ModelSpec
from manet_jax.models.resnet3d import inflate
from manet_jax.models.variables import abstract_variables, flatten, merge, replace
from manet_jax.pretrained.table import recognise, tensors_of, to_variables
from manet_jax.report import examples
from manet_jax.warm_start import Source, warm_start
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52

IMAGES = ModelSpec("manet", MODELS["manet"].Options.tiny(depth=14, se=False, shift=False))  # TSN


def tiny(name, **options):
    return ModelSpec(name, MODELS[name].Options.tiny(**options))


def long_clip(num_frames):
    return ClipSpec(num_frames=num_frames, short_side=40, crop_size=32)


def features(spec, variables, video):
    graphdef, _ = abstract_variables(spec)
    return jax.jit(lambda variables, video: merge(graphdef, variables).features(video))(variables, video)


def test_inflate_by_hand():
    images = {
        "params.stem.conv.kernel": jnp.array([[[[6.0, 3.0]]]]),  # 1 x 1 of 1 to 2 channels
        "params.blocks.0.conv1.conv.kernel": jnp.array([[3.0], [9.0]]),  # a matrix of 2 to 1 channels
        "params.stem.bn.scale": jnp.array([1.0, 2.0]),
        "params.heads.classifier.linear.bias": jnp.array([5.0]),
        "params.blocks.0.se.squeeze.kernel": jnp.array([[7.0]]),
    }
    clips = {
        "params.slow.stem.conv.kernel": jnp.zeros((1, 1, 1, 1, 2)),
        "params.slow.blocks.0.conv1.conv.kernel": jnp.zeros((3, 1, 1, 3, 1)),  # one channel more, of the fast path
        "params.slow.stem.bn.scale": jnp.zeros(2),
        "params.fast.stem.bn.scale": jnp.zeros(1),
        "params.heads.classifier.linear.bias": jnp.zeros(1),
    }
    expected = {
        "params.slow.stem.conv.kernel": [[[[[6.0, 3.0]]]]],
        "params.slow.blocks.0.conv1.conv.kernel": [[[[[1.0], [3.0], [0.0]]]]] * 3,
        "params.slow.stem.bn.scale": [1.0, 2.0],
        "params.heads.classifier.linear.bias": [5.0],
        "params.blocks.0.se.squeeze.kernel": [[7.0]],  # without a place
    }
    assert {path: value.tolist() for path, value in inflate(images, clips).items()} == expected
    assert inflate(clips, clips) == clips


@pytest.mark.parametrize(
    ("spec", "interior"),
    [
        # 64 frames become 8; zeros beyond the clip's ends reach three of them at each end.
        (tiny("i3d", depth=14, clip=long_clip(64)), slice(3, 5)),
        (tiny("slowfast", depth=14, width=8, clip=long_clip(32)), slice(2, 6)),
    ],
    ids=["i3d", "slowfast"],
)
def test_inflated_network_sees_a_still_clip_as_an_image(spec, interior, tmp_path):
    save_checkpoint(tmp_path / "images", IMAGES)
    fresh = random_variables(spec, seed=1)
    variables, origin = warm_start(fresh, Source("init_from", str(tmp_path / "images")), MA52)
    heads = {"heads.classifier.linear", "heads.joint_embedding.hidden", "heads.joint_embedding.out"}
    rest = {name for name in origin.fresh if name.split(".")[0] not in ("fast", "laterals")}
    assert rest <= heads
    assert set(origin.unused) <= heads
    frame = np.random.default_rng(0).integers(0, 256, (2, 1, 32, 32, 3), np.uint8)
    still = np.repeat(frame, spec.options.clip.num_frames, axis=1)
    images = features(IMAGES, random_variables(IMAGES), np.repeat(frame, 4, axis=1))
    clips = features(spec, variables, still)[:, interior, ..., -images.shape[-1] :]
    assert np.abs(images).max() > 0.1
    np.testing.assert_allclose(clips, np.repeat(images[:, :1], clips.shape[1], axis=1), rtol=1e-4, atol=1e-5)


def test_inflated_network_needs_images_of_its_size(tmp_path):
    save_checkpoint(tmp_path / "images", IMAGES)
    source = Source("init_from", str(tmp_path / "images"))
    with pytest.raises(UserError, match=r"a network of another size \(batch_stats\.blocks\.0\.conv1\.bn\.mean \[8\], "):
        warm_start(random_variables(tiny("i3d", depth=14, width=16)), source, MA52)
    with pytest.raises(UserError, match=r"is of another network, 'manet', and has other parts"):
        warm_start(random_variables(tiny("c3d")), source, MA52)


def test_i3d_keeps_an_eighth_of_the_frames():
    spec = tiny("i3d", clip=long_clip(32))
    video = np.zeros((1, 32, 32, 32, 3), np.uint8)
    assert features(spec, random_variables(spec), video).shape == (1, 4, 4, 4, 64)


def test_slowfast_paths_take_frames_at_their_rates():
    # 16 frames: the slow path has every eighth, the fast path, four times as many, every second.
    spec = tiny("slowfast", tau=8, alpha=4, clip=long_clip(16))
    variables = random_variables(spec)
    video = np.random.default_rng(0).integers(0, 256, (1, 16, 32, 32, 3), np.uint8)

    def of_paths(video):
        fast, slow = np.split(np.asarray(features(spec, variables, video)), [16], axis=-1)
        return fast, slow

    (fast, slow), changed = of_paths(video), video.copy()
    assert slow.shape == (1, 2, 4, 4, 128)
    changed[:, 1::2] = 0
    np.testing.assert_array_equal(of_paths(changed)[0], fast)
    np.testing.assert_array_equal(of_paths(changed)[1], slow)
    # The slow path has other frames through the lateral connections alone.
    changed[:, 2] = 0
    assert np.abs(of_paths(changed)[0] - fast).max() > 1e-2
    assert np.abs(of_paths(changed)[1] - slow).max() > 1e-4
    laterals = {path: 0 * value for path, value in flatten(variables).items() if ".laterals." in path}
    assert len(laterals) == 2
    variables = replace(variables, laterals)
    slow = of_paths(video)[1]
    np.testing.assert_array_equal(of_paths(changed)[1], slow)
    changed[:, 8] = 0
    assert np.abs(of_paths(changed)[1] - slow).max() > 1e-2


def test_c3d_flattens_channels_first_and_drops_out_twice():
    # Two frames of 2 x 2 locations remain.
    spec = tiny("c3d", clip=dataclasses.replace(MODELS["c3d"].Options.tiny().clip, num_frames=32))
    graphdef, _ = abstract_variables(spec)
    variables = random_variables(spec)
    video = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 32, 3), np.uint8))
    keys = jax.random.split(jax.random.key(0), 2)

    @jax.jit
    def apply(variables):
        network = merge(graphdef, variables)
        maps, outputs, dropped = network.features(video), network({"video": video}), network({"video": video}, keys)
        flat = jnp.moveaxis(maps, -1, 1).reshape(2, -1)
        return maps, nnx.relu(network.fc7(nnx.relu(network.fc6(flat)))), outputs, dropped

    maps, expected, outputs, dropped = apply(variables)
    assert maps.shape == (2, 2, 2, 2, 32)
    np.testing.assert_allclose(outputs.features, expected, rtol=1e-5)
    assert np.abs(dropped.features - outputs.features).max() > 1e-2  # that of fc6
    assert np.abs(dropped.logits - outputs.logits).max() > 1e-2


@pytest.mark.parametrize(
    ("name", "num_frames", "problem"),
    [("c3d", 8, "it must be at least 16"), ("slowfast", 30, "it must be a multiple of tau, 8")],
)
def test_config_names_the_clip_that_a_network_does_not_fit(name, num_frames, problem):
    config = importlib.import_module(f"configs.models.{name}").get_config()
    config.clip.num_frames = num_frames
    with pytest.raises(UserError, match=rf"config\.clip\.num_frames is {num_frames}; {problem}$"):
        configuration.parse(config)


def test_slowfast_config_has_variants():
    options = {variant: configuration.parse(slowfast_config.get_config(variant)) for variant in ("4x16", "8x8")}
    specs = {variant: config.network.spec(52).options for variant, config in options.items()}
    assert specs["4x16"] == MODELS["slowfast"].Options(clip=specs["4x16"].clip)
    assert specs["8x8"] == MODELS["slowfast"].Options(tau=4, alpha=4, lateral_kernel=7, clip=specs["8x8"].clip)
    with pytest.raises(ValueError, match=r"has no variant '8x16'; name one of 4x16, 8x8 after a colon"):
        slowfast_config.get_config("8x16")


# Weights.


def shapes_of(spec, table):
    return {tensor.name: tensor.shape for tensor in tensors_of(spec, table) if tensor.name is not None}


def zeros(shapes):
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def test_files_of_kinetics_name_i3d_and_not_tsn():
    state = zeros(shapes_of(ModelSpec("i3d", MODELS["i3d"].Options(num_classes=400)), pretrained.i3d.TABLE))
    assert state["backbone.layer2.1.conv1.conv.weight"].shape == (128, 512, 1, 1, 1)  # not inflated
    assert state["backbone.layer2.2.conv1.conv.weight"].shape == (128, 512, 3, 1, 1)
    table = recognise(state, pretrained.TABLES, "the file")
    assert table is pretrained.i3d.TABLE
    assert table.options_from(state) == MODELS["i3d"].Options(num_classes=400)
    images = {name: value[:, :, 0] if value.ndim == 5 else value for name, value in state.items()}
    assert recognise(images, pretrained.TABLES, "the file") is not table


@pytest.mark.parametrize(
    ("kernel", "options"), [(5, {"tau": 8, "alpha": 8}), (7, {"tau": 4, "alpha": 4, "lateral_kernel": 7})]
)
def test_slowfasts_lateral_kernel_gives_its_rates(kernel, options):
    spec = ModelSpec("slowfast", MODELS["slowfast"].Options(**options))
    state = zeros(shapes_of(spec, pretrained.slowfast.TABLE))
    assert state["backbone.slow_path.layer3_lateral.conv.weight"].shape == (256, 128, kernel, 1, 1)
    assert pretrained.slowfast.TABLE.options_from(state) == spec.options


def test_slowfast_with_batch_norm_in_its_laterals_is_refused():
    spec, table = ModelSpec("slowfast", MODELS["slowfast"].Options()), pretrained.slowfast.TABLE
    state = zeros(shapes_of(spec, table)) | zeros({"backbone.slow_path.conv1_lateral.bn.weight": (16,)})
    with pytest.raises(UserError, match=r"unknown: backbone\.slow_path\.conv1_lateral\.bn\.weight \[16\]$"):
        to_variables(state, spec, table, "the file is not quite mmaction2's SlowFast")


def test_sports_1m_has_c3d_without_prefix_and_classes():
    spec = ModelSpec("c3d", MODELS["c3d"].Options())
    whole = shapes_of(spec, pretrained.c3d.TABLE)
    state = zeros({re.sub(r"^backbone\.", "", name): x for name, x in whole.items() if "cls_head" not in name})
    table = recognise(state, pretrained.TABLES, "the file")
    assert table is pretrained.c3d.SPORTS_1M
    assert shapes_of(spec, table) == {name: value.shape for name, value in state.items()}
    assert table.options_from(state) == spec.options
    assert recognise(zeros(whole), pretrained.TABLES, "the file") is pretrained.c3d.TABLE


# The report.


def test_report_shows_the_frame_in_the_middle_of_a_map():
    clip = {"video": np.arange(32, dtype=np.uint8).reshape(32, 1, 1, 1) * np.ones((1, 2, 2, 3), np.uint8)}
    assert examples.frames_at(clip, 4)[:, 0, 0, 0].tolist() == [4, 12, 20, 28]
    assert examples.frames_at(clip, 32)[:, 0, 0, 0].tolist() == list(range(32))
