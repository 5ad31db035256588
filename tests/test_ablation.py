import json

import numpy as np
import pytest
from helpers import ROOT, write_folder
from PIL import Image

from configs import ablation as config_file
from manet_jax import configuration
from manet_jax.studies import ablation, study
from tfds_ma52.labels import MA52_NAMES


def confusion_of(**counts):
    """A confusion matrix from `target__prediction=count`, with underscores for spaces."""
    confusion = np.zeros((52, 52), int)
    for names, count in counts.items():
        row, column = (MA52_NAMES.index(name.replace("_", " ")) for name in names.split("__"))
        confusion[row, column] = count
    return confusion


def test_summarize_gives_metrics_computed_by_hand():
    confusion = confusion_of(
        nodding__nodding=6,
        nodding__shaking_head=2,
        shaking_head__shaking_head=4,
        covering_face__covering_face=1,
        covering_face__nodding=1,
        spread_legs__closing_legs=3,
        spread_legs__spread_legs=1,
        closing_legs__closing_legs=4,
        closing_legs__nodding=4,
    )
    values = ablation.summarize(confusion, 0.75)
    f1 = {"nodding": 12 / (8 + 11), "shaking head": 8 / (4 + 6), "covering face": 2 / (2 + 1)}
    f1 |= {"spread legs": 2 / (4 + 1), "closing legs": 8 / (8 + 7)}
    expected = {
        "action_top1": 16 / 26,
        "action_top5": 0.75,
        "body_top1": (12 + 1 + 8) / 26,
        "f1_head": (f1["nodding"] + f1["shaking head"]) / 2,
        "f1_lower limb": (f1["spread legs"] + f1["closing legs"]) / 2,
        "f1_head-hand": f1["covering face"],
        # Closing legs, with 97 training clips, is the 26th class of MA-52; spread legs and covering face have 92 and 6.
        "f1_frequent": (f1["nodding"] + f1["shaking head"] + f1["closing legs"]) / 3,
        "f1_rare": (f1["covering face"] + f1["spread legs"]) / 2,
        "direction_spread legs": 1 / 4,
        "direction_closing legs": 1,
        "direction": (1 / 4 + 1) / 2,
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert np.isnan(values["direction_head up"])
    assert np.isnan(values["f1_body"])


def test_direction_of_a_model_blind_to_order_is_one_half():
    confusion = np.zeros((52, 52), int)
    for i, names in enumerate(ablation.REVERSED_PAIRS):
        first, second = (MA52_NAMES.index(name) for name in names)
        confusion[first, [first, second]] = np.array((9, 1)) * (i + 1)
        confusion[second, [first, second]] = (90, 10)
    assert ablation.summarize(confusion, 1.0)["direction"] == pytest.approx(0.5)


def test_table_has_mean_and_sample_deviation():
    runs = {"tsn": [{"f1_mean": 0.25}, {"f1_mean": 0.35}], "manet": [{"f1_mean": 0.5}]}
    assert study.format_table(runs).splitlines() == [
        "| % | tsn | manet |",
        "|---|---|---|",
        "| f1 mean | 30.0 ± 7.1 | 50.0 |",
    ]


def test_table_leaves_out_seeds_without_a_value():
    nan = float("nan")
    runs = {"tsn": [{"direction": nan}, {"direction": 0.5}], "tsm": [{"direction": nan}, {"direction": nan}]}
    assert study.format_table(runs).splitlines()[-1] == "| direction | 50.0 | - |"


def test_arms_add_one_part_each():
    parts = ("shift", "se", "embedding")
    configs = {arm: config_file.get_config(arm) for arm in config_file.ARMS}
    added = [{part for part in parts if configs[arm].model[part]} for arm in ("tsn", "tsm", "tsm_se", "manet")]
    assert added == [set(), {"shift"}, {"shift", "se"}, {"shift", "se", "embedding"}]
    for arm, config in configs.items():
        configuration.parse(config)
        rest = config.to_dict()
        rest["model"] = {name: value for name, value in rest["model"].items() if name not in parts}
        if arm == "single_frame":
            assert rest["clip"].pop("num_frames") == 1
            rest["clip"]["num_frames"] = 8
        manet = configs["manet"].to_dict()
        manet["model"] = {name: value for name, value in manet["model"].items() if name not in parts}
        assert rest == manet


def test_ablation_command_trains_once_and_writes_its_table(tmp_path, monkeypatch, capsys):
    write_folder(tmp_path / "set", names=MA52_NAMES)
    fields = {
        "data.manual_dir": tmp_path / "set",
        "data.synthetic.size": 0,
        "clip.short_side": 36,
        "clip.crop_size": 32,
        "model.depth": 8,
        "model.width": 4,
        "num_epochs": 1,
    }
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    workdir = tmp_path / "study"
    arguments = ["--workdir", str(workdir), "--arms=single_frame", "--seeds=1", *overrides]
    monkeypatch.chdir(ROOT)
    assert ablation.main(arguments) == 0
    printed = capsys.readouterr()
    assert "run 1 of 1: single_frame, seed 0" in printed.err
    table = (workdir / "ablation.md").read_text()
    assert printed.out == table
    runs = json.loads((workdir / "ablation.json").read_text())
    evaluation = json.loads((workdir / "single_frame_0" / "evaluation_val_latest.json").read_text())
    assert runs["single_frame"][0]["f1_mean"] == evaluation["f1_mean"]
    assert f"| f1 mean | {100 * evaluation['f1_mean']:.1f} |" in table
    assert np.asarray(Image.open(workdir / "ablation.png")).std() > 10

    log = workdir / "single_frame_0" / "metrics.jsonl"
    before = log.read_text()
    assert ablation.main(arguments) == 0
    assert capsys.readouterr().out == table
    assert log.read_text() == before  # nothing was trained twice


def test_failed_run_ends_the_study_with_its_own_message(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    assert ablation.main(["--workdir", str(tmp_path), "--arms=slowfast"]) == 2
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    first, second = errors.splitlines()[-2:]
    assert "configs/ablation.py has no arm 'slowfast'; name one of single_frame, tsn, tsm, tsm_se, manet" in first
    assert second == (
        f"manet_jax: the run in {tmp_path / 'slowfast_0'} has failed; start the study again when the cause is fixed"
    )


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--seeds=0", "--seeds is 0; give 1 or more"),
        ("--seed=3", "unknown flag --seed=3; a config's field is set by --config.field=value"),
        ("--config.num_epochs", "unknown flag --config.num_epochs; a config's field"),
        ("--config.seed=3", "--config.seed=3: the study sets the seeds itself, 0 to --seeds - 1"),
        ("--arms=tsn,tsn", "--arms is 'tsn,tsn'; give each arm once, commas between"),
        ("--arms=", "--arms is ''; give each arm once, commas between"),
    ],
)
def test_ablation_command_refuses_wrong_flags(flag, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        ablation.main(["--workdir", str(tmp_path), flag])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
