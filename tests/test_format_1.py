"""Checkpoints of version 0.1.0, recorded in tests/golden/format_1.zip, do all that today's do but resume."""

import json
import zipfile

import ml_collections
import numpy as np
import pytest
from helpers import ROOT, shrink, write_clip, write_folder

import manet_jax
from configs import ma52
from manet_jax import configuration, export, predict, train
from manet_jax.checkpoint import Checkpoints
from manet_jax.models.variables import flatten, split_variables
from manet_jax.pretrained import convert
from manet_jax.report import page
from manet_jax.run_metadata import RunMetadata
from tfds_ma52.errors import UserError

LATER = {  # fields of a config that came within the present format
    "clip": ("sampling", "frame_interval", "short_videos"),
    "data": ("boxes", "frame_pattern"),
    "eval": ("num_clips", "num_crops", "flip"),
    "optimizer": ("name", "nesterov", "betas", "layer_decay"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("format_1")
    with zipfile.ZipFile(ROOT / "tests/golden/format_1.zip") as file:
        file.extractall(root)
    return root


@pytest.fixture(scope="module")
def recorded(runs):
    return dict(np.load(runs / "outputs.npz"))


@pytest.fixture(scope="module")
def models(runs):
    return {name: manet_jax.load_model(runs / name) for name in ("manet", "fused")}


def small(folder):
    """A config whose network is that of the recorded run `manet`."""
    config = shrink(ma52.get_config(), folder)
    config.model.depth, config.model.width, config.model.shift_div = 14, 4, 4
    config.clip.num_frames = 2
    return config


def test_load_model_gives_the_recorded_outputs(models, recorded):
    manet, fused = models["manet"], models["fused"]
    outputs = manet({"video": recorded["video"]})
    np.testing.assert_allclose(outputs.logits, recorded["manet_logits"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(outputs.embedding, recorded["manet_embedding"], rtol=1e-5, atol=1e-7)
    outputs = fused({name: recorded[name] for name in ("video", "appearance")})
    for name in ("logits", "embedding", "emotion"):
        np.testing.assert_allclose(getattr(outputs, name), recorded[f"fused_{name}"], rtol=1e-5, atol=1e-7)
    assert fused.emotions == ("fear", "joy")
    assert (manet.metadata.multilabel, fused.metadata.multilabel) == (False, True)


def test_metadata_is_migrated(models):
    metadata = models["manet"].metadata
    assert metadata.step == metadata.best["step"] == 2
    assert metadata.labels.names == ("nodding", "waving", "tiptoe")
    assert metadata.versions["manet_jax"] == "0.1.0"
    for model in models.values():
        config = ml_collections.ConfigDict(model.metadata.config)
        parsed = configuration.parse(config)
        fields = dict(configuration.flatten(ma52.get_config().to_dict())).keys()
        assert dict(configuration.flatten(config.to_dict())).keys() == fields - {"clip.mean", "clip.std"}
        assert parsed.network.options["depth"] == 14
    assert parsed.emotion.form == "fused"
    assert parsed.optimizer.head_lr_multiplier == 5.0
    inputs = models["fused"].inputs
    assert (inputs["video"].num_frames, inputs["appearance"].num_frames, inputs["appearance"].subset_of) == (2, 1, 2)


def test_old_run_evaluates_reports_predicts_and_exports(runs, models, folder, tmp_path):
    config = ml_collections.ConfigDict(models["manet"].metadata.config)
    config.data.manual_dir = str(folder)
    evaluation = manet_jax.evaluate_checkpoint(runs / "manet", config=config)
    best = evaluation.metadata.best
    assert {name: evaluation.metrics[name] for name in best} == pytest.approx(best, rel=1e-5)
    assert evaluation.metrics.keys() - best.keys() == {"mean_class_accuracy"}  # which came later
    assert page.write(evaluation).exists()
    write_clip(tmp_path / "a.mp4")
    for name in ("manet", "fused"):
        assert predict.main(["--workdir", str(runs / name), str(tmp_path / "a.mp4")]) == 0
    assert export.export_model(runs / "manet", tmp_path / "exported")["step"] == 2


@pytest.mark.slow
def test_old_run_is_a_start_but_cannot_be_resumed(runs, models, folder, tmp_path):
    config = small(folder)
    config.num_epochs, config.optimizer.learning_rate = 0.5, 0.0
    config.init_from = str(runs / "manet")
    train.train_and_evaluate(config, tmp_path / "run")
    ours, theirs = (
        flatten(split_variables(model.network)[1]["params"])
        for model in (manet_jax.load_model(tmp_path / "run"), models["manet"])
    )
    for path, value in theirs.items():
        np.testing.assert_array_equal(ours[path], value)
    with pytest.raises(UserError) as caught:
        train.train_and_evaluate(config, runs / "manet")
    assert str(caught.value) == (
        f"--workdir: {runs / 'manet'} holds a run of an earlier version of manet_jax, which this one cannot resume; "
        f"train in another folder, from its weights with --config.init_from={runs / 'manet'}"
    )
    latest = Checkpoints(runs / "manet", read_only=True).metadata("latest")
    assert (latest.step, latest.labels.names) == (2, ("nodding", "waving", "tiptoe"))


def test_old_safetensors_file_converts(runs, recorded, tmp_path):
    metadata = convert.convert(runs / "manet.safetensors", tmp_path / "converted")
    assert metadata.labels.names == ("nodding", "waving", "tiptoe")
    outputs = manet_jax.load_model(tmp_path / "converted")({"video": recorded["video"]})
    np.testing.assert_allclose(outputs.logits, recorded["manet_logits"], rtol=1e-5, atol=1e-7)


def test_old_run_refuses_data_of_other_classes(runs, models, tmp_path):
    other = write_folder(tmp_path, per_split=(("train", 2), ("val", 2)), names=("nodding", "waving"))
    config = ml_collections.ConfigDict(models["manet"].metadata.config)
    config.data.manual_dir = str(other)
    with pytest.raises(UserError, match="has other classes or emotions than the model"):
        manet_jax.evaluate_checkpoint(runs / "manet", config=config)


def test_a_config_without_later_fields_is_completed(models):
    """Fields that came within a format: a run before them resumes and evaluates."""
    saved = models["manet"].metadata.to_json()
    sections = {name: dict(saved["config"][name]) for name in LATER}
    for section, names in LATER.items():
        for name in names:
            del sections[section][name]
    drawn = sections["data"]["synthetic"]
    sections["data"]["synthetic"] = {name: value for name, value in drawn.items() if name != "frame_rate"}
    config = {name: value for name, value in saved["config"].items() if name != "label_smoothing"} | sections
    older = RunMetadata.from_json(json.loads(json.dumps(saved | {"config": config})))
    assert older.config["data"]["boxes"] == older.config["data"]["frame_pattern"] == ""
    assert (older.config["clip"]["sampling"], older.config["clip"]["frame_interval"]) == ("segments", 1)
    assert older.config["data"]["synthetic"] == drawn | {"frame_rate": 30}
    assert configuration.changes(older.config, saved["config"]) == []
    assert RunMetadata.from_json(json.loads(json.dumps(saved | {"config": {}}))).config == {}
