import csv
import os
import subprocess
import sys

import jax.export
import nbformat
import numpy as np
import pytest
from helpers import ROOT, shrink, write_folder
from saved_models import save, softmax

import manet_jax
from configs import ma52
from manet_jax import configuration, evaluate, export
from manet_jax.label_vectors import load_label_vectors
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


def outputs(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def test_notebook_runs_and_agrees_with_all_other_ways(runs, tmp_path):
    notebook = nbformat.read(NOTEBOOK, 4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source = f"WORKDIR, OTHER = {str(runs[0])!r}, {str(runs[1])!r}"
    saved = f"np.savez({str(tmp_path / 'found')!r}, result.probabilities, prediction.probabilities, row)"
    notebook.cells.append(nbformat.v4.new_code_cell(saved))
    nbformat.write(notebook, tmp_path / "analysis.ipynb")
    command = [sys.executable, "-c", EXECUTE, str(tmp_path / "analysis.ipynb"), str(NOTEBOOK.parent)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    executed = nbformat.read(tmp_path / "analysis.ipynb", 4)
    pictures = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in pictures) == 7
    text = "".join(outputs(cell) for cell in executed.cells if cell.cell_type == "code")
    assert "clips correct only in" in text

    # Evaluation, prediction, notebook and export give the same for the same clips.
    evaluation = evaluate.evaluate_checkpoint(runs[0])
    expected = softmax(evaluation.predictions.outputs["logits"])
    close = {"rtol": 1e-4, "atol": 1e-6}
    evaluated, predicted, row = np.load(tmp_path / "found.npz").values()
    np.testing.assert_allclose(evaluated, expected, **close)
    np.testing.assert_allclose(predicted, expected[row], **close)
    model = manet_jax.load_model(runs[0])
    folder = evaluation.dataset.builder.data_path.parents[3] / "videos_val"
    predicted = model.predict([folder / name for name in evaluation.video_ids])
    np.testing.assert_allclose([each.probabilities for each in predicted], expected, **close)
    export.export_model(runs[0], tmp_path / "exported")
    exported = jax.export.deserialize(bytearray((tmp_path / "exported" / export.MODEL_FILE).read_bytes()))
    video = np.stack([examples.read_clip(evaluation, model, row)["video"] for row in range(8)])
    np.testing.assert_allclose(softmax(exported.call(video)["logits"]), expected, **close)
    with (page.write(evaluation).parent / "predictions.csv").open(newline="") as file:
        table = [[float(row[f"p({name})"]) for name in model.labels.names] for row in csv.DictReader(file)]
    np.testing.assert_allclose(table, expected, **close)
    assert np.ptp(expected, axis=0).max() > 1e-3  # clips differ


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
