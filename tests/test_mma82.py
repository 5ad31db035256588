import json
import shutil
import sys

import pytest
from helpers import outcome

from manet_jax.data import selection
from manet_jax.data.dataset import Dataset
from manet_jax.studies.small_runs import command
from tfds_ma52 import k_shot, ma52_dataset_builder, mma52, mma82
from tfds_ma52.errors import UserError
from tfds_ma52.splits import ALL_SPLITS, DOMAIN_SPLITS, required, role_of

LABELS = "0\tnodding\thead\n1\tshaking legs\tlegs\n2\tpatting legs\tlegs\n"
HEADER = "video,label,domain,split\n"
ROWS = HEADER + "a.mp4,nodding,laboratory,train\nb.mp4,1,Laboratory,val\nc.mp4,2.0,street,train\nd.mp4,,street,test\n"


def write(root, rows=ROWS, labels=LABELS):
    (root / "annotations.csv").write_text(rows)
    (root / "label_name.txt").write_text(labels)
    return root


def test_splits_are_those_of_domains_and_their_roles():
    assert len(ALL_SPLITS) == len(set(ALL_SPLITS)) == 15
    assert DOMAIN_SPLITS[:4] == ("laboratory_train", "laboratory_val", "laboratory_test", "psychiatric_train")
    assert [role_of(split) for split in ("val", "emotion_test")] == ["val", "test"]
    assert required(["train", "test"]) == ("train", "val")
    assert required(["street_test", "laboratory_train"]) == ("laboratory_train", "street_test")


def test_read_folder_reads_rows_of_a_csv_file(tmp_path):
    folder = mma82.read_folder(write(tmp_path))
    assert folder.problems == ()
    assert [(clip.video_id, clip.split, clip.labels) for clip in folder.clips] == [
        ("a.mp4", "laboratory_train", (0,)),
        ("b.mp4", "laboratory_val", (1,)),
        ("c.mp4", "street_train", (2,)),
        ("d.mp4", "street_test", None),  # no clip of the split has a label
    ]
    assert folder.labels.group_names == ("head", "legs")
    assert folder.warnings == (f"{tmp_path}: val has clips, but train has none, of 1 of 3 classes: shaking legs",)


def test_read_folder_reads_lists_in_the_folders_of_splits(tmp_path):
    (tmp_path / "laboratory_train").mkdir()
    (tmp_path / "videos").mkdir()
    (tmp_path / "label_name.txt").write_text(LABELS)
    (tmp_path / "laboratory_train_list_videos.txt").write_text("a.mp4 0\nb.mp4 1\n")
    (tmp_path / "street_test_list_videos.txt").write_text("c.mp4 0\nd.mp4 0\n")  # hidden, as MA-52's
    folder = mma82.read_folder(tmp_path)
    assert folder.problems == ()
    assert [(str(clip.path.relative_to(tmp_path)), clip.split, clip.labels) for clip in folder.clips] == [
        ("laboratory_train/a.mp4", "laboratory_train", (0,)),
        ("laboratory_train/b.mp4", "laboratory_train", (1,)),
        ("videos/c.mp4", "street_test", None),
        ("videos/d.mp4", "street_test", None),
    ]


def test_read_folder_reports_every_bad_row(tmp_path):
    rows = ROWS + "e.mp4,nod,laboratory,train\nf.mp4,0,home,train\ng.mp4,0,street,dev\n,0,street,val\n"
    rows += "../h.mp4,0,street,val\ni.mp4,-,street,val\na.mp4,0,street,val\nj.mp4,5,emotion,train\n"
    rows += "k.mp4,0,emotion,test\nl.mp4,,emotion,test\n"
    (tmp_path / "a.mp4").touch()
    problems = mma82.read_folder(write(tmp_path, rows)).problems
    assert [problem.removeprefix(f"{tmp_path}/annotations.csv:") for problem in problems] == [
        "6: unknown label 'nod'; did you mean 'nodding'?",
        "7: domain is 'home'; expected one of laboratory, psychiatric, street, emotion",
        "8: split is 'dev'; expected one of train, val, test",
        "9: the video is missing",
        f"10: '../h.mp4' lies outside {tmp_path}",
        "13: label 5 is outside 0..2",
        "11: the label is missing",
        "15: the label is missing",
        f"12: a.mp4 is listed more than once (also {tmp_path}/annotations.csv:2)",
    ]


def test_read_folder_needs_lists_and_the_names_of_classes(tmp_path):
    expected = (
        "has no lists of MMA-82: write .* laboratory_train_list_videos.txt .* laboratory, psychiatric, street, emo"
    )
    with pytest.raises(UserError, match=expected) as error:
        mma82.read_folder(tmp_path)
    assert error.value.field == "list_file"
    write(tmp_path)
    (tmp_path / "label_name.txt").unlink()
    expected = (
        "has no label_name.txt: which id each of MMA-82's 82 classes has is not published, so the data must say it"
    )
    with pytest.raises(UserError, match=expected):
        mma82.read_folder(tmp_path)


def test_read_folder_names_a_missing_folder_of_clips(tmp_path):
    (tmp_path / "label_name.txt").write_text(LABELS)
    (tmp_path / "street_val_list_videos.txt").write_text("a.mp4 0\n")
    problems = mma82.read_folder(tmp_path, video_folder="clips/{split}").problems
    assert problems[0].endswith(f"street_val_list_videos.txt: its clips have no folder clips/street_val in {tmp_path}")


def test_read_videos_reads_domains_in_mma52s_form(tmp_path):
    """With dummies in a domain's test split; and the names of classes are asked for."""
    header = "id,video_id,start_frame,end_frame,class,total_frames,fps\n"
    (tmp_path / "street_train.csv").write_text(header + "0,a,0,30,nodding,165,30\n1,a,60,90,2,165,30\n")
    (tmp_path / "emotion_test.csv").write_text(header + "0,b,0,20,1,60,30\n1,c,0,20,2,60,30\n")
    with pytest.raises(UserError, match=r"has no label_name\.txt: which id each of MMA-82's"):
        mma52.read_videos(tmp_path)
    (tmp_path / "label_name.txt").write_text(LABELS)
    _, videos = mma52.read_videos(tmp_path)
    assert [(v.name, v.split, len(v.actions)) for v in videos] == [
        *(("a", "street_train", 2), ("b", "emotion_test", 0), ("c", "emotion_test", 0)),
    ]
    folder = mma52.read_folder(tmp_path, window=2.0, stride=2.0, min_overlap=0.5)
    assert [clip.labels for clip in folder.clips] == [(0,), (2,), (), None, None]


def many(counts, split="psychiatric_train"):
    """A folder of so many clips of each class."""
    rows = [
        f"{split}/{label}_{i}.mp4,{label},{split.replace('_', ',')}" for label, n in enumerate(counts) for i in range(n)
    ]
    return HEADER + "\n".join(rows) + "\n"


def test_draw_takes_k_of_each_class_and_few_are_among_many(tmp_path):
    folder = mma82.read_folder(write(tmp_path, many((9, 2, 30))))
    five, ten = (k_shot.draw(folder, "psychiatric_train", k, seed=0) for k in (5, 10))
    assert [sum(label == i for _, label in five) for i in range(3)] == [5, 2, 5]
    assert [sum(label == i for _, label in ten) for i in range(3)] == [9, 2, 10]
    assert set(five) < set(ten)
    assert five == k_shot.draw(folder, "psychiatric_train", 5, seed=0)
    assert five != k_shot.draw(folder, "psychiatric_train", 5, seed=1)


def test_draw_takes_each_clip_as_often_as_any_other(tmp_path):
    folder = mma82.read_folder(write(tmp_path, many((4, 0, 0))))
    drawn = [name for seed in range(400) for name, _ in k_shot.draw(folder, "psychiatric_train", 1, seed)]
    assert all(80 < drawn.count(name) < 120 for name in set(drawn))
    assert len(set(drawn)) == 4


def test_k_shot_writes_a_list_and_notes_rare_classes(tmp_path, capsys):
    write(tmp_path, many((9, 2, 0)))
    arguments = [str(tmp_path), "--split", "psychiatric_train", "--out", str(tmp_path / "five.txt")]
    assert k_shot.main([*arguments, "--k", "5"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path}/five.txt: 7 clips of 2 classes\n"
    assert captured.err == "2 of 3 classes have fewer than 5 clips: shaking legs (2), patting legs (none)\n"
    found = k_shot.read_list(tmp_path / "five.txt")
    assert sorted(found.values()) == [0, 0, 0, 0, 0, 1, 1]
    assert all(name.startswith(f"psychiatric_train/{label}_") for name, label in found.items())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--k=0",), "--k is 0; it must be at least 1"),
        (("--k=1", "--seed=-1"), "--seed is -1; it must be at least 0"),
        (
            ("--k=1", "--split=street_val"),
            "there is no split 'street_val' with public labels; there are psychiatric_tr",
        ),
        (("--k=1", "--out=/none/x.txt"), "--out: /none/x.txt cannot be written (No such file or directory)"),
        (("--k=1", "--list_file=none.csv"), "has no lists of MMA-82"),
    ],
)
def test_k_shot_refuses_wrong_arguments(tmp_path, capsys, flags, expected):
    write(tmp_path, many((3, 3, 3)))
    defaults = ["--split=psychiatric_train", f"--out={tmp_path}/x.txt"]
    assert k_shot.main([str(tmp_path), *defaults, *flags]) == 2
    assert expected in capsys.readouterr().err


def test_read_list_reports_every_bad_line(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a.mp4 0\n\nb.mp4\na.mp4 1\n")
    _, error = outcome(lambda: k_shot.read_list(path))
    assert error.splitlines() == [
        "--train_list cannot be used: 2 problems",
        f"  {path}:3: expected '<name> <label>', got 'b.mp4'",
        f"  {path}:4: a.mp4 is listed more than once",
    ]
    path.write_text("")
    assert f"{path}: the list is empty" in outcome(lambda: k_shot.read_list(path))[1]
    assert "none.txt cannot be read" in outcome(lambda: k_shot.read_list(tmp_path / "none.txt"))[1]


@pytest.fixture(scope="session")
def domains(drawn, shared):
    """A stand-in for MMA-82: drawn clips of two domains, in three classes."""

    def write_domains(root):
        root.mkdir()
        found = [sorted((drawn / split).glob("*.mp4")) for split in ("train", "val")]
        parts = {"laboratory_train": found[0][:16], "laboratory_val": found[0][16:24]}
        parts |= {"psychiatric_train": found[1][:12], "psychiatric_test": found[1][12:20]}
        rows = []
        for split, paths in parts.items():
            (root / split).mkdir()
            for number, path in enumerate(paths):
                shutil.copy(path, root / split / f"{number}.mp4")
                rows.append(f"{split}/{number}.mp4,{number % 3},{split.replace('_', ',')}\n")
        write(root, HEADER + "".join(rows))

    return shared("domains", write_domains)


def test_build_makes_a_split_of_each_domain(domains, tmp_path):
    builder = ma52_dataset_builder.build(domains, tmp_path, config="mma82_jpeg_256", num_processes=1)
    counts = {"laboratory_train": 16, "laboratory_val": 8, "psychiatric_train": 12, "psychiatric_test": 8}
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == counts
    assert [example["label"] for example in builder.as_data_source("psychiatric_test")] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert builder.info.metadata["label_counts"]["psychiatric_train"] == [4, 4, 4]


@pytest.mark.slow
def test_training_on_a_domain_and_a_few_clips_of_another(domains, tmp_path, run_command):
    """Trains in the laboratory, evaluates across domains, and goes on from there with two clips a class."""
    fields = {"data.builder_config": "mma82_original", "data.data_dir": str(tmp_path / "built"), "num_epochs": 1.0}
    fields |= {"eval.every_epochs": 1.0}
    config, workdirs = "configs/mma82.py", [tmp_path / name for name in ("laboratory", "few")]
    result = run_command(command(workdirs[0], domains, config=config, **fields))
    assert result.returncode == 0, result.stderr

    evaluate = [sys.executable, "-m", "manet_jax.main", "--mode=evaluate", f"--workdir={workdirs[0]}", "--noreport"]
    result = run_command([*evaluate, "--splits=laboratory_val,psychiatric_test"])
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[0].split() == ["laboratory_val", "psychiatric_test"]
    for split in ("laboratory_val", "psychiatric_test"):
        assert json.loads((workdirs[0] / f"evaluation_{split}_best.json").read_text())["step"] == 2
    assert "has no split 'street_test'" in run_command([*evaluate, "--splits=laboratory_val,street_test"]).stderr

    arguments = [str(domains), "--k=2", "--split=psychiatric_train", f"--out={tmp_path}/few.txt"]
    assert k_shot.main(arguments) == 0
    fields |= {"init_from": str(workdirs[0]), "data.train_splits": ("psychiatric_train",)}
    fields |= {"data.train_list": f"{tmp_path}/few.txt", "eval.split": "psychiatric_test", "batch_size": 6}
    result = run_command(command(workdirs[1], domains, config=config, **fields))
    assert result.returncode == 0, result.stderr
    metadata = json.loads(next(workdirs[1].rglob("metadata/*")).read_text())
    assert (metadata["data"]["training clips"], metadata["data"]["training counts"]) == (6, [2, 2, 2])

    # A run goes on with the same clips alone.
    assert k_shot.main([*arguments, "--seed=1"]) == 0
    result = run_command(command(workdirs[1], domains, config=config, **fields | {"num_epochs": 2.0}))
    assert (result.returncode, "data of the run.training list" in result.stderr) == (2, True), result.stderr


def test_training_source_holds_the_list_against_the_set(domains, tmp_path):
    built = ma52_dataset_builder.build(domains, tmp_path, config="mma82_original", num_processes=1)
    dataset = Dataset(built, mma82.read_folder(domains).labels, (), "", ())
    listed = tmp_path / "list.txt"
    listed.write_text("psychiatric_train/4.mp4 1\npsychiatric_train/2.mp4 2\n")
    source = dataset.training_source(("laboratory_train", "psychiatric_train"), str(listed))
    assert [example["video_id"] for example in source] == [b"psychiatric_train/2.mp4", b"psychiatric_train/4.mp4"]
    assert source.labels().tolist() == [2, 1]
    listed.write_text("psychiatric_train/4.mp4 2\npsychiatric_test/2.mp4 2\n")
    _, error = outcome(lambda: dataset.training_source(("psychiatric_train",), str(listed)))
    assert error.splitlines() == [
        "--train_list cannot be used: 2 problems",
        f"  {listed}: psychiatric_test/2.mp4 is no clip of the splits to train on",
        f"  {listed}: psychiatric_train/4.mp4 is of class 2, but of class 1 in the built set",
    ]


def test_find_rows_is_for_one_label_a_clip(tmp_path):
    (tmp_path / "list.txt").write_text("a.mp4 1\n")
    _, error = outcome(lambda: selection.find_rows(tmp_path / "list.txt", [{"labels": [0, 1]}]))
    assert error == "--train_list is for clips of one label each: set it to ''"
