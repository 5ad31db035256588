import dataclasses
import json
import pathlib
import shutil
import weakref

import numpy as np
import pytest
import scipy
from helpers import shrink, stored, write_clip
from saved_models import LABELS, save

from configs import annotated, mma52
from manet_jax import annotation_files, detect
from manet_jax.data import clips
from manet_jax.data.windows import DenseWindows
from manet_jax.detection import detector, features, fit
from manet_jax.detection.detector import Detector
from manet_jax.detection.grouping import Grouping
from manet_jax.detection.segments import Segment
from manet_jax.detection.submission import check_submission
from manet_jax.loaded_model import load_model
from tfds_ma52.untrimmed import Action

HEADER = "id,video_id,start_frame,end_frame,class,total_frames,fps\n"
ROWS = {  # video, first and last frame, class, frames
    "train": (("a", 15, 60, 0, 90), ("a", 30, 80, 1, 90), ("b", 0, 30, 2, 45), ("c", 20, 55, 1, 60)),
    "val": (("d", 6, 40, 0, 75), ("d", 30, 60, 1, 75), ("e", 3, 33, 2, 50)),
    "test": (("f", 0, 20, 1, 40), ("g", 0, 20, 2, 55)),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Videos of one and a half to three seconds, with a test split whose actions are hidden."""
    folder = tmp_path_factory.mktemp("untrimmed")
    for split, rows in ROWS.items():
        lines = [f"{i},{name},{first},{last},{label},{n},30.0" for i, (name, first, last, label, n) in enumerate(rows)]
        (folder / f"{split}.csv").write_text(HEADER + "\n".join(lines) + "\n")
        for seed, (name, num_frames) in enumerate({row[0]: row[4] for row in rows}.items()):
            # Files may have a frame or two more than their annotations say.
            extra = 2 if split == "test" else 0
            write_clip(folder / split / f"{name}.mp4", num_frames=num_frames + extra, seed=seed)
    lines = [f"{i}\t{name}\t{LABELS.group_names[i]}\n" for i, name in enumerate(LABELS.names)]
    (folder / "label_name.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def workdir(root, tmp_path_factory):
    return save(tmp_path_factory.mktemp("run"), shrink(mma52.get_config(), root), multilabel=True)


def test_dense_windows_are_those_of_a_video_without_end_as_long_as_they_fit():
    windows = DenseWindows((1.0, 2.0), 0.5)
    assert windows.of(2.2)[:4] == [(0.0, 0.75), (0.0, 1.25), (0.25, 1.25), (0.0, 1.75)]
    np.testing.assert_allclose(windows.times(2.2), [0.25, 0.75, 1.25, 1.75, 2.25])
    assert len(windows.of(2.2)) == len(windows.order(2.2)) == 10
    for duration in (0.1, 0.5, 2.0, 2.2, 7.3):
        found, endless = windows.of(duration), windows.endless()
        whole = [span for span in found if span[1] < duration]
        assert whole == [next(endless) for _ in whole]
        assert next(endless)[1] >= duration or not whole
        for (moment, length), (start, end) in zip(windows.order(duration), found, strict=True):
            middle, half = (moment + 0.5) * 0.5, windows.lengths[length] / 2
            assert (start, end) == pytest.approx((max(0, middle - half), min(duration, middle + half)))
            assert start < end


def test_features_are_those_of_each_window_by_itself(root, workdir):
    model, windows = load_model(workdir), DenseWindows((1.0, 2.0), 0.5)
    path = root / "train/a.mp4"
    found = features.compute_features(model, path, windows, batch_size=4)
    assert found.duration == 3
    assert found.probabilities.shape == (6, 2, 3)
    assert found.features.shape[:2] == (6, 2)
    (alone,) = (p for p in model.predict(path) if not p.windowed)
    whole = features.compute_features(model, path, DenseWindows((12.0,), 3.0))  # one window of all of it
    np.testing.assert_allclose(whole.probabilities[0, 0], alone.probabilities, rtol=1e-4)
    # Around 1.25 s two seconds, of the frames whose middle lies between 0.25 and 2.25 s: 7 to 66.
    frames = stored(path.read_bytes()).frames(7 + np.array([7, 22, 37, 52]))
    outputs = model({"video": clips.center_crop(clips.resize_short_side(frames, 40), 32)[None]})
    np.testing.assert_allclose(found.features[2, 1], outputs.features[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.probabilities[2, 1], scipy.special.expit(outputs.logits[0]), rtol=1e-4)
    assert np.ptp(found.probabilities, axis=0).max() > 1e-3


def test_perfect_scores_are_the_share_of_windows_with_the_class():
    windows = DenseWindows((1.0, 2.0), 1.0)
    scores = features.perfect_scores([Action(1, 1.0, 2.0)], 4.0, windows, 2)
    assert not scores[:, 0].any()
    # Around 0.5 s: neither of [0, 1]; half of [0, 1.5] is 0.75 s, but half of the action lies in it.
    np.testing.assert_allclose(scores[:, 1], [0.5, 1, 0.5, 0])


def test_cached_features_are_computed_once(root, workdir, tmp_path, monkeypatch):
    model, videos = load_model(workdir), {"deep/a": root / "train/a.mp4", "b": root / "train/b.mp4"}
    windows = DenseWindows((1.0,), 0.5)
    first = dict(features.cached_features(model, videos, tmp_path, windows))
    with monkeypatch.context() as patch:
        patch.setattr(features, "compute_features", None)
        again = dict(features.cached_features(model, videos, tmp_path, windows))
    for name, each in first.items():
        np.testing.assert_array_equal(again[name].probabilities, each.probabilities)
        np.testing.assert_allclose(again[name].features, each.features, rtol=1e-3, atol=1e-4)
        assert again[name].duration == each.duration
    other = dict(features.cached_features(model, videos, tmp_path, DenseWindows((2.0,), 0.5)))
    assert np.abs(other["b"].probabilities - first["b"].probabilities).max() > 1e-4
    for damaged in (b"cut", b""):
        (tmp_path / "b.npz").write_bytes(damaged)
        dict(features.cached_features(model, videos, tmp_path, DenseWindows((2.0,), 0.5)))


def test_cached_features_report_all_videos_that_cannot_be_read(root, workdir, tmp_path):
    (tmp_path / "cut.mp4").write_bytes((root / "train/a.mp4").read_bytes()[:900])
    videos = {"cut": tmp_path / "cut.mp4", "b": root / "train/b.mp4", "none": tmp_path / "none.mp4"}
    with pytest.raises(detect.UserError) as error:
        dict(features.cached_features(load_model(workdir), videos, tmp_path / "features", DenseWindows((1.0,), 0.5)))
    title, *problems = str(error.value).splitlines()
    assert title == "videos cannot be read: 2 problems"
    assert [problem.split(":")[0].strip() for problem in problems] == [str(videos["cut"]), str(videos["none"])]
    assert (tmp_path / "features/b.npz").exists()


def test_detector_is_read_as_it_was_written(tmp_path):
    examples = [fit.Example(np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32), (Action(0, 1.0, 3.0),))]
    head = fit.train_head(examples, 0.25, fit.Recipe(num_steps=2, num_moments=32), progress=False)
    written = Detector(head, DenseWindows((1.0,), 0.25), Grouping(smoothing=0.5, thresholds=(0.2, 0.4)), "n", "o")
    detector.save(written, tmp_path / "detector.safetensors")
    read = detector.load(tmp_path / "detector.safetensors")
    assert dataclasses.replace(read, head=head) == written
    rng = np.random.default_rng(1)
    video = features.VideoFeatures(
        5.0, rng.normal(size=(20, 1, 4)).astype(np.float32), rng.random((20, 1, 2)).astype(np.float32)
    )
    assert read(video) == written(video) != []
    assert all(0 <= each.start < each.end <= 5 and 0 < each.score <= 1 for each in read(video))


def test_load_says_what_is_wrong_with_a_file(tmp_path):
    path = tmp_path / "detector.safetensors"
    with pytest.raises(detect.UserError, match="there is no file"):
        detector.load(path)
    detector.state_dict.write(path, {"a": np.zeros(2, np.float32)}, {"options": {}})
    with pytest.raises(detect.UserError, match="is no detector of this version"):
        detector.load(path)


def test_detect_holds_the_features_of_one_video_at_a_time(root, workdir, monkeypatch):
    monkeypatch.setattr(detect, "WINDOWS", DenseWindows((1.0, 2.0), 0.5))
    computed, held = features.compute_features, []

    def compute(*arguments):
        found = computed(*arguments)
        alive = sum(array() is not None for array in held)
        held.append(weakref.ref(found.features))
        assert alive <= 1  # that of the video before
        return found

    monkeypatch.setattr(features, "compute_features", compute)
    shutil.rmtree(workdir / "detection", ignore_errors=True)
    assert detect.main(["--workdir", str(workdir), "--steps", "1"]) == 0
    assert len(held) == 5  # of three videos of train, and of two of val


def test_detect_fits_compares_and_resumes(root, workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(detect, "WINDOWS", DenseWindows((1.0, 2.0), 0.5))
    command = ["--workdir", str(workdir), "--steps", "3"]
    assert detect.main(command) == 0
    output = capsys.readouterr().out.splitlines()
    heads = [f"{level} {at}" for level in ("action", "body") for at in ("@0.2", "@0.5", "@0.7", "mean")]
    assert output[0].split() == ["detection", "mAP,", "%", *" ".join(heads).split()]
    assert [line[:29].strip() for line in output[1:]] == list(detect.METHODS)
    metrics = json.loads((workdir / "detection/metrics_val.json").read_text())
    perfect = metrics["perfect classifier, same rule"]
    assert output[3].split()[-8:] == [
        f"{100 * perfect[f'{level}_map{end}']:.2f}"
        for level in ("action", "body")
        for end in ("_0.2", "_0.5", "_0.7", "")
    ]
    assert perfect["action_map_0.2"] > 0.9
    monkeypatch.setattr(fit, "train_head", None)
    monkeypatch.setattr(features, "compute_features", None)
    assert detect.main(command) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == output
    assert "learned from" not in captured.err
    assert detect.main([*command, "--split", "train"]) == 0
    assert "split train is what the detector learned from: it does worse on others\n" in capsys.readouterr().err
    assert f"{workdir.name}, train, from which it learned" in (workdir / "detection/report_train.html").read_text()


def test_detect_writes_a_submission_of_a_hidden_split(root, workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(detect, "WINDOWS", DenseWindows((1.0, 2.0), 0.5))
    path = tmp_path / "prediction.zip"
    command = ["--workdir", str(workdir), "--steps", "3", "--split", "test", "--submission", str(path)]
    assert detect.main(command) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "the actions of split test are not public: nothing to compare with" in captured.err
    check_submission(path, {"f": 40 / 30, "g": 55 / 30}, 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "0"], "--steps is 0; it must be at least 1"),
        (["--seed", "-1"], "--seed is -1; it must be from 0 to 2^63 - 1"),
        (["--fit_split", "test"], "split 'test' has no public actions to learn from: give --fit_split another"),
        (["--split", "street_test"], "has no videos of split 'street_test'; there are those of train, val, test"),
        (["--manual_dir", "{empty}"], "{empty} has no annotations of MMA-52"),
        (["--manual_dir", "{other}"], "have other classes: give the model's own videos"),
    ],
)
def test_detect_refuses_what_does_not_fit(root, workdir, tmp_path, capsys, flags, message, monkeypatch):
    monkeypatch.setattr(detect, "WINDOWS", DenseWindows((1.0, 2.0), 0.5))
    for name in ("empty", "other"):
        (tmp_path / name).mkdir()
    for split, rows in ROWS.items():
        lines = [f"{i},{name},{first},{last},{label},{n},30.0" for i, (name, first, last, label, n) in enumerate(rows)]
        (tmp_path / "other" / f"{split}.csv").write_text(HEADER + "\n".join(lines) + "\n")
    places = {"empty": tmp_path / "empty", "other": tmp_path / "other"}
    try:
        status = detect.main(["--workdir", str(workdir), *(flag.format(**places) for flag in flags)])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    assert message.format(**places) in capsys.readouterr().err


def test_cached_features_say_that_their_folder_cannot_be_written(root, workdir, tmp_path):
    (tmp_path / "file").write_text("no folder")
    videos = {"b": root / "train/b.mp4"}
    with pytest.raises(detect.UserError, match=r"file cannot be read or written \(.*\): make it writable"):
        dict(features.cached_features(load_model(workdir), videos, tmp_path / "file", DenseWindows((1.0,), 0.5)))


def test_detect_learns_from_videos_that_people_annotated(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(detect, "WINDOWS", DenseWindows((1.0, 2.0), 0.5))
    folder = tmp_path / "study"
    folder.mkdir()
    shutil.copy(root / "label_name.txt", folder)
    (folder / "splits.csv").write_text("video,split\na,train\nb,train\nd,val\n")
    for split, name, frames in (("train", "a", 90), ("train", "b", 45), ("val", "d", 75)):
        path = shutil.copy(root / split / f"{name}.mp4", folder)
        actions = [
            Segment(first / 30, last / 30, label, 1.0) for video, first, last, label, _ in ROWS[split] if video == name
        ]
        annotation_files.write_eaf(folder / f"{name}.eaf", pathlib.Path(path), frames / 30, actions, LABELS)
    run = save(tmp_path / "run", shrink(annotated.get_config(), folder), multilabel=True)
    assert detect.main(["--workdir", str(run), "--steps", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[3].startswith("perfect classifier, same rule")
