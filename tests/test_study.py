"""What the commands of all studies have in common: their plan, what is finished, what is missing."""

import json
import shlex

import pytest
from helpers import ROOT

from configs import ablation as ablation_config
from configs import benchmark as benchmark_config
from manet_jax import configuration
from manet_jax.studies import ablation, benchmark, study
from tfds_ma52.errors import UserError

CONFIG = "configs/ablation.py"


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def plan(workdir, **fields):
    return study.Study(**{"config_file": CONFIG, "arms": ("tsn", "manet"), "num_seeds": 2, "workdir": workdir} | fields)


def finish(run, **values):
    """Writes what `measure` would of a finished run."""
    run.directory.mkdir(parents=True, exist_ok=True)
    result = {"config": study.load_config(run.config).to_dict(), **values}
    (run.directory / study.RESULT_FILE).write_text(json.dumps(result))


def test_config_is_what_the_command_makes_of_its_flags():
    flags = [f"--config={CONFIG}:tsm", "--config.batch_size=3", "--config.clip.crop_scales=(1.0,0.5)"]
    expected = ablation_config.get_config("tsm")
    expected.batch_size, expected.clip.crop_scales = 3, (1.0, 0.5)
    assert study.load_config(flags).to_dict() == expected.to_dict()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([f"--config={CONFIG}:x"], f"--config={CONFIG}:x is no config: .*has no arm 'x'"),
        ([f"--config={CONFIG}", "--config.batchsize=3"], "--config.batchsize=3 is no config: .*Did you mean"),
        ([f"--config={CONFIG}", "--config.batch_size=x"], "--config.batch_size=x is no config: .*batch_size"),
    ],
)
def test_config_that_is_none_is_a_users_error(flags, message):
    with pytest.raises(UserError, match=message):
        study.load_config(flags)


def test_runs_are_planned_seed_by_seed(tmp_path):
    runs = plan(tmp_path, overrides=("--config.batch_size=4",)).runs
    assert list(runs) == [("tsn", 0), ("manet", 0), ("tsn", 1), ("manet", 1)]
    run = runs["manet", 1]
    assert run.directory == tmp_path / "manet_1"
    assert run.config == (f"--config={CONFIG}:manet", "--config.batch_size=4", "--config.seed=1")
    config = study.load_config(run.config)
    assert (config.seed, config.batch_size, config.model.se) == (1, 4, True)


def test_arms_start_from_the_backbone_or_from_given_weights(tmp_path):
    def starts(**fields):
        planned = plan(tmp_path, backbone="backbone", **fields)
        return planned.first, [study.load_config(run.config).init_from for run in planned.runs.values()][:2]

    # The size of the network is that of the arms, the data are others.
    first, weights = starts(overrides=("--config.model.width=8", "--config.data.manual_dir=x"))
    assert weights == [str(tmp_path / "backbone")] * 2
    assert first.config == (f"--config={CONFIG}:backbone", "--config.model.width=8")
    assert starts(overrides=("--config.init_from=x",)) == (None, ["x", "x"])
    for name in ("one/checkpoints", "each/tsn", "each/manet"):
        (tmp_path / name).mkdir(parents=True)
    assert starts(init_from=str(tmp_path / "one")) == (None, [str(tmp_path / "one")] * 2)
    assert starts(init_from=str(tmp_path / "each")) == (
        None,
        [str(tmp_path / f"each/{arm}") for arm in ("tsn", "manet")],
    )
    (tmp_path / "each/manet").rmdir()
    with pytest.raises(UserError, match="each has no folder manet; link the weights that each is to start from there"):
        starts(init_from=str(tmp_path / "each"))


@pytest.mark.parametrize(
    ("main", "arguments", "arms"),
    [
        (benchmark.main, ["--init_from", "weights"], benchmark_config.ARMS),
        (benchmark.main, ["--config=configs/benchmark.py:synthetic"], benchmark_config.ARMS),
        (ablation.main, ["--seeds=1"], ["backbone", *ablation_config.ARMS]),
    ],
)
def test_listed_commands_are_the_runs(main, arguments, arms, tmp_path, capsys):
    for arm in benchmark_config.ARMS:
        (tmp_path / "weights" / arm).mkdir(parents=True)
    words = [str(tmp_path / word) if word == "weights" else word for word in arguments]
    assert main(["--workdir", str(tmp_path), "--list", "--seeds=1", "--config.batch_size=6", *words]) == 0
    lines = [line.split(" && ") for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == len(arms)
    for arm, (train, measure) in zip(arms, lines, strict=True):
        train, measure = shlex.split(train), shlex.split(measure)
        assert train[:3] == ["python", "-m", "manet_jax.main"]
        assert measure[:3] == ["python", "-m", "manet_jax.studies.measure"]
        assert train[3] == measure[3] == f"--workdir={tmp_path / arm}" + ("_0" if arm != "backbone" else "")
        parsed = configuration.parse(study.load_config([word for word in train[3:] if word.startswith("--config")]))
        assert parsed.batch_size == 6
        assert bool(parsed.init_from) == ("weights" in arguments or (main is ablation.main and arm != "backbone"))


def test_what_is_finished_is_not_started_again(tmp_path, monkeypatch, capsys):
    planned = plan(tmp_path)
    for run in planned.runs.values():
        finish(run, name=run.name)
    started = []
    monkeypatch.setattr(study.Run, "start", lambda run: started.append(run.name) or {"name": run.name})
    expected = {arm: {seed: {"name": f"{arm}, seed {seed}"} for seed in (0, 1)} for arm in ("tsn", "manet")}

    def named(results):
        return {arm: {seed: {"name": each["name"]} for seed, each in of.items()} for arm, of in results.items()}

    assert named(study.train_all(planned)) == expected
    assert not started
    (tmp_path / "manet_0" / study.RESULT_FILE).unlink()
    assert named(study.train_all(planned)) == expected
    assert started == ["manet, seed 0"]
    assert capsys.readouterr().err == "run 4 of 4: manet, seed 0\n"
    # What changes no number of a run is free; anything else starts it, so that it can refuse.
    assert planned.runs["tsn", 0].result() is not None
    free, other = (plan(tmp_path, overrides=(f"--config.{field}",)) for field in ("log_every_steps=3", "batch_size=3"))
    assert free.runs["tsn", 0].result() is not None
    assert other.runs["tsn", 0].result() is None


def test_the_time_that_is_left_is_told(tmp_path, monkeypatch, capsys):
    minutes = iter([0, 0, 3, 8, 12])
    monkeypatch.setattr(study.time, "monotonic", lambda: 60 * next(minutes))
    monkeypatch.setattr(study.Run, "start", lambda run: {})
    study.train_all(plan(tmp_path))
    assert capsys.readouterr().err.splitlines() == [
        "run 1 of 4: tsn, seed 0",
        "run 2 of 4: manet, seed 0; 3 minutes so far, about 9 to go",
        "run 3 of 4: tsn, seed 1; 8 minutes so far, about 8 to go",
        "run 4 of 4: manet, seed 1; 12 minutes so far, about 4 to go",
    ]


def test_collect_takes_what_is_finished_and_names_the_rest(tmp_path, capsys):
    planned = plan(tmp_path, arms=("tsn", "tsm", "manet"))
    with pytest.raises(UserError, match="has no finished run of this study; --list prints the commands of its runs"):
        study.collect(planned)
    capsys.readouterr()
    for key in (("tsn", 1), ("manet", 0), ("manet", 1)):
        finish(planned.runs[key])
    results = study.collect(planned)
    assert {arm: list(by_seed) for arm, by_seed in results.items()} == {"tsn": [1], "manet": [0, 1]}
    assert capsys.readouterr().err.splitlines() == [
        f"missing: {name}: {planned.runs[key].line}"
        for name, key in (("tsn, seed 0", ("tsn", 0)), ("tsm, seed 0", ("tsm", 0)), ("tsm, seed 1", ("tsm", 1)))
    ]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--seeds=0", "--seeds is 0; give 1 or more"),
        ("--seed=3", "unknown flag --seed=3; a config's field is set by --config.field=value"),
        ("--config.num_epochs", "unknown flag --config.num_epochs; a config's field"),
        ("--config.seed=3", "--config.seed=3: the study sets the seeds itself, 0 to --seeds - 1"),
    ],
)
def test_command_refuses_wrong_flags(flag, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        ablation.main(["--workdir", str(tmp_path), flag])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("main", "flags", "message"),
    [
        (ablation.main, ["--arms=tsn,tsn"], "--arms is 'tsn,tsn'; give each once, commas between"),
        (ablation.main, ["--arms="], "--arms has ''; those of configs/ablation.py are single_frame, tsn, tsn_se, "),
        (benchmark.main, ["--models=x,c3d"], "--models has 'x'; those of configs/benchmark.py are c3d, i3d, slowfast"),
        (
            benchmark.main,
            ["--models=c3d", "--reference=manet"],
            "--reference is 'manet'; give one that is compared",
        ),
        (benchmark.main, ["--config=configs/ma52.py"], "--config: configs/ma52.py lists no arms to compare: give one"),
        (benchmark.main, ["--config=x.py:small"], "--config: there is no file x.py; those of the project are in its"),
        (benchmark.main, ["--models=c3d", "--collect"], "has no finished run of this study; --list prints"),
    ],
)
def test_command_reports_what_it_cannot_compare(main, flags, message, tmp_path, capsys):
    assert main(["--workdir", str(tmp_path), *flags]) == 2
    assert f"manet_jax: {message}" in capsys.readouterr().err.replace(f"{tmp_path} has", "has")


def test_failed_run_ends_the_study_with_its_own_message(tmp_path, capfd):
    assert ablation.main(["--workdir", str(tmp_path), "--config.init_from=x", "--config.batch_size=0"]) == 2
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    first, second = errors.splitlines()[-2:]
    assert "config.batch_size is 0; it must be at least 1" in first
    assert second == (
        f"manet_jax: the run in {tmp_path / 'single_frame_0'} has failed; start the study again when the cause is fixed"
    )
