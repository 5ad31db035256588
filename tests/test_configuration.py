import importlib
import json
import math
import re

import numpy as np
import pytest
from conftest import ROOT

from configs import ma52, ma52_pro
from manet_jax import configuration, nets
from tfds_ma52 import labels
from tfds_ma52.errors import UserError

CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_sound_and_has_the_same_fields(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    configuration.check(config)
    fields = dict(configuration.flatten(config.to_dict())).keys()
    assert fields == dict(configuration.flatten(ma52.get_config().to_dict())).keys()


def test_the_papers_recipe():
    config = ma52.get_config()
    vectors = np.zeros((52, 300), np.float32)
    options = configuration.model_options(config, labels.MA52, vectors)
    _, variables = nets.abstract_variables(options)
    assert sum(np.prod(leaf.shape) for leaf in _leaves(variables["params"])) == 32_284_252
    assert (config.batch_size, config.optimizer.learning_rate, config.num_epochs) == (10, 0.00125, 80)
    assert (config.data.short_side, config.data.crop_size, config.embedding_weight) == (256, 224, 50)


def _leaves(tree):
    return [leaf for value in tree.values() for leaf in _leaves(value)] if isinstance(tree, dict) else [tree]


def test_options_follow_labels_and_vectors():
    config = ma52.get_config()
    two = labels.Labels(("a", "b"), ("a", "b"), (0, 1))
    options = configuration.model_options(config, two, np.zeros((2, 7), np.float32))
    assert (options["num_classes"], options["embedding_dim"]) == (2, 7)
    assert configuration.model_options(config, two, None)["embedding_dim"] == 0
    json.dumps(options)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.depth", 18, "config.model.depth is 18; choose one of 14, 50, 101"),
        ("model.dtype", "float16", "config.model.dtype is 'float16'; choose one of float32, bfloat16"),
        ("optimizer.boosted_layer", "first", "config.optimizer.boosted_layer is 'first'; choose one of last"),
        ("schedule.name", "linear", "config.schedule.name is 'linear'; choose one of step, cosine"),
        ("parallel", "jit", "config.parallel is 'jit'; choose one of shard_map, pmap"),
        ("batch_size", 0, "config.batch_size is 0; the least is 1"),
        ("num_epochs", 0.0, "config.num_epochs is 0.0; it must be positive"),
        ("eval.every_epochs", -1.0, "config.eval.every_epochs is -1.0; it must be positive"),
        ("optimizer.learning_rate", math.inf, "config.optimizer.learning_rate is inf; it must be a finite number"),
        ("optimizer.momentum", 1.0, "config.optimizer.momentum is 1.0; it must lie in 0..1, below 1"),
        ("schedule.decay_epochs", ("x",), "config.schedule.decay_epochs is ('x',); each must be a number from 0 on"),
        ("emotion.box", ("a", 0, 1, 1), "config.emotion.box is ('a', 0, 1, 1); give the top"),
        ("num_epochs", float("nan"), "config.num_epochs is nan; it must be a finite number"),
        ("seed", -1, "config.seed is -1; the least is 0"),
        ("multilabel.loss", "focal", "config.multilabel.loss is 'focal'; choose one of plain, weighted, asymmetric"),
        ("emotion.form", "face", "config.emotion.form is 'face'; choose one of , appearance, micro_action, fused"),
        ("emotion.training", "before", "config.emotion.training is 'before'; choose one of joint, after"),
        ("emotion.training", "after", "config.emotion.training is 'after'; that is for emotion.form 'micro_action'"),
        ("emotion.weight", -1.0, "config.emotion.weight is -1.0; the least is 0"),
        ("emotion.dropout", 1.0, "config.emotion.dropout is 1.0; it must lie in 0..1, below 1"),
        ("emotion.crop_size", 300, "config.emotion.crop_size is 300, more than emotion.short_side 256: lower it"),
        ("emotion.box", (0.5, 0.0, 0.5, 1.0), "config.emotion.box is (0.5, 0.0, 0.5, 1.0); give the top, left"),
        ("emotion.appearance_from", "runs/a", "config.emotion.appearance_from is for emotion.form 'fused'; use init_"),
        ("data.windows.stride", 0.0, "config.data.windows.stride is 0.0; give 0.01 to 86400 seconds"),
        ("data.crop_scales", ("a",), "config.data.crop_scales is ('a',); each must be a number in 0..1"),
        ("model.dropout", 1.0, "config.model.dropout is 1.0; it must lie in 0..1, below 1"),
        ("data.crop_size", 300, "config.data.crop_size is 300, more than data.short_side 256: lower it"),
        ("model.width", 4, "config.model.shift_div is 8: with width 4 no channel moves"),
        ("data.crop_scales", (1.0, 1.2), "config.data.crop_scales is (1.0, 1.2); each must be a number in 0..1"),
        ("data.synthetic.size", -1.0, "config.data.synthetic.size is -1.0; give a number above 0, up to 100"),
        ("data.crop_scales", (), "config.data.crop_scales is (); each must be a number in 0..1"),
    ],
)
def test_bad_values_are_named(field, value, message):
    config = ma52.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError) as error:
        configuration.check(config)
    assert message in str(error.value)


def test_the_appearance_has_no_more_frames_than_the_clip():
    config = ma52.get_config()
    config.emotion.num_frames = 9
    configuration.check(config)  # without an emotion nobody looks at them
    config.emotion.form = "appearance"
    with pytest.raises(UserError, match=r"config.emotion.num_frames is 9, more than model.num_segments 8: lower it"):
        configuration.check(config)


def test_all_bad_values_are_in_one_report():
    config = ma52.get_config()
    config.model.depth, config.batch_size = 18, -1
    with pytest.raises(UserError, match=r"cannot be run: 2 problems\n  config.model.depth(.|\n)*\n  config.batch_size"):
        configuration.check(config)


def test_changes_name_fields_that_a_run_cannot_change():
    old = json.loads(json.dumps(ma52.get_config().to_dict()))  # as a checkpoint returns it
    new = ma52.get_config()
    assert configuration.changes(old, new.to_dict()) == []
    new.data.manual_dir, new.data.read_threads, new.log_every_steps, new.parallel = "/else", 9, 1, "pmap"
    assert configuration.changes(old, new.to_dict()) == []
    new.seed, new.schedule.decay_epochs = 1, (1.0, 2.0)
    assert configuration.changes(old, new.to_dict()) == [
        "schedule.decay_epochs ([30.0, 60.0] before, [1.0, 2.0] now)",
        "seed (0 before, 1 now)",
    ]


def test_readme_names_every_config_and_no_other():
    mentioned = re.findall(r"configs/(\w+)\.py", (ROOT / "README.md").read_text())
    assert set(mentioned) == set(CONFIGS)


def test_training_after_the_micro_actions_needs_them():
    config = ma52_pro.get_config("fused")
    config.emotion.training = "after"
    with pytest.raises(UserError, match=r"config\.emotion\.training is 'after'; name the workdir of the micro-action"):
        configuration.check(config)
    config.init_from = "runs/pro"
    configuration.check(config)


def test_each_form_has_the_networks_it_needs():
    for form, present in (("appearance", (False, True)), ("micro_action", (True, False)), ("fused", (True, True))):
        config = ma52_pro.get_config(form)
        options = configuration.model_options(config, labels.MA52, np.zeros((52, 50), np.float32), 7)
        assert tuple(options[name] is not None for name in ("micro_actions", "appearance")) == present
        views = configuration.view_arguments(config)
        assert (views["video"], "appearance" in views) == present
        assert options["num_emotions"] == 7
