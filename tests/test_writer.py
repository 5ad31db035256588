import json
import shutil
import subprocess
import sys
import time

import av
import numpy as np
import pytest
from helpers import id_of

from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52_NAMES, read_labels
from tfds_ma52.synthetic import render, write_synthetic, writer
from tfds_ma52.synthetic.__main__ import main

TINY = 1e-6  # one clip of each class in every split
SETTINGS = {
    "size": TINY,
    "pro": False,
    "untrimmed": False,
    "subjects": "disjoint",
    "test": False,
    "short_side": 64,
    "frame_rate": 30,
    "seed": 3,
    "version": 1,
}


def decode(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return stream.codec_context.name, float(stream.average_rate), np.stack(frames)


def read_list(drawn, split):
    """A split's list: the names of its clips, and their labels."""
    text = (drawn / f"{split}_list_videos.txt").read_bytes().decode()
    assert text.count("\r\n") == text.count("\n") == len(MA52_NAMES)
    names, labels = zip(*(line.split(" ") for line in text.split("\r\n")[:-1]), strict=True)
    assert set(names) == {path.name for path in (drawn / split).iterdir()}
    return names, labels


def test_write_synthetic_has_ma52s_layout(drawn):
    found = {path.name for path in drawn.iterdir()}
    lists = {f"{split}_list_videos.txt" for split in ("train", "val")}
    assert found == {"train", "val", "label_name.txt", "synthetic.json"} | lists
    assert read_labels(drawn / "label_name.txt").names == MA52_NAMES
    subjects = {}
    for split in ("train", "val"):
        names, labels = read_list(drawn, split)
        assert sorted(map(int, labels)) == list(range(52))
        assert list(map(int, labels)) != list(range(52))  # the order gives nothing away
        subjects[split] = {name.split("_")[0] for name in names}
        assert all(len(subject) == 4 for subject in subjects[split])
    assert not subjects["train"] & subjects["val"]
    assert len(subjects["train"]) > 20


def test_write_synthetic_hides_the_labels_of_the_test_split(drawn, tmp_path):
    root = unfinished_copy(drawn, tmp_path)
    settings = json.loads((root / "synthetic.json").read_text())
    (root / "synthetic.json").write_text(json.dumps(settings | {"test": True}))
    (root / "test").mkdir()
    for i in range(48):  # drawn earlier, by the name of it
        (root / "test" / f"test{i:04d}.mp4").write_bytes(b"")
    arguments = [f"--size={TINY}", "--subjects=disjoint", "--test", "--short_side=40", "--processes=2"]
    assert main([str(root), *arguments]) == 0
    added = {path.name for path in root.iterdir()} - {path.name for path in drawn.iterdir()}
    assert added == {"test", "test_list_videos.txt"}
    names, labels = read_list(root, "test")
    assert names == tuple(f"test{i:04d}.mp4" for i in range(52))
    assert set(labels) == {"0"}
    for name in names[48:]:
        _, _, frames = decode(root / "test" / name)
        assert frames.shape[1:] == (48, 40, 3)
    for split in ("train", "val"):
        assert read_list(root, split) == read_list(drawn, split)


def unfinished_copy(drawn, tmp_path):
    """A copy of the drawn set that looks as if drawing it had been stopped."""
    shutil.copytree(drawn, tmp_path / "set")
    (tmp_path / "set" / "label_name.txt").unlink()
    return tmp_path / "set"


def subjects_of(clips):
    return [{clip.subject for clip in clips if clip.split == split} for split in ("train", "val", "test")]


def test_plan_clips_shares_subjects_as_ma52_or_none():
    settings = SETTINGS | {"size": 0.05, "test": True}
    disjoint = subjects_of(writer.plan_clips(settings))
    assert sum(map(len, disjoint)) == len(set.union(*disjoint)) > 150
    train, val, test = subjects_of(writer.plan_clips(settings | {"size": 1.0, "subjects": "shared"}))
    assert train == val
    assert (len(train), len(test)) == (186, 205)


def test_plan_clips_has_ma52s_counts_times_one_number():
    clips = writer.plan_clips(SETTINGS | {"size": 1, "test": True})
    counts = {split: np.bincount([c.acts[0] for c in clips if c.split == split]) for split in ("train", "val", "test")}
    assert [sum(each) for each in counts.values()] == [11250, 5586, 5586]
    # From the table of the annotation lists: nodding, covering face, turning around.
    assert [counts[split][id_of("nodding")] for split in counts] == [1283, 641, 2565 - 1283 - 641]
    assert [counts[split][id_of("covering face")] for split in counts] == [6, 2, 2]
    assert [counts[split][id_of("turning around")] for split in counts] == [9, 3, 3]
    bounds = np.searchsorted(np.cumsum([5, 6, 13, 8, 6, 10, 4]), np.arange(52), side="right")
    assert np.bincount(bounds, counts["train"]).tolist() == [644, 4473, 2626, 1441, 317, 719, 1030]
    assert np.bincount(bounds, counts["val"]).tolist() == [315, 2233, 1304, 717, 152, 353, 512]

    small = np.bincount([c.acts[0] for c in writer.plan_clips(SETTINGS | {"size": 0.1}) if c.split == "train"])
    assert small[id_of("nodding")] == 128
    assert small[id_of("covering face")] == 1


def test_write_synthetic_writes_label_names_with_crlf(drawn):
    lines = (drawn / "label_name.txt").read_bytes().split(b"\r\n")
    assert lines[9] == b"9\tnodding"
    assert lines[52:] == [b""]


def test_write_synthetic_writes_clips_that_decode(drawn):
    paths = sorted((drawn / "train").iterdir())
    lengths = set()
    for path in paths[::3]:
        codec, rate, frames = decode(path)
        assert (codec, rate) == ("h264", 30.0)
        assert 45 <= len(frames) <= 75
        assert frames.shape[1:] == (48, 40, 3)
        assert frames.std(axis=(1, 2)).min() > 5
        lengths.add(len(frames))
    assert len(lengths) > 5


def test_encode_keeps_the_look_of_frames(tmp_path):
    frames = writer.render_clip(writer.PlannedClip("train", 0, (0,), 1), SETTINGS | {"short_side": 128})
    (tmp_path / "clip.mp4").write_bytes(writer.encode(frames))
    _, _, decoded = decode(tmp_path / "clip.mp4")
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(float) - frames).mean() < 6


def test_a_lower_frame_rate_leaves_frames_out(tmp_path):
    clip = writer.PlannedClip("train", 3, (9,), 1)
    every, third = (writer.render_clip(clip, SETTINGS | {"frame_rate": rate}) for rate in (30, 10))
    assert len(third) == -(-len(every) // 3)
    for number, frame in enumerate(third):  # but for the sensor's noise, which is drawn frame by frame
        assert np.abs(frame.astype(float) - every[3 * number]).mean() < 5
    (tmp_path / "clip.mp4").write_bytes(writer.encode(third, 10))
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].average_rate == 10
    with pytest.raises(UserError, match=r"^frame_rate is 12; give one of 30, 15, 10 frames a second\.$"):
        write_synthetic(tmp_path / "set", size=TINY, frame_rate=12)


def test_write_clips_is_independent_of_processes_and_order(tmp_path):
    clips = writer.plan_clips(SETTINGS)[:6]
    for processes, order in ((1, clips), (2, clips[::-1])):
        (tmp_path / str(processes) / "train").mkdir(parents=True)
        writer.write_clips(order, tmp_path / str(processes), SETTINGS, processes)
    for clip in clips:
        one, two = ((tmp_path / str(processes) / "train" / clip.name).read_bytes() for processes in (1, 2))
        assert one == two


def test_render_clip_depends_on_the_seed(monkeypatch):
    drawn, original = [], render.render_frames
    monkeypatch.setattr(render, "render_frames", lambda *args: drawn.append(args) or original(*args))
    clip = writer.PlannedClip("train", 0, (0,), 1)
    frames = [writer.render_clip(clip, SETTINGS | {"seed": seed}) for seed in (0, 0, 1)]
    assert np.array_equal(frames[0], frames[1])
    (_, *same, _, _), (_, *again, _, _), (_, *other, _, _) = drawn
    assert same == again
    assert all(ours != theirs for ours, theirs in zip(same, other, strict=True))  # body, looks and scene


def test_write_synthetic_leaves_a_complete_folder_alone(drawn, capsys):
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    write_synthetic(drawn, size=TINY, subjects="disjoint", short_side=40)
    assert "already holds" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == before


def test_write_synthetic_waits_for_another_run(drawn, tmp_path):
    root = unfinished_copy(drawn, tmp_path)
    lost = sorted((root / "val").iterdir())[:8]
    for path in lost:
        path.unlink()
    command = [sys.executable, "-m", "tfds_ma52.synthetic", root, f"--size={TINY}", "--subjects=disjoint"]
    first = subprocess.Popen([*command, "--short_side=40"], stderr=subprocess.PIPE, text=True)
    while not any(path.exists() for path in lost):
        assert first.poll() is None
        time.sleep(0.005)
    earlier = {path: path.stat().st_mtime_ns for path in lost if path.exists()}
    assert len(earlier) < 8
    write_synthetic(root, size=TINY, subjects="disjoint", short_side=40)
    _, messages = first.communicate()
    assert first.returncode == 0, messages
    assert all(path.stat().st_mtime_ns == moment for path, moment in earlier.items())
    assert all(path.read_bytes() == (drawn / "val" / path.name).read_bytes() for path in lost)
    assert not list(root.rglob("*.partial"))


def test_write_synthetic_completes_a_partial_folder(drawn, tmp_path):
    root = unfinished_copy(drawn, tmp_path)
    kept, lost, *_ = sorted((root / "val").iterdir())
    content = lost.read_bytes()
    kept.write_bytes(b"finished earlier")
    lost.rename(lost.with_name(lost.name + ".partial"))
    write_synthetic(root, size=TINY, subjects="disjoint", short_side=40)
    assert kept.read_bytes() == b"finished earlier"
    assert lost.read_bytes() == content
    assert (root / "label_name.txt").exists()
    assert not list(root.rglob("*.partial"))


def test_write_synthetic_refuses_other_settings(drawn, capsys):
    message = (
        f"{drawn} holds a synthetic set with other settings: short_side (40 there, 64 asked for), "
        "seed (0 there, 5 asked for); give another folder or the same settings."
    )
    with pytest.raises(UserError) as error:
        write_synthetic(drawn, size=TINY, subjects="disjoint", short_side=64, seed=5)
    assert str(error.value) == message
    assert main([str(drawn), "--seed=5"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"version": 2, "train_per_class": 24}', "was drawn by another version of this program; remove it or give"),
        ("[1]", "synthetic.json is damaged; remove the folder or give another one."),
        ("{", "synthetic.json is damaged; remove the folder or give another one."),
    ],
)
def test_write_synthetic_refuses_other_versions_and_damage(content, message, tmp_path):
    (tmp_path / "synthetic.json").write_text(content)
    with pytest.raises(UserError) as error:
        write_synthetic(tmp_path, size=TINY)
    assert message in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic.json"]


def test_write_synthetic_refuses_a_foreign_folder(tmp_path):
    (tmp_path / "train_list_videos.txt").write_text("the user's own")
    with pytest.raises(UserError, match=r"holds files but no synthetic\.json"):
        write_synthetic(tmp_path, size=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["train_list_videos.txt"]
