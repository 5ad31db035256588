import collections
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest
import tensorflow_datasets as tfds
from helpers import ROOT, outcome, write_clip, write_folder

import tfds_ma52.__main__
from tfds_ma52 import labels, ma52_dataset_builder, transcode
from tfds_ma52.errors import UserError

LINE = "expected '<name>.mp4 <label>' or '<folder> <num_frames> <label>'"


def names(builder, split):
    return [example["video_id"].decode() for example in builder.as_data_source(split)]


def test_builder_is_registered_with_tfds_as_ma52(tmp_path):
    builder = tfds.builder("ma52", data_dir=tmp_path)
    assert builder.info.features["label"].names == list(labels.MA52_NAMES)
    forms = ("h264_256", "jpeg_256", "original")
    whole = {f"{layout}{form}" for layout in ("", "pro_", "mma82_") for form in forms}
    windowed = {f"{layout}{form}" for layout in ("mma52_", "annotated_") for form in forms[:2]}
    assert set(builder.builder_configs) == whole | windowed
    assert next(iter(builder.builder_configs)) == builder.info.config_name == "h264_256"


@pytest.mark.parametrize("layout", ["videos", "annotations"])
def test_build_builds_both_layouts(tmp_path, layout):
    root = write_folder(tmp_path, per_split=(("train", 5), ("val", 2), ("test", 2)), layout=layout)
    builder = ma52_dataset_builder.build(root, tmp_path / "built")
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 5,
        "val": 2,
        "test": 2,
    }
    examples = list(builder.as_data_source("train"))
    assert [example["video_id"] for example in examples] == [f"000{i % 4}_01_000{i}.mp4".encode() for i in range(5)]
    assert [example["label"] for example in examples] == [0, 1, 2, 0, 1]
    assert [example["body_label"] for example in examples] == [0, 1, 2, 0, 1]
    assert [example["subject"] for example in examples] == [b"0000", b"0001", b"0002", b"0003", b"0000"]
    assert [int(example["num_frames"]) for example in examples] == [12, 13, 14, 15, 16]
    assert {(int(example["height"]), int(example["width"])) for example in examples} == {(64, 48)}
    assert builder.info.features["label"].int2str(2) == "tiptoe"
    assert [example["label"] for example in builder.as_data_source("test")] == [-1, -1]
    assert not list((tmp_path / "built").glob(".ma52*"))  # no leftovers


def test_build_original_keeps_the_bytes(folder, tmp_path):
    builder = ma52_dataset_builder.build(folder, tmp_path, config="original")
    for example in builder.as_data_source("val"):
        assert example["video"] == (folder / "videos_val" / example["video_id"].decode()).read_bytes()


def test_build_keeps_the_lists_label_distribution(folder):
    builder = ma52_dataset_builder.build(folder)
    assert collections.Counter(example["label"] for example in builder.as_data_source("train")) == {0: 4, 1: 4, 2: 4}


def test_build_reports_lists_and_clips_together(tmp_path):
    root = write_folder(tmp_path, per_split=(("train", 3), ("val", 1)))
    (root / "label_name.txt").write_text("0: nodding\n")
    (root / "train_list_videos.txt").write_text("0000_01_0000.mp4 0\n0001_01_0001.mp4 one\n0002_01_0002.mp4 2\n")
    (root / "videos_train" / "0002_01_0002.mp4").write_bytes(b"")
    with pytest.raises(UserError) as error:
        ma52_dataset_builder.build(root)
    assert [line.strip().removeprefix(f"{root}/") for line in str(error.value).splitlines()[1:]] == [
        "label_name.txt:1: expected '<id><TAB><name>' or '<id><TAB><name><TAB><group>', got '0: nodding'",
        f"train_list_videos.txt:2: {LINE}, got '0001_01_0001.mp4 one'",
        f"train_list_videos.txt:3: {root}/videos_train/0002_01_0002.mp4: the file is empty",
    ]


def test_build_refuses_a_split_without_readable_clips(tmp_path):
    root = write_folder(tmp_path, per_split=(("train", 2), ("val", 1)))
    (root / "videos_val" / "0100_01_0000.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"split val has no readable clip: 1 problem\n .*the file is empty"):
        ma52_dataset_builder.build(root, allow_damaged=9)


def test_build_reports_an_unwritable_data_dir(tmp_path):
    root = write_folder(tmp_path, per_split=(("train", 1), ("val", 1)))
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"/file/built cannot be written \(Not a directory\): name another folder with --data_dir"
    ):
        ma52_dataset_builder.build(root, tmp_path / "file" / "built")


@pytest.mark.parametrize("removed", ["clips", "clips and lists", "all"])
def test_build_opens_a_built_set_without_its_source(tmp_path, removed):
    root = write_folder(tmp_path / "source", per_split=(("train", 2), ("val", 1)))
    data_dir = tmp_path / "built" if removed == "all" else ""
    first = names(ma52_dataset_builder.build(root, data_dir), "train")
    if removed == "all":
        shutil.rmtree(root)
    else:
        shutil.rmtree(root / "videos_train")
    if removed == "clips and lists":
        (root / "train_list_videos.txt").unlink()
    assert names(ma52_dataset_builder.build(root, data_dir), "train") == first


def test_build_resumes_and_a_killed_one_never_looks_whole(tmp_path):
    root = write_folder(tmp_path, per_split=(("train", 12), ("val", 4)))
    work, built = root / "tfds" / ".ma52_h264_256_in_progress", root / "tfds" / "ma52" / "h264_256" / "1.1.0"
    command = [sys.executable, "-m", "tfds_ma52", "--manual_dir", str(root), "--num_processes=1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(work.glob("*/*.json"))) < 3:
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not built.exists()
    (work / "train" / "left.mp4.partial").write_bytes(b"")
    assert list(built.parent.glob("incomplete.*_1.1.0"))  # what TFDS leaves
    times = {path: path.stat().st_mtime_ns for path in work.glob("*/*.json")}
    seen = {}
    original = transcode.prepare_videos

    def remember(*arguments, **options):
        infos = original(*arguments, **options)
        seen.update({path: path.stat().st_mtime_ns for path in times})
        return infos

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transcode, "prepare_videos", remember)
        assert len(names(ma52_dataset_builder.build(root), "train")) == 12
    assert seen == times  # finished clips were not made again
    assert sorted(path.name for path in built.parent.iterdir()) == [".lock", "1.1.0"]


def test_build_refuses_a_script_without_a_main_guard(tmp_path):
    # Its workers run the script again, and would wait for the lock that the build holds.
    write_folder(tmp_path / "data")
    script = tmp_path / "script.py"
    script.write_text(
        "from tfds_ma52 import ma52_dataset_builder\n"
        f"ma52_dataset_builder.build({str(tmp_path / 'data')!r}, num_processes=1)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert run.returncode == 1
    assert "put what the script does under if __name__ == '__main__':" in run.stderr


@pytest.mark.parametrize("moment", ["before", "after"])
def test_build_recovers_from_a_killed_overwrite(tmp_path, moment):
    root = write_folder(tmp_path, per_split=(("train", 2), ("val", 1)))
    target = pathlib.Path(ma52_dataset_builder.build(root).data_dir)
    replaced = target.with_name("1.1.0.replaced")
    if moment == "before":
        target.rename(replaced)
    else:
        shutil.copytree(target, replaced)
    assert len(names(ma52_dataset_builder.build(root, overwrite=moment == "after"), "train")) == 2
    assert not replaced.exists()


def test_build_refuses_other_lists_until_overwritten(tmp_path):
    root = write_folder(tmp_path, per_split=(("train", 3), ("val", 1)))
    ma52_dataset_builder.build(root)
    path = root / "train_list_videos.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:2]))
    with pytest.raises(UserError, match=r"from other lists \(or windows, or boxes\) than those now in .*--overwrite"):
        ma52_dataset_builder.build(root)
    assert len(names(ma52_dataset_builder.build(root, overwrite=True), "train")) == 2


def test_build_keeps_the_old_set_if_an_overwrite_fails(tmp_path):
    root = write_folder(tmp_path, per_split=(("train", 3), ("val", 1)))
    ma52_dataset_builder.build(root)
    clip = root / "videos_train" / "0001_01_0001.mp4"
    content = clip.read_bytes()
    clip.write_bytes(b"")
    with pytest.raises(UserError, match="the file is empty"):
        ma52_dataset_builder.build(root, overwrite=True)
    clip.write_bytes(content)
    assert len(names(ma52_dataset_builder.build(root), "train")) == 3


def test_command_reports_damaged_clips_or_leaves_them_out(tmp_path, capsys):
    root = write_folder(tmp_path, per_split=(("train", 4), ("val", 2)))
    (root / "videos_train" / "0001_01_0001.mp4").write_bytes(b"")
    (root / "videos_val" / "0100_01_0000.mp4").unlink()
    command = ["--manual_dir", str(root), "--num_processes=1"]
    assert tfds_ma52.__main__.main(command) == 2
    report = capsys.readouterr().err.splitlines()
    assert report[-3:] == [
        "tfds_ma52: the data set cannot be built; damaged clips can be repaired, or left out with --allow_damaged=2: "
        "2 problems",
        f"  {root}/train_list_videos.txt:2: {root}/videos_train/0001_01_0001.mp4: the file is empty",
        f"  {root}/val_list_videos.txt:1: {root}/videos_val/0100_01_0000.mp4: the file is missing",
    ]
    assert tfds_ma52.__main__.main([*command, "--allow_damaged=1"]) == 2
    capsys.readouterr()
    assert tfds_ma52.__main__.main([*command, "--allow_damaged=2"]) == 0
    summary = capsys.readouterr().out.splitlines()
    assert "train 3, val 1 clips" in summary[-4]
    assert summary[-3:] == ["  left out 2 damaged clips:", *report[-2:]]
    builder = ma52_dataset_builder.build(root)
    assert names(builder, "train") == ["0000_01_0000.mp4", "0002_01_0002.mp4", "0003_01_0003.mp4"]
    assert len(json.loads((root / "tfds/ma52/h264_256/1.1.0/metadata.json").read_text())["left_out"]) == 2


def test_builder_in_plain_tfds_builds_ma52_only(tmp_path):
    root = write_folder(tmp_path / "other", per_split=(("train", 1), ("val", 1)))
    builder = tfds.builder("ma52", data_dir=tmp_path / "built")
    options = tfds.download.DownloadConfig(manual_dir=root)
    with pytest.raises(UserError, match="names its own classes: build it with python -m tfds_ma52"):
        builder.download_and_prepare(download_config=options)
    (root / "label_name.txt").unlink()
    builder.download_and_prepare(download_config=options)
    assert len(builder.as_data_source("train")) == 1


def test_build_reports_an_unknown_config(folder):
    with pytest.raises(UserError, match="no builder config 'h265'; known are h264_256, jpeg_256, original"):
        ma52_dataset_builder.build(folder, config="h265")


def test_command_without_data_exits_with_2(tmp_path, run_command):
    result = run_command([sys.executable, "-m", "tfds_ma52", "--manual_dir", tmp_path / "none"])
    assert result.returncode == 2
    assert result.stderr.startswith(f"tfds_ma52: There is no folder {tmp_path}/none.")
    assert "Traceback" not in result.stderr


def test_build_builds_a_mixed_set_of_sizes(tmp_path):
    for split in ("train", "val"):
        write_clip(tmp_path / split / "a.mp4", height=320, width=288, num_frames=9)
        write_clip(tmp_path / split / "b.mp4", height=48, width=100, num_frames=1)
        (tmp_path / f"{split}_list_videos.txt").write_text("a.mp4 0\nb.mp4 51\n")
    builder = ma52_dataset_builder.build(tmp_path)
    sizes = [(int(e["num_frames"]), int(e["height"]), int(e["width"])) for e in builder.as_data_source("train")]
    assert sizes == [(9, 284, 256), (1, 48, 100)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "other folder",
            r"other videos \(crops_train/0000_01_0000.mp4 is none of its videos, such as videos_train/0000_",
        ),
        ("mistyped folder", "train_list_videos.txt: its clips have no folder; looked for nowhere_train in"),
        ("mistyped list", r"has no list for train and val \(looked for nowhere/\{split\}.txt\)"),
        ("replaced clip", r"other videos \(videos_val/0100_01_0000.mp4 has been replaced\)"),
        ("replaced at the same size", r"other videos \(videos_val/0100_01_0000.mp4 has been replaced\)"),
        ("only copied", ""),
        ("clips gone", ""),
    ],
)
def test_a_built_set_is_what_its_inputs_are(tmp_path, change, message):
    root = write_folder(tmp_path / "data", per_split=(("train", 3), ("val", 3)))
    ma52_dataset_builder.build(root, num_processes=1)
    clip = root / "videos_val" / "0100_01_0000.mp4"
    options = {}
    match change:
        case "other folder":
            for split in ("train", "val"):
                shutil.copytree(root / f"videos_{split}", root / f"crops_{split}")
            options = {"video_folder": "crops_{split}"}
        case "mistyped folder":
            options = {"video_folder": "nowhere_{split}"}
        case "mistyped list":
            options = {"list_file": "nowhere/{split}.txt"}
        case "replaced clip":
            write_clip(clip, num_frames=9, seed=77)
        case "replaced at the same size":
            content = bytearray(clip.read_bytes())
            content[len(content) // 2] ^= 1
            clip.write_bytes(content)
            os.utime(clip, ns=(0, 0))
        case "only copied":
            os.utime(clip, ns=(0, 0))
        case "clips gone":
            shutil.rmtree(root / "videos_val")
    _, error = outcome(lambda: ma52_dataset_builder.build(root, **options))
    assert re.search(message, error) if message else not error
    if options.get("video_folder", "").startswith("crops"):
        ma52_dataset_builder.build(root, **options, overwrite=True, num_processes=1)
        assert not outcome(lambda: ma52_dataset_builder.build(root, **options))[1]
        assert "videos_train" in outcome(lambda: ma52_dataset_builder.build(root))[1]
