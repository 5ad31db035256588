"""A network is added by three things: a module, a weight table, and a config; it then does all that MANet does."""

import dataclasses
import json

import jax
import jax.export
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax import nnx
from helpers import shrink

import manet_jax
from configs import ma52
from manet_jax import export, models, pretrained, train
from manet_jax.models.layers import Heads, normalize
from manet_jax.models.options import NetworkOptions
from manet_jax.pretrained import convert
from manet_jax.pretrained.table import WeightTable
from manet_jax.report import page
from tfds_ma52.errors import UserError


# The module.
class Patches(nnx.Module):
    """A linear layer over patches of 8 x 8 pixels, without BatchNorm."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Options(NetworkOptions):
        """Options of `Patches`."""

        width: int = 16

        @classmethod
        def tiny(cls, **options):
            return cls(num_classes=3, embedding_dim=5, **options)

    def __init__(self, options, *, rngs):
        self.options = options
        self.project = nnx.Linear(8 * 8 * 3, options.width, rngs=rngs)
        self.token = nnx.Param(jnp.zeros(options.width))
        self.heads = Heads(options.width, options, rngs=rngs)

    def features(self, video):
        x = normalize(video, self.options)
        b, t, h, w, _ = x.shape
        x = x.reshape(b, t, h // 8, 8, w // 8, 8, 3).transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, t, h // 8, w // 8, -1)
        return nnx.relu(self.project(x) + self.token[None, None, None, None])

    def __call__(self, inputs, keys=None):
        return self.heads(self.features(inputs["video"]).mean((2, 3)), keys)


# The weight table.
TABLE = WeightTable(
    title="somebody's patches",
    network="patches",
    modules={
        "project": ("stem.proj", "OI"),
        "heads.classifier.linear": ("head.fc", "OI"),
        "heads.joint_embedding.hidden": ("head.a", "OI"),
        "heads.joint_embedding.out": ("head.b", "OI"),
    },
    parameters={"token": ("stem.token", "same")},
    unused={},
    example="stem.proj.weight",
    recognise=lambda state: sum(name.startswith(("stem.", "head.")) for name in state),
    options_from=lambda state: Patches.Options(
        num_classes=len(state["head.fc.bias"]), embedding_dim=50, width=len(state["stem.token"])
    ),
)


# The config.
def get_config():
    config = ma52.get_config()
    config.model = ml_collections.ConfigDict({"name": "patches", "embedding": True, "width": 12, "dropout": 0.1})
    return config


@pytest.fixture
def config(folder, monkeypatch):
    monkeypatch.setitem(models.MODELS, "patches", Patches)
    monkeypatch.setattr(pretrained, "TABLES", [*pretrained.TABLES, TABLE])
    config = ma52.get_config()
    shrink(config, folder)
    config.model = get_config().model
    config.num_epochs = 0.5
    return config


@pytest.mark.slow
def test_new_network_does_all_that_manet_does(config, folder, tmp_path):
    workdir = tmp_path / "run"
    results = train.train_and_evaluate(config, workdir)
    assert results["last"]["step"] == 1
    evaluation = manet_jax.evaluate_checkpoint(workdir)
    assert evaluation.metrics == results["best"]
    text = page.write(evaluation).read_text()
    assert "There are none: the classifier of this network is not linear on averaged features." in text
    assert json.loads((workdir / "run.json").read_text())["model"]["name"] == "patches"

    model = manet_jax.load_model(workdir)
    (path, *_) = sorted((folder / "videos_val").iterdir())
    (prediction,) = model.predict(path)
    assert prediction.probabilities.sum() == pytest.approx(1)

    export.export_model(workdir, tmp_path / "exported")
    exported = jax.export.deserialize(bytearray((tmp_path / "exported" / export.MODEL_FILE).read_bytes()))
    video = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), np.uint8)
    expected = model({"video": video})
    np.testing.assert_allclose(exported.call(video)["logits"], expected.logits, rtol=1e-5, atol=1e-6)

    # To the file's names and back, and from there into a fresh run.
    assert convert.to_pytorch(workdir, tmp_path / "weights.safetensors") == 9
    convert.convert(tmp_path / "weights.safetensors", tmp_path / "converted")
    again = manet_jax.load_model(tmp_path / "converted")({"video": video})
    np.testing.assert_array_equal(again.logits, expected.logits)
    config.init_from, config.optimizer.learning_rate = str(tmp_path / "converted"), 0.0
    train.train_and_evaluate(config, tmp_path / "warm")
    warm = manet_jax.load_model(tmp_path / "warm")
    np.testing.assert_array_equal(warm({"video": video}).logits, expected.logits)
    (origin,) = warm.metadata.initialized_from
    assert (origin["fresh"], origin["unused"]) == ([], [])


def test_warm_start_refuses_another_network(config, tmp_path):
    train.train_and_evaluate(config, tmp_path / "run")
    other = shrink(ma52.get_config(), config.data.manual_dir)
    other.init_from = str(tmp_path / "run")
    with pytest.raises(UserError, match=r"config\.init_from: .* is of another network, 'patches'"):
        train.train_and_evaluate(other, tmp_path / "other")
