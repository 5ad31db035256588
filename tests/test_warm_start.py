import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import random_variables, read_checkpoint, save_checkpoint, tiny_manet
from helpers import shrink

import manet_jax
from configs import ma52
from manet_jax import evaluate, train
from manet_jax.models import MODELS, ModelSpec
from manet_jax.models.variables import flatten
from manet_jax.warm_start import Source, warm_start
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52


@pytest.fixture
def small_config(folder):
    """A run of two steps, each followed by an evaluation."""
    config = shrink(ma52.get_config(), folder)
    config.num_epochs, config.eval.every_epochs = 1.3, 0.6
    config.schedule.decay_epochs = ()
    return config


def test_run_starts_from_all_but_a_head_of_another_size(tmp_path, small_config, monkeypatch):
    # The data have 3 classes, their vectors 50 dimensions.
    theirs = flatten(save_checkpoint(tmp_path / "source", tiny_manet(embedding_dim=50)))
    small_config.init_from = str(tmp_path / "source")
    small_config.optimizer.learning_rate = 0.0
    real, calls = evaluate.compute_metrics, itertools.count()

    def stop_at_the_second(*arguments):
        if next(calls):
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "compute_metrics", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(small_config, tmp_path / "run")
    ours, metadata = read_checkpoint(tmp_path / "run")
    assert metadata.step == 1
    for path, value in ours.items():
        if path.startswith("params."):
            taken = not path.startswith("params.heads.classifier.")
            assert (value.shape == theirs[path].shape and bool((value == theirs[path]).all())) == taken, path
    (origin,) = metadata.initialized_from
    assert origin == {
        "part": "",
        "workdir": str(tmp_path / "source"),
        "step": 7,
        "source": None,
        "fresh": ["heads.classifier.linear"],
        "unused": ["heads.classifier.linear"],
    }
    # It resumes without the folder that it started from, and still reports where it came from.
    (tmp_path / "source").rename(tmp_path / "gone")
    train.train_and_evaluate(small_config, tmp_path / "run")
    resumed = manet_jax.load_model(tmp_path / "run", "latest").metadata
    assert resumed.step == 2
    assert resumed.initialized_from == metadata.initialized_from


def test_warm_start_leaves_what_the_checkpoint_has_fresh(tmp_path):
    fresh = ("params.heads.classifier.linear.bias", "params.blocks.1.se.excite.kernel")
    theirs = flatten(save_checkpoint(tmp_path / "imagenet", fresh=fresh))
    ours = random_variables(tiny_manet(), seed=1)
    result, origin = warm_start(ours, Source("init_from", str(tmp_path / "imagenet")), MA52)
    for path, value in flatten(result).items():
        np.testing.assert_array_equal(value, (flatten(ours) if path in fresh else theirs)[path])
    assert origin.fresh == ["blocks.se.excite", "heads.classifier.linear"]
    assert origin.unused == []


def test_warm_start_leaves_the_classifier_of_other_classes(tmp_path):
    # Even if their number is the same.
    theirs = flatten(save_checkpoint(tmp_path / "source"))
    source = Source("init_from", str(tmp_path / "source"))
    ours = random_variables(tiny_manet(), seed=1)
    others = dataclasses.replace(MA52, names=MA52.names[::-1])
    result, origin = warm_start(ours, source, others)
    for path, value in flatten(result).items():
        mine = path.startswith("params.heads.classifier.")
        np.testing.assert_array_equal(value, flatten(ours)[path] if mine else theirs[path])
    assert origin.fresh == origin.unused == ["heads.classifier.linear"]
    # Downloads of MA-52 spell a few names differently.
    spelt = dataclasses.replace(MA52, names=("Shaking  body", *MA52.names[1:]))
    _, origin = warm_start(ours, source, spelt)
    assert origin.fresh == []


@pytest.mark.parametrize(
    ("name", "fresh"),
    [
        ("tin", ["interlace.offset_net.conv", "interlace.offset_net.fc1", "interlace.offset_net.fc2"]),
        ("gc_tsm", [f"gates.{gate}.{part}" for gate in ("clip", "local", "space", "time") for part in ("bn", "conv")]),
    ],
)
def test_warm_start_of_tin_and_gc_tsm_from_manet_takes_the_backbone(tmp_path, name, fresh):
    # Also from a torchvision ResNet, which becomes a MANet whose gates and heads are fresh.
    not_theirs = ("params.heads.classifier.linear.kernel", "params.blocks.0.se.squeeze.kernel")
    theirs = flatten(save_checkpoint(tmp_path / "source", tiny_manet(width=16), fresh=not_theirs))
    spec = ModelSpec(name, MODELS[name].Options.tiny(num_classes=52, embedding_dim=6, width=16))
    ours = random_variables(spec, seed=1)
    result, origin = warm_start(ours, Source("init_from", str(tmp_path / "source")), MA52)
    more = ["interlace.weight_net"] if name == "tin" else []
    assert origin.fresh == [*(f"blocks.{module}" for module in [*fresh, *more]), "heads.classifier.linear"]
    assert origin.unused == ["blocks.se.excite", "blocks.se.squeeze"]
    for path, value in flatten(result).items():
        known = path in theirs and path not in not_theirs
        np.testing.assert_array_equal(value, (theirs if known else flatten(ours))[path])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A checkpoint of a small network."""
    workdir = tmp_path_factory.mktemp("source")
    save_checkpoint(workdir)
    return workdir


@pytest.mark.parametrize(
    ("changes", "fresh", "listed"),
    [
        ({}, (), ""),
        ({"short_side": 48}, (), ""),
        ({"std": (1.0, 1.0, 1.0)}, (), "std (58.395, 57.12, 57.375), here (1.0, 1.0, 1.0)"),
        (
            {"mean": (9.0, 9.0, 9.0), "num_frames": 2, "sampling": "dense", "frame_interval": 3},
            (),
            "mean (123.675, 116.28, 103.53), here (9.0, 9.0, 9.0); num_frames 4, here 2; sampling segments, here "
            "dense; frame_interval 1, here 3",
        ),
        ({"num_frames": 2}, ("params.heads.classifier.linear.kernel",), ""),  # of an image network
    ],
)
def test_warm_start_warns_of_other_clips(tmp_path, caplog, changes, fresh, listed):
    save_checkpoint(tmp_path / "source", fresh=fresh)
    model = tiny_manet()
    clip = dataclasses.replace(model.options.clip, **changes)
    ours = dataclasses.replace(model, options=dataclasses.replace(model.options, clip=clip))
    source = Source("init_from", str(tmp_path / "source"))
    warm_start(random_variables(model, seed=1), source, MA52, model=ours)
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    messages = [text for text in messages if "never trained" not in text]
    message = (
        f"config.init_from: the weights in {tmp_path}/source were trained on other clips than this run's ({listed}); "
        "set config.clip to theirs, unless the difference is meant"
    )
    assert messages == ([message] if listed else [])


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        # Blocks that only one of them has are no difference of sizes.
        (
            {"depth": 50},
            "batch_stats.blocks.1.conv1.bn.mean [16], here [8]; batch_stats.blocks.1.conv1.bn.var [16], here [8]; "
            "batch_stats.blocks.1.conv2.bn.mean [16], here [8] and 12 more",
        ),
        (
            {"width": 16},
            "batch_stats.blocks.0.conv1.bn.mean [8], here [16]; batch_stats.blocks.0.conv1.bn.var [8], here [16]; "
            "batch_stats.blocks.0.conv2.bn.mean [8], here [16] and 46 more",
        ),
    ],
)
def test_warm_start_refuses_a_network_of_another_size(source, changes, differing):
    with pytest.raises(UserError) as error:
        warm_start(random_variables(tiny_manet(**changes)), Source("init_from", str(source)), MA52)
    assert str(error.value) == (
        f"config.init_from: the checkpoint in {source} has a network of another size ({differing}); set config.model "
        "to the options of its manet: {'num_classes': 52, 'embedding_dim': 6, 'num_groups': 0, 'dropout': 0.5, "
        "'dtype': 'float32', 'remat': False, 'depth': 8, 'width': 8, 'shift': True, 'shift_div': 8, 'se': True}"
    )


def test_warm_start_refuses_a_network_of_other_parts(source):
    variables = {"params": {"encoder": {"kernel": jnp.zeros((2, 2))}}, "batch_stats": {}}
    with pytest.raises(
        UserError,
        match=r"^config\.emotion\.appearance_from: the checkpoint in .* is of another network, 'manet', and has other "
        r"parts \(blocks\.conv1\.bn, .*, stem\.conv\) than the model that is to be trained$",
    ):
        warm_start(variables, Source("emotion.appearance_from", str(source)), MA52)


def test_run_checks_its_start_before_its_data(tmp_path, small_config):
    small_config.init_from = str(tmp_path / "none")
    small_config.data.manual_dir = str(tmp_path / "no data")
    with pytest.raises(UserError) as error:
        train.train_and_evaluate(small_config, tmp_path / "run")
    assert str(error.value) == (
        f"config.init_from: {tmp_path}/none/checkpoints/best holds no checkpoint: give the workdir of a training run, "
        "or of weights that python -m manet_jax.pretrained converted"
    )
    (tmp_path / "resnet.pth").write_bytes(b"")
    small_config.init_from = str(tmp_path / "resnet.pth")
    with pytest.raises(UserError) as error:
        train.train_and_evaluate(small_config, tmp_path / "run")
    assert str(error.value) == (
        f"config.init_from: {tmp_path}/resnet.pth is a file; convert it with python -m manet_jax.pretrained "
        f"{tmp_path}/resnet.pth DIR and give DIR"
    )
