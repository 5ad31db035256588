import functools
import itertools
import json

import numpy as np
import pytest
from helpers import ROOT, write_folder
from PIL import Image

from configs import ablation as config_file
from manet_jax import configuration, metrics
from manet_jax.studies import ablation, effects, study
from tfds_ma52.errors import UserError
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


def test_arms_are_the_full_factorial_of_the_parts():
    parts = ("shift", "se", "embedding")
    configs = {arm: config_file.get_config(arm) for arm in config_file.ARMS}
    has = {arm: frozenset(part for part in parts if config.model[part]) for arm, config in configs.items()}
    assert has.pop("single_frame") == frozenset()
    assert sorted(map(sorted, has.values())) == sorted(
        sorted(chosen) for size in range(4) for chosen in itertools.combinations(parts, size)
    )
    added = [has[arm] for arm in ("tsn", "tsm", "tsm_se", "manet")]
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


def test_backbone_is_the_network_of_a_single_frame_on_other_people():
    backbone, arm = (config_file.get_config(name) for name in (config_file.BACKBONE, "single_frame"))
    assert backbone.model == arm.model
    assert backbone.clip == arm.clip
    assert backbone.data.manual_dir != arm.data.manual_dir
    assert backbone.data.synthetic.seed != arm.data.synthetic.seed


def test_factorial_gives_the_effects_of_a_made_up_model():
    # Shift brings 8, squeeze-and-excitation 2, the embedding 1, and shift and embedding together 4 more.
    def outcome(arm):
        model = config_file.get_config(arm).model
        return 8 * model.shift + 2 * model.se + model.embedding + 4 * (model.shift and model.embedding)

    effects = {
        name: sum(weight * outcome(arm) for arm, weight in contrast.items())
        for name, contrast in ablation.factorial(config_file.ARMS).items()
    }
    assert effects == {
        "shift, alone": 8,
        "shift, mean over the others": 10,
        "shift, in the full model": 12,
        "se, alone": 2,
        "se, mean over the others": 2,
        "se, in the full model": 2,
        "embedding, alone": 1,
        "embedding, mean over the others": 3,
        "embedding, in the full model": 5,
        "all together": 15,
    }
    assert list(ablation.factorial(["tsn", "tsm", "single_frame"])) == ["shift, alone"]


def made_up(confusion):
    """What `measure` writes of a run with a confusion matrix."""
    target, predicted = (np.repeat(indices.ravel(), confusion.ravel()) for indices in np.indices(confusion.shape))
    names = [f"{i % 3:04d}_01_{i:04d}.mp4" for i in range(len(target))]
    clips = {"video_ids": names, "target": target.tolist(), "predicted": predicted.tolist()}
    return {"confusion": confusion.tolist(), "action_top5": 1.0, "clips": clips}


def test_compare_writes_effects_or_the_differences_from_a_reference(tmp_path, unchecked, monkeypatch):
    monkeypatch.setattr(effects, "bootstrap", functools.partial(effects.bootstrap, num_samples=20))
    fields = {"config_file": "x.py", "num_seeds": 1, "workdir": tmp_path}
    right = confusion_of(nodding__nodding=4)
    half = confusion_of(nodding__nodding=2, nodding__shaking_head=2)
    results = {"tsn": {0: made_up(half)}, "tsm": {0: made_up(right)}}
    text = ablation.compare(study.Study(**fields, arms=("tsn", "tsm")), results)
    assert text.startswith("| % | tsn | tsm |")
    assert "| shift, alone | +50.0 |" in text.partition("**action top1**")[2].partition("**")[0]
    results["baseline"] = {0: made_up(right)}
    text = ablation.compare(study.Study(**fields, arms=tuple(results), reference="baseline"), results)
    differences = text.partition("**action top1**")[2].partition("**")[0]
    assert "| tsn - baseline | -50.0 |" in differences
    assert "| tsm - baseline | +0.0 | +0.0 to +0.0 |" in differences
    assert json.loads((tmp_path / "effects.json").read_text())["effects"].keys() == {"tsn - baseline", "tsm - baseline"}
    for name in ("ablation", "effects"):
        assert np.asarray(Image.open(tmp_path / f"{name}.png")).std() > 10


def test_classes_other_than_ma52s_are_refused(tmp_path):
    plan = study.Study(config_file="x.py", arms=("tsn",), num_seeds=1, workdir=tmp_path)
    with pytest.raises(UserError, match="tsn_0 has 3 classes; the study compares MA-52's 52"):
        ablation.compare(plan, {"tsn": {0: made_up(np.eye(3, dtype=int))}})


@pytest.mark.slow
def test_ablation_command_trains_the_backbone_and_the_arms_from_it(tmp_path, monkeypatch, commands_here, capsys):
    monkeypatch.chdir(ROOT)
    write_folder(tmp_path / "set", names=MA52_NAMES)
    fields = {
        "data.manual_dir": str(tmp_path / "set"),
        "data.synthetic.size": 0.0,
        "clip.short_side": 36,
        "clip.crop_size": 32,
        "model.depth": 8,
        "model.width": 8,
        "num_epochs": 1.0,
    }
    (tmp_path / "config.py").write_text(
        "from configs import ablation\n\nARMS, BACKBONE = ablation.ARMS, ablation.BACKBONE\n\n\n"
        "def get_config(arm):\n    config = ablation.get_config(arm)\n"
        f"    config.update_from_flattened_dict({fields!r})\n    return config\n"
    )
    workdir = tmp_path / "study"
    arguments = ["--workdir", str(workdir), f"--config={tmp_path}/config.py", "--arms=tsm", "--seeds=1"]
    assert ablation.main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["the backbone, from whose weights all arms start", "run 1 of 1: tsm, seed 0"]
    assert printed.out == (workdir / "ablation.md").read_text()
    (origin,) = json.loads((workdir / "tsm_0" / "run.json").read_text())["initialized_from"]
    assert origin["workdir"] == str(workdir / "backbone")
    assert origin["fresh"] == []
    evaluation = json.loads((workdir / "tsm_0" / "evaluation_val_latest.json").read_text())
    (values,) = json.loads((workdir / "ablation.json").read_text())["tsm"]
    assert {name: values[name] for name in metrics.RECOGNITION_NAMES} == pytest.approx(
        {name: evaluation[name] for name in metrics.RECOGNITION_NAMES}
    )
    assert len(commands_here) == 4
    assert ablation.main(arguments) == 0
    assert capsys.readouterr().out == printed.out
    assert len(commands_here) == 4  # nothing was trained twice
