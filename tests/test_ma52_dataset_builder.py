import collections
import json
import shutil
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds
from conftest import ROOT, write_clip, write_folder

import tfds_ma52.__main__
from tfds_ma52 import labels, ma52_dataset_builder
from tfds_ma52.errors import UserError


def names(builder, split):
    return [example["video_id"].decode() for example in builder.as_data_source(split)]


def test_is_registered_with_tfds_as_ma52(tmp_path):
    builder = tfds.builder("ma52", data_dir=tmp_path)
    assert builder.info.features["label"].names == list(labels.MA52_NAMES)
    assert set(builder.builder_configs) == {"h264_256", "original"}


@pytest.mark.parametrize("layout", ["videos", "annotations"])
def test_builds_both_layouts(tmp_path, layout):
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


def test_original_config_keeps_the_bytes(folder, tmp_path):
    builder = ma52_dataset_builder.build(folder, tmp_path, config="original")
    for example in builder.as_data_source("val"):
        assert example["video"] == (folder / "videos_val" / example["video_id"].decode()).read_bytes()


def test_label_distribution_is_that_of_the_list(folder):
    builder = ma52_dataset_builder.build(folder)
    assert collections.Counter(example["label"] for example in builder.as_data_source("train")) == {0: 4, 1: 4, 2: 4}


def test_a_built_set_is_opened_again_even_without_its_source(tmp_path):
    root = write_folder(tmp_path / "source", per_split=(("train", 2), ("val", 1)))
    first = ma52_dataset_builder.build(root, tmp_path / "built")
    shutil.rmtree(root)
    again = ma52_dataset_builder.build(root, tmp_path / "built")
    assert names(again, "train") == names(first, "train")


def test_other_lists_are_refused_until_overwritten(tmp_path):
    root = write_folder(tmp_path, per_split=(("train", 3), ("val", 1)))
    ma52_dataset_builder.build(root)
    path = root / "train_list_videos.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:2]))
    with pytest.raises(UserError, match=r"was built from other lists than those now in .*--overwrite"):
        ma52_dataset_builder.build(root)
    assert len(names(ma52_dataset_builder.build(root, overwrite=True), "train")) == 2


def test_a_failed_overwrite_keeps_the_old_set(tmp_path):
    root = write_folder(tmp_path, per_split=(("train", 3), ("val", 1)))
    ma52_dataset_builder.build(root)
    (root / "videos_train" / "0001_01_0001.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="the file is empty"):
        ma52_dataset_builder.build(root, overwrite=True)
    assert len(names(ma52_dataset_builder.build(root), "train")) == 3


def test_damaged_clips_are_reported_together_or_left_out(tmp_path, capsys):
    root = write_folder(tmp_path, per_split=(("train", 4), ("val", 2)))
    (root / "videos_train" / "0001_01_0001.mp4").write_bytes(b"")
    (root / "videos_val" / "0100_01_0000.mp4").unlink()
    command = ["--manual_dir", str(root), "--num_processes=1"]
    assert tfds_ma52.__main__.main(command) == 2
    report = capsys.readouterr().err.splitlines()
    assert report[-3:] == [
        "tfds_ma52: damaged clips (repair or remove them, or leave them out with --allow_damaged=2): 2 problems",
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
    assert len(json.loads((root / "tfds/ma52/h264_256/1.0.0/metadata.json").read_text())["left_out"]) == 2


def test_plain_tfds_builds_ma52_and_points_other_sets_to_the_command(tmp_path):
    root = write_folder(tmp_path / "other", per_split=(("train", 1), ("val", 1)))
    builder = tfds.builder("ma52", data_dir=tmp_path / "built")
    options = tfds.download.DownloadConfig(manual_dir=root)
    with pytest.raises(UserError, match="names its own classes: build it with python -m tfds_ma52"):
        builder.download_and_prepare(download_config=options)
    (root / "label_name.txt").unlink()
    builder.download_and_prepare(download_config=options)
    assert len(builder.as_data_source("train")) == 1


def test_unknown_config_is_named(folder):
    with pytest.raises(UserError, match="no builder config 'h265'; known are h264_256, original"):
        ma52_dataset_builder.build(folder, config="h265")


def test_command_without_data_exits_with_2(tmp_path):
    command = [sys.executable, "-m", "tfds_ma52", "--manual_dir", str(tmp_path / "none")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith(f"tfds_ma52: There is no folder {tmp_path}/none.")
    assert "Traceback" not in result.stderr


def test_a_mixed_set_of_sizes_builds(tmp_path):
    for split in ("train", "val"):
        write_clip(tmp_path / split / "a.mp4", height=320, width=288, num_frames=9)
        write_clip(tmp_path / split / "b.mp4", height=48, width=100, num_frames=1)
        (tmp_path / f"{split}_list_videos.txt").write_text("a.mp4 0\nb.mp4 51\n")
    builder = ma52_dataset_builder.build(tmp_path)
    sizes = [(int(e["num_frames"]), int(e["height"]), int(e["width"])) for e in builder.as_data_source("train")]
    assert sizes == [(9, 284, 256), (1, 48, 100)]
