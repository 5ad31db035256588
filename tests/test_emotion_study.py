import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from manet_jax.studies import emotion as emotion_study
from manet_jax.studies import study
from tfds_ma52.errors import UserError

COMMAND = (sys.executable, "-m", "manet_jax.studies.emotion")


def values(accuracy):
    recalls = {f"recall_{name}": accuracy for name in ("anger", "fear", "happiness", "sadness", "surprise")}
    return {"emotion_accuracy": accuracy, "emotion_f1_macro": accuracy - 0.02} | recalls


RUNS = {
    "appearance": [values(0.40), values(0.44)],
    "micro_action": [values(0.60), values(0.62)],
    "fused": [values(0.66), values(0.70)],
}


def test_compare_gives_accuracies_computed_by_hand():
    lines = emotion_study.compare(RUNS).strip().splitlines()
    assert lines == [
        "possible emotion accuracy: appearance 60.0, micro_action 69.4, fused 77.4",
        "fused - appearance: 26.0 points; the larger standard deviation over seeds: 2.8",
    ]
    only = {"micro_action": RUNS["micro_action"]}
    assert emotion_study.compare(only).strip() == "possible emotion accuracy: micro_action 69.4"


def test_summarize_run_gives_metrics_and_recalls(tmp_path):
    confusion = np.diag([4, 0, 3, 2, 1]) + np.eye(5, k=1, dtype=int)
    summary = emotion_study.summarize_run(
        {"emotion_accuracy": 0.5, "emotion_f1_macro": 0.4, "map": 0.8, "emotion_confusion": confusion.tolist()},
        tmp_path,
    )
    assert summary["map"] == 0.8
    assert summary["recall_anger"] == 4 / 5
    assert summary["recall_fear"] == 0
    assert summary["recall_surprise"] == 1
    with pytest.raises(UserError, match="has 2 emotions; the study compares the synthetic set's"):
        emotion_study.summarize_run({"emotion_confusion": [[1, 0], [0, 1]]}, tmp_path)


def test_table_leaves_open_metrics_that_an_arm_lacks():
    runs = {"appearance": [values(0.4)], "fused": [values(0.6) | {"map": 0.8}]}
    assert "| map | - | 80.0 |" in study.format_table(runs).splitlines()


def test_plot_has_a_bar_for_each_form(tmp_path):
    emotion_study.plot(RUNS, tmp_path / "emotion.png")
    with Image.open(tmp_path / "emotion.png") as image:
        colors = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for color in ((0x99, 0x99, 0x99), (0xE6, 0x9F, 0x00), (0x00, 0x72, 0xB2)):
        assert (colors == color).all(1).mean() > 0.01


@pytest.mark.slow
def test_emotion_command_trains_and_writes_its_table(drawn_pro, tmp_path):
    small = {"data.synthetic.size": 5e-4, "data.synthetic.short_side": 40, "data.manual_dir": drawn_pro}
    small |= {"data.data_dir": tmp_path / "built"}
    small |= {"clip.short_side": 40, "clip.crop_size": 32, "emotion.clip.short_side": 34, "emotion.clip.crop_size": 32}
    small |= {
        "num_epochs": 1.0,
        "model.depth": 8,
        "emotion.model.depth": 8,
        "batch_size": 8,
        "eval.batch_size": 8,
        "model.width": 8,
        "emotion.model.width": 8,
        "model.se": False,
        "model.embedding": False,
    }
    flags = [f"--config.{name}={value}" for name, value in small.items()]
    command = [*COMMAND, "--workdir", str(tmp_path / "study"), "--seeds=1", "--arms=fused", *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "| % | fused |"
    assert "possible emotion accuracy: fused 77.4" in result.stdout
    written = json.loads((tmp_path / "study/emotion.json").read_text())
    assert set(written) == {"fused"}
    assert "map" in written["fused"][0]
    assert (tmp_path / "study/emotion.png").exists()


def test_unknown_forms_are_reported(tmp_path, capsys):
    assert emotion_study.main(["--workdir", str(tmp_path), "--arms=fused,face"]) == 2
    expected = "--arms has 'face'; those of configs/ma52_pro_synthetic.py are appearance, micro_action, fused"
    assert f"manet_jax: {expected}" in capsys.readouterr().err
