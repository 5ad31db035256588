import dataclasses
import importlib
import json
import math
import re

import numpy as np
import pytest
from helpers import ROOT

from configs import ma52, ma52_pro
from manet_jax import configuration, models
from manet_jax.models import variables
from tfds_ma52 import labels
from tfds_ma52.errors import UserError

CONFIGS = sorted(path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "configs").rglob("*.py"))


@pytest.mark.parametrize("name", CONFIGS)
def test_config_files_are_sound_and_have_the_same_fields(name):
    config = importlib.import_module(name.replace("/", ".")).get_config()
    configuration.parse(config)
    fields, known = (dict(configuration.flatten(each.to_dict())).keys() for each in (config, ma52.get_config()))
    others = {field for field in fields if not field.startswith("model.")}
    assert others == {field for field in known if not field.startswith("model.")}
    # Each network has options of its own; the data, config.clip and config.body_groups decide four.
    options = {field.name for field in dataclasses.fields(models.MODELS[config.model.name].Options)}
    assert set(config.model) == {"name", "embedding"} | options - {"num_classes", "embedding_dim", "num_groups", "clip"}


def test_ma52_config_is_the_papers_recipe():
    config = ma52.get_config()
    spec = configuration.parse(config).model_spec(labels.MA52, 300, 0)
    _, abstract = variables.abstract_variables(spec)
    assert sum(np.prod(leaf.shape) for leaf in _leaves(abstract["params"])) == 32_284_252
    assert (config.batch_size, config.optimizer.learning_rate, config.num_epochs) == (10, 0.00125, 80)
    assert (config.clip.short_side, config.clip.crop_size, config.embedding_weight) == (256, 224, 50)


def _leaves(tree):
    return [leaf for value in tree.values() for leaf in _leaves(value)] if isinstance(tree, dict) else [tree]


def test_model_spec_follows_labels_and_vectors():
    config = configuration.parse(ma52.get_config())
    two = labels.LabelSet(("a", "b"), ("a", "b"), (0, 1))
    spec = config.model_spec(two, 7, 0)
    assert (spec.options.num_classes, spec.options.embedding_dim) == (2, 7)
    assert config.model_spec(two, 0, 0).options.embedding_dim == 0
    assert models.spec_from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.depth", 18, "config.model.depth is 18; choose one of 8, 14, 50, 101"),
        ("model.dtype", "float16", "config.model.dtype is 'float16'; choose one of float32, bfloat16"),
        ("optimizer.head", "first", "config.optimizer.head is 'first'; choose one of last, classifier"),
        ("schedule.name", "linear", "config.schedule.name is 'linear'; choose one of step, cosine"),
        ("parallel", "jit", "config.parallel is 'jit'; choose one of shard_map, pmap"),
        ("batch_size", 0, "config.batch_size is 0; it must be at least 1"),
        ("num_epochs", 0.0, "config.num_epochs is 0.0; it must be positive"),
        ("eval.every_epochs", -1.0, "config.eval.every_epochs is -1.0; it must be positive"),
        ("optimizer.learning_rate", math.inf, "config.optimizer.learning_rate is inf; it must be a finite number"),
        ("optimizer.momentum", 1.0, "config.optimizer.momentum is 1.0; it must lie in 0..1, below 1"),
        ("schedule.decay_epochs", ("x",), "config.schedule.decay_epochs is ('x',); each must be a number from 0 on"),
        ("emotion.clip.box", ("a", 0, 1, 1), "config.emotion.clip.box is ('a', 0, 1, 1); give the top"),
        ("num_epochs", float("nan"), "config.num_epochs is nan; it must be a finite number"),
        ("seed", -1, "config.seed is -1; it must be at least 0"),
        ("multilabel.loss", "focal", "config.multilabel.loss is 'focal'; choose one of plain, weighted, asymmetric"),
        ("emotion.form", "face", "config.emotion.form is 'face'; choose one of , appearance, micro_action, fused"),
        ("emotion.training", "before", "config.emotion.training is 'before'; choose one of joint, after"),
        ("emotion.training", "after", "config.emotion.training is 'after'; that is for emotion.form 'micro_action'"),
        ("emotion.weight", -1.0, "config.emotion.weight is -1.0; it must be at least 0"),
        ("emotion.model.dropout", 1.0, "config.emotion.model.dropout is 1.0; it must lie in 0..1, below 1"),
        ("emotion.clip.crop_size", 300, "config.emotion.clip.crop_size is 300, more than short_side 256: lower it"),
        (
            "emotion.clip.box",
            (0.5, 0.0, 0.5, 1.0),
            "config.emotion.clip.box is (0.5, 0.0, 0.5, 1.0); give the top, left",
        ),
        ("emotion.appearance_from", "runs/a", "config.emotion.appearance_from is for emotion.form 'fused'; use init_"),
        ("data.windows.stride", 0.0, "config.data.windows.stride is 0.0; give 0.01 to 86400 seconds"),
        ("clip.crop_scales", ("a",), "config.clip.crop_scales is ('a',); each must be a number in 0..1"),
        ("model.dropout", 1.0, "config.model.dropout is 1.0; it must lie in 0..1, below 1"),
        ("clip.crop_size", 300, "config.clip.crop_size is 300, more than short_side 256: lower it"),
        ("model.width", 4, "config.model.shift_div is 8: with width 4 no channel moves"),
        ("clip.crop_scales", (1.0, 1.2), "config.clip.crop_scales is (1.0, 1.2); each must be a number in 0..1"),
        ("data.synthetic.size", -1.0, "config.data.synthetic.size is -1.0; give a number above 0, up to 100"),
        ("label_smoothing", 1.0, "config.label_smoothing is 1.0; it must lie in 0..1, below 1"),
        ("optimizer.name", "lamb", "config.optimizer.name is 'lamb'; choose one of sgd, adamw, muon"),
        ("optimizer.betas", (0.9,), "config.optimizer.betas is (0.9,); give two numbers in 0..1, below 1"),
        ("optimizer.betas", (0.9, 1.0), "config.optimizer.betas is (0.9, 1.0); give two numbers in 0..1, below 1"),
        ("optimizer.layer_decay", 0.0, "config.optimizer.layer_decay is 0.0; it must lie in 0..1, above 0"),
        ("clip.crop_scales", (), "config.clip.crop_scales is (); each must be a number in 0..1"),
    ],
)
def test_parse_reports_bad_values(field, value, message):
    config = ma52.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError) as error:
        configuration.parse(config)
    assert message in str(error.value)


def test_parse_allows_no_more_frames_of_the_appearance():
    config = ma52.get_config()
    config.emotion.clip.num_frames = 9
    configuration.parse(config)  # without an emotion they do not matter
    config.emotion.form = "appearance"
    with pytest.raises(UserError, match=r"config\.emotion\.clip\.num_frames is 9, more than the video\'s 8: lower it"):
        configuration.parse(config)


def test_parse_reports_all_bad_values_at_once():
    config = ma52.get_config()
    config.model.depth, config.batch_size = 18, -1
    with pytest.raises(UserError, match=r"cannot be run: 2 problems\n  config.batch_size(.|\n)*\n  config.model.depth"):
        configuration.parse(config)


def test_changes_lists_fields_that_a_run_cannot_change():
    old = json.loads(json.dumps(ma52.get_config().to_dict()))  # as a checkpoint returns it
    new = ma52.get_config()
    assert configuration.changes(old, new.to_dict()) == []
    new.data.manual_dir, new.data.read_threads, new.log_every_steps, new.parallel = "/else", 9, 1, "pmap"
    new.model.remat, new.eval.batch_size = True, 3  # of a batch that did not fit into memory
    assert configuration.changes(old, new.to_dict()) == []
    new.seed, new.schedule.decay_epochs = 1, (1.0, 2.0)
    assert configuration.changes(old, new.to_dict()) == [
        "schedule.decay_epochs ([30.0, 60.0] before, [1.0, 2.0] now)",
        "seed (0 before, 1 now)",
    ]


def test_docs_mention_every_config_and_no_other():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    mentioned = {name for page in pages for name in re.findall(r"(configs/[\w/]+)\.py", page.read_text())}
    assert mentioned - {"configs/models/x"} == set(CONFIGS)  # x stands for a new network


def test_parse_needs_micro_actions_to_train_after_them():
    config = ma52_pro.get_config("fused")
    config.emotion.training = "after"
    with pytest.raises(UserError, match=r"config\.emotion\.training is 'after'; give the workdir of the micro-action"):
        configuration.parse(config)
    config.init_from = "runs/pro"
    configuration.parse(config)


def test_model_spec_samples_both_inputs_alike():
    config = ma52_pro.get_config("fused")
    config.clip.sampling, config.clip.frame_interval, config.clip.num_frames = "dense", 2, 16
    inputs = configuration.parse(config).model_spec(labels.MA52, 50, 7).options.inputs
    assert (inputs["appearance"].sampling, inputs["appearance"].frame_interval) == ("dense", 2)
    assert inputs["appearance"].span == inputs["video"].span == 31


def test_model_spec_has_the_networks_of_each_form():
    for form, present in (("appearance", (False, True)), ("micro_action", (True, False)), ("fused", (True, True))):
        options = configuration.parse(ma52_pro.get_config(form)).model_spec(labels.MA52, 50, 7).options
        assert (options.micro_action is not None, options.appearance is not None) == present
        assert ("video" in options.inputs, "appearance" in options.inputs) == present
        assert options.num_emotions == 7


def test_parse_reports_unknown_and_missing_fields():
    config = ma52.get_config()
    with config.unlocked():
        config.model.stride = 2
        del config.schedule.decay_factor
    with pytest.raises(UserError) as error:
        configuration.parse(config)
    assert "config.model.stride is unknown; known are num_classes, " in str(error.value)
    assert "config.schedule.decay_factor is missing" in str(error.value)
    config = ma52.get_config()
    config.model.name = "resnet"
    with pytest.raises(UserError, match=r"config\.model\.name is 'resnet'; choose one of manet"):
        configuration.parse(config)


def test_parse_refuses_settings_that_do_not_go_together(monkeypatch):
    config = ma52.get_config()
    config.optimizer.nesterov, config.optimizer.name = True, "adamw"
    with pytest.raises(UserError, match=r"config\.optimizer\.nesterov is True; that is for name 'sgd' with a momentum"):
        configuration.parse(config)
    config = ma52_pro.get_config("fused")
    config.optimizer.layer_decay = 0.75
    with pytest.raises(UserError, match=r"config\.optimizer\.layer_decay is 0\.75; that is for emotion\.form ''"):
        configuration.parse(config)
    config = ma52.get_config()
    config.optimizer.layer_decay = 0.75
    configuration.parse(config)
    monkeypatch.setattr(models.MODELS["manet"].Options, "layers", ())
    message = r"config\.optimizer\.layer_decay is 0\.75, but the network 'manet' has no order of layers: set it to 1"
    with pytest.raises(UserError, match=message):
        configuration.parse(config)
