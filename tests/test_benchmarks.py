import json
import sys

import pytest

from benchmarks import step
from manet_jax.models import MODELS, ModelSpec
from manet_jax.models.i3d import I3DOptions
from manet_jax.models.swin import SwinOptions


@pytest.fixture
def run_step(monkeypatch, tmp_path, unchecked):
    """Runs benchmarks.step with arguments; returns what its JSON file has."""

    def run(*arguments):
        file = tmp_path / "figures.json"
        monkeypatch.setattr(sys, "argv", ["step", "--json", str(file), *arguments])
        step.main()
        return json.loads(file.read_text())

    return run


def test_step_times_the_network_that_is_named(run_step, capsys, monkeypatch):
    monkeypatch.setattr(step.measure, "matrix_rate", lambda dtype: 1e9)
    monkeypatch.setattr(step.measure, "bandwidth", lambda: 1e9)
    tiny = ["depth=1", "width=32", "num_heads=2", "table_size=32"]
    few = ["--size=32", "--batch_size=3", "--repeats=1", "--no_torch"]
    found = run_step("--model=timesformer", *few, "--options", *tiny)
    assert found["seconds"].keys() == {"ours forward", "ours train step"}
    name, clips, gflops, *_ = capsys.readouterr().out.splitlines()
    assert name == "timesformer, depth 1, width 32, num_heads 2, table_size 32"
    assert clips == "3 clips of 8 x 32 x 32, float32"
    # A clip has 32 patches of 16 x 16 x 3 values. Each is embedded, and goes through 2 x 4 + 1 + 8 matrices of 32 x 32
    # of two attentions, the layer after that over time, and the MLP.
    multiply_adds = 32 * (768 * 32 + 17 * 32**2)
    assert multiply_adds < float(gflops.split()[0]) * 1e9 < 1.5 * multiply_adds
    forward, train_step = found["rows"]
    assert (forward[""], train_step[""]) == ("forward", "train step")
    assert forward["operations / rate (s)"] == pytest.approx(3 * 2 * float(gflops.split()[0]), rel=1e-3)
    assert train_step["operations / rate (s)"] == pytest.approx(3 * forward["operations / rate (s)"])
    for row in found["rows"]:
        assert row["ours (clips/s)"] == pytest.approx(3 / row["ours (s)"])
        assert row["share of the rate"] == pytest.approx(row["operations / rate (s)"] / row["ours (s)"])
        assert row["bytes / bandwidth (s)"] > 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model=emotion"], "argument --model: invalid choice: 'emotion'"),
        (["--model=i3d", "--options", "tau=3"], "--model i3d: "),
        (
            ["--model=slowfast", "--options", "tau=x"],
            "argument --options: 'tau=x' is not NAME=VALUE with a number, True or False",
        ),
        (["--model=tin", "--options", "width=24"], "--model tin: width is 24; with shift_div 4 it"),
    ],
)
def test_step_refuses_networks_that_are_not_there(run_step, capsys, arguments, text):
    with pytest.raises(SystemExit, match="2"):
        run_step(*arguments)
    assert f"error: {text}" in capsys.readouterr().err


def test_step_compares_what_pytorch_has():
    of_packages = [ModelSpec(name, MODELS[name].Options()) for name in ("timesformer", "videomae", "swin")]
    assert all(step.has_pytorch(spec) for spec in (step.model(), step.model(depth=101), *of_packages))
    others = [step.model(shift=False), step.model(se=False), step.model(embedding_dim=0)]
    others += [ModelSpec("i3d", I3DOptions()), ModelSpec("swin", SwinOptions(embedding_dim=300))]
    assert not any(step.has_pytorch(spec) for spec in others)


def test_step_names_the_package_that_it_lacks(monkeypatch):
    monkeypatch.setattr(step.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="the PyTorch swin is that of torchvision: pip install torchvision, or add --"):
        step._torch_model(ModelSpec("swin", SwinOptions()))
