import csv
import os
import subprocess
import sys

import jax.export
import nbformat
import numpy as np
import pytest
import safetensors.numpy
from checkpoints import random_variables
from helpers import ROOT, set_network, shrink, write_folder
from saved_models import save, softmax

import manet_jax
from configs import ma52
from manet_jax import configuration, evaluate, export, pretrained, train
from manet_jax.label_vectors import load_label_vectors
from manet_jax.models import MODELS, ModelSpec
from manet_jax.pretrained import __main__ as convert_command
from manet_jax.pretrained.table import to_state_dict
from manet_jax.report import examples, page

NOTEBOOK = ROOT / "notebooks" / "analysis.ipynb"
# In a process of its own, for Jupyter's packages do not pass where warnings are errors.
EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": sys.argv[2]}}).execute()
nbformat.write(notebook, sys.argv[1])
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The workdirs of two drawn models of one data set."""
    root = write_folder(tmp_path_factory.mktemp("data"), per_split=(("train", 8), ("val", 8)))
    config = shrink(ma52.get_config(), root)
    config.data.builder_config = "original"
    labels = configuration.parse(config).data.open().labels
    folder, vectors = tmp_path_factory.mktemp("runs"), load_label_vectors("", labels.names)
    first = save(folder / "first", config, labels, vectors=vectors)
    config.model.shift = False
    return first, save(folder / "second", config, labels)


def execute(path, workdir, other, *more):
    """Runs the notebook, and more code after it, from a copy at a path; returns its pictures and what it printed."""
    notebook = nbformat.read(NOTEBOOK, 4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source = f"WORKDIR, OTHER = {str(workdir)!r}, {other and str(other)!r}"
    notebook.cells += map(nbformat.v4.new_code_cell, more)
    nbformat.write(notebook, path)
    command = [sys.executable, "-c", EXECUTE, str(path), str(NOTEBOOK.parent)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    pictures = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    return len(pictures), "".join(map(outputs, cells))


def outputs(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def find_all_ways(workdir, other, folder):
    """The number of the notebook's pictures, what it printed, and the probabilities of the clips as evaluated.

    It makes sure that evaluation, prediction, notebook, export and report give the same for the same clips.
    """
    saved = f"np.savez({str(folder / 'found')!r}, result.probabilities, prediction.probabilities, row)"
    pictures, text = execute(folder / "analysis.ipynb", workdir, other, saved)
    evaluation = evaluate.evaluate_checkpoint(workdir)
    expected = softmax(evaluation.predictions.outputs["logits"])
    close = {"rtol": 1e-4, "atol": 1e-6}
    evaluated, predicted, row = np.load(folder / "found.npz").values()
    np.testing.assert_allclose(evaluated, expected, **close)
    np.testing.assert_allclose(predicted, expected[row], **close)
    model = manet_jax.load_model(workdir)
    videos = evaluation.dataset.builder.data_path.parents[3] / "videos_val"
    predicted = model.predict([videos / name for name in evaluation.video_ids])
    np.testing.assert_allclose([each.probabilities for each in predicted], expected, **close)
    export.export_model(workdir, folder / "exported")
    exported = jax.export.deserialize(bytearray((folder / "exported" / export.MODEL_FILE).read_bytes()))
    video = np.stack([examples.read_clip(evaluation, model, row)["video"] for row in range(len(expected))])
    np.testing.assert_allclose(softmax(exported.call(video)["logits"]), expected, **close)
    with (page.write(evaluation).parent / "predictions.csv").open(newline="") as file:
        table = [[float(row[f"p({name})"]) for name in model.labels.names] for row in csv.DictReader(file)]
    np.testing.assert_allclose(table, expected, **close)
    return pictures, text, expected


def test_notebook_runs_and_agrees_with_all_other_ways(runs, tmp_path):
    pictures, text, probabilities = find_all_ways(*runs, tmp_path)
    assert pictures == 7
    assert "clips correct only in" in text
    assert np.ptp(probabilities, axis=0).max() > 1e-3  # clips differ


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "pictures"),
    [("i3d", {"depth": 14}, 5), ("timesformer", {"depth": 1, "width": 64, "num_heads": 1}, 4)],  # one has no class maps
)
def test_weights_of_kinetics_train_and_serve(name, options, pictures, tmp_path):
    table = next(each for each in pretrained.TABLES if each.network == name)
    spec = ModelSpec(name, MODELS[name].Options.tiny(num_classes=400, embedding_dim=0, **options))
    state = to_state_dict(random_variables(spec), spec, table)
    assert state["cls_head.fc_cls.weight"].shape[0] == 400
    safetensors.numpy.save_file(state, tmp_path / "kinetics.safetensors")
    arguments = ["--drop_classifier", str(tmp_path / "kinetics.safetensors"), str(tmp_path / "from")]
    assert convert_command.main(arguments) == 0

    # Every clip that it learns is of one class, every other one of another.
    root = write_folder(tmp_path / "data", per_split=(("train", 8), ("val", 8)))
    for split, label in (("train", 1), ("val", 0)):
        path = root / f"{split}_list_videos.txt"
        path.write_text("".join(f"{line.split()[0]} {label}\n" for line in path.read_text().splitlines()))
    config = set_network(shrink(ma52.get_config(), root), name, **options)
    config.update(init_from=str(tmp_path / "from"), sync_batch_norm=True)
    config.optimizer.learning_rate, config.data.builder_config = 0.02, "original"
    result = train.train_and_evaluate(config, tmp_path / "run")
    (origin,) = manet_jax.load_model(tmp_path / "run").metadata.initialized_from
    assert (origin["fresh"], origin["unused"]) == (["heads.classifier.linear"], [])
    assert result["last"]["action_top1"] == 0
    assert find_all_ways(tmp_path / "run", None, tmp_path)[0] == pictures


def test_notebook_is_kept_with_its_outputs():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.outputs for cell in cells[1:])
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert not any(output.get("name") == "stderr" for cell in cells for output in cell.outputs)
    text = "".join(map(outputs, cells))
    assert "were predicted as" in text
    assert "clips correct only in runs/first: " in text
    assert NOTEBOOK.stat().st_size < 1.5e6
