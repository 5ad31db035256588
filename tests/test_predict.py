import contextlib
import dataclasses
import io
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import weakref
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from flax import nnx
from helpers import ROOT, read_video, shrink, stored, write_clip, write_silence
from saved_models import INPUTS, LABELS, save, small, softmax

import manet_jax
from configs import ma52, ma52_pro
from manet_jax import checkpoint, configuration, evaluate, inference, parallel, predict
from manet_jax.data import clips, windows
from manet_jax.data.windows import DenseWindows
from manet_jax.detection import detector, features, grouping
from manet_jax.detection.head import DetectionHead, HeadOptions
from manet_jax.detection.segments import distinct, shown_segments
from manet_jax.models import ClipSpec
from manet_jax.report import figures, predictions
from tfds_ma52 import command, elan, video
from tfds_ma52.clip_frames import ClipFrames
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52
from tfds_ma52.video import DamagedVideoError

GOLDEN = ROOT / "tests/golden/video"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save(tmp_path_factory.mktemp("run"), small(ma52.get_config()))


@pytest.fixture(scope="module")
def model(workdir):
    return manet_jax.load_model(workdir)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three clips; a file without a video track, one that is no video, and one that is cut off."""
    root = tmp_path_factory.mktemp("videos")
    for i in range(3):
        write_clip(root / f"{i}.mp4", seed=i, num_frames=11 + i)
    with av.open(str(root / "sound.mp4"), "w") as container:
        write_silence(container, container.add_stream("aac", rate=8000, layout="mono"))
    (root / "text.mp4").write_text("this is no video, whatever its name")
    content = (root / "0.mp4").read_bytes()
    (root / "cut.mp4").write_bytes(content[: len(content) // 2])
    return root


def test_predict_sees_a_clip_as_evaluation_does(model, videos):
    (predicted,) = model.predict(videos / "1.mp4")
    clip = clips.eval_clip(stored((videos / "1.mp4").read_bytes()), INPUTS)["video"]
    expected = softmax(model({"video": clip[None]}).logits)[0]
    np.testing.assert_allclose(predicted.probabilities, expected, rtol=1e-5)
    assert (predicted.video, predicted.start, predicted.error, predicted.windowed) == (
        str(videos / "1.mp4"),
        0.0,
        "",
        False,
    )
    assert predicted.end == pytest.approx(12 / 30)
    assert [each["class_id"] for each in predicted.top()] == np.argsort(-expected).tolist()
    best = int(expected.argmax())
    assert predicted.top(1) == [
        {
            "action": LABELS.names[best],
            "class_id": best,
            "group": LABELS.group_names[best],
            "probability": predicted.probabilities[best],
        }
    ]
    assert predicted.emotion() is None


def test_predictions_are_those_of_evaluation(folder, tmp_path):
    config = shrink(ma52.get_config(), folder)
    config.data.builder_config = "original"
    parsed = configuration.parse(config)
    dataset = parsed.data.open()
    model = manet_jax.load_model(save(tmp_path, config, dataset.labels))
    mesh = parallel.make_mesh()
    saved = checkpoint.read_model(tmp_path, "best", parallel.replicated(mesh))
    run = evaluate.create_evaluation(saved.graphdef, dataset, mesh, saved.metadata, parsed)
    paths = [folder / "videos_val" / example["video_id"].decode() for example in dataset.source("val")]
    predicted = np.stack([each.probabilities for each in model.predict(paths)])
    np.testing.assert_allclose(predicted, softmax(run(saved.variables).outputs["logits"]), rtol=1e-4)
    assert np.ptp(predicted, axis=0).max() > 1e-3  # clips differ


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_batch_size_changes_nothing_and_order_stays(model, videos, batch_size):
    paths = [videos / name for name in ("2.mp4", "text.mp4", "0.mp4", "1.mp4", "0.mp4", "none.mp4")]
    predicted = model.predict(paths, batch_size=batch_size)
    assert [each.video for each in predicted] == list(map(str, paths))
    assert [bool(each.error) for each in predicted] == [False, True, False, False, False, True]
    alone = [model.predict(path)[0].probabilities for path in paths]
    for each, expected in zip(predicted, alone, strict=True):
        if not each.error:
            np.testing.assert_allclose(each.probabilities, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("none.mp4", "the file is missing"),
        ("sound.mp4", "the file has no video track"),
        ("text.mp4", r"the file is damaged or not a video \(Invalid data found when processing input\)"),
        ("cut.mp4", r"the file is cut off: \d+ of its \d+ bytes are there"),
    ],
)
def test_predict_reports_unreadable_files(model, videos, name, error):
    (predicted,) = model.predict(videos / name)
    assert re.fullmatch(error, predicted.error)
    assert (predicted.probabilities, predicted.top(), predicted.windowed) == (None, [], False)


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """Eleven seconds."""
    path = tmp_path_factory.mktemp("long") / "talk.mp4"
    write_clip(path, num_frames=330, seed=5)
    return path


def test_predict_reads_a_long_video_in_windows(model, long_video):
    predicted = model.predict(long_video, window=4.0, stride=3.0, batch_size=3)
    assert [(each.start, each.end) for each in predicted] == [(0, 4), (3, 7), (6, 10), (7, 11)]
    assert all(each.windowed and not each.error for each in predicted)
    frames = stored(long_video.read_bytes()).frames(np.arange(330))
    for each in predicted:
        # Middles of four quarters of 120 frames.
        window = frames[round(each.start * 30) + np.array([15, 45, 75, 105])]
        clip = clips.center_crop(clips.resize_short_side(window, 40), 32)
        expected = softmax(model({"video": clip[None]}).logits)[0]
        np.testing.assert_allclose(each.probabilities, expected, rtol=1e-4)
    assert np.ptp([each.probabilities for each in predicted], axis=0).max() > 1e-3


def test_short_and_long_videos_are_read_alike(long_video, monkeypatch):
    """A long video's window over all of it is the clip that evaluation sees of the same frames."""
    appearance = ClipSpec(num_frames=2, subset_of=4, box=(0.0, 0.0, 0.5, 1.0), short_side=40, crop_size=32)
    for specs in ({**INPUTS, "appearance": appearance}, {"appearance": appearance}):
        (window,) = read_video(ClipFrames(long_video), specs, 20.0, 1.0, num_threads=1)
        assert (window.span, window.windowed) == ((0, 11), True)
        expected = clips.eval_clip(stored(long_video.read_bytes()), specs)
        clip = window.clips[0][0]
        assert clip.keys() == expected.keys() == specs.keys()
        for name, frames in expected.items():
            np.testing.assert_array_equal(clip[name], frames)


@pytest.mark.parametrize("decoded_bytes", [0, 20_000, 2**30])
def test_windows_keep_few_frames_in_memory(long_video, monkeypatch, decoded_bytes):
    """Of a long video no more than the ten seconds that tell it from a short one, and few of them decoded."""
    alive, most, most_decoded = weakref.WeakSet(), 0, 0
    keep, save_memory = windows._Kept, windows._save_memory

    def count(*arguments):
        kept = keep(*arguments)
        alive.add(kept)
        return kept

    def check(frames):
        nonlocal most, most_decoded
        save_memory(frames)
        most = max(most, len(alive))
        most_decoded = max(most_decoded, sum(frame.picture.num_bytes for frame in frames))

    monkeypatch.setattr(windows, "_Kept", count)
    monkeypatch.setattr(windows, "_save_memory", check)
    expected = list(read_video(ClipFrames(long_video), INPUTS, 2.0, 0.25, num_threads=1))
    monkeypatch.setattr(windows, "_DECODED_BYTES", decoded_bytes)
    loaded = list(read_video(ClipFrames(long_video), INPUTS, 2.0, 0.25, num_threads=1))
    assert [each.span for each in loaded] == [(i / 4, i / 4 + 2) for i in range(37)]
    for one, other in zip(loaded, expected, strict=True):
        np.testing.assert_array_equal(one.clips[0][0]["video"], other.clips[0][0]["video"])
    assert most <= 302
    assert most_decoded > 100_000  # of the first reading
    most_decoded = 0
    list(read_video(ClipFrames(long_video), INPUTS, 2.0, 0.25, num_threads=1))
    assert most_decoded <= decoded_bytes


def test_windows_before_a_break_in_the_video_are_kept(model, long_video, monkeypatch):
    read = video.read_frames

    def fail_late(path, **options):
        for frame in read(path, **options):
            if frame.start > 10.2:
                raise DamagedVideoError("no more")
            yield frame

    monkeypatch.setattr(video, "read_frames", fail_late)
    predicted = model.predict(long_video, window=4.0, stride=3.0)
    assert [(each.start, each.error) for each in predicted] == [(0, ""), (3, ""), (6, ""), (9, "no more")]
    text = predictions.format_video(predicted, 5).splitlines()
    assert text[-1] == "  cannot be read: no more"
    described = predictions.describe(predicted, 2)
    assert (len(described["windows"]), described["error"]) == (3, "no more")


def test_predict_refuses_a_window_that_does_not_fit_into_memory(model, long_video):
    with pytest.raises(UserError, match=r"window is 61.0; give at most 60 seconds"):
        model.predict(long_video, window=61.0)


@pytest.mark.parametrize(("window", "stride"), [(0.0, 1.0), (2.0, -1.0)])
def test_window_and_stride_need_a_length(model, long_video, window, stride):
    with pytest.raises(UserError, match=r"(window|stride) is (0.0|-1.0); give 0.01 to 86400 seconds"):
        model.predict(long_video, window=window, stride=stride)


def test_predict_gives_each_of_several_labels_a_probability(tmp_path, videos):
    model = manet_jax.load_model(save(tmp_path, small(ma52_pro.get_config("micro_actions")), multilabel=True))
    (predicted,) = model.predict(videos / "0.mp4")
    clip = clips.eval_clip(stored((videos / "0.mp4").read_bytes()), INPUTS)["video"]
    logits = np.asarray(model({"video": clip[None]}).logits, np.float64)
    expected = 1 / (1 + np.exp(-logits))[0]
    np.testing.assert_allclose(predicted.probabilities, expected, rtol=1e-5)


@pytest.mark.parametrize("form", ["appearance", "fused"])
def test_predict_gives_emotions(form, tmp_path, videos, capsys):
    config = small(ma52_pro.get_config(form))
    workdir = save(tmp_path, config, emotions=("fear", "joy"), multilabel=True)
    model = manet_jax.load_model(workdir)
    (predicted,) = model.predict(videos / "0.mp4")
    clip = clips.eval_clip(stored((videos / "0.mp4").read_bytes()), model.inputs)
    assert ("video" in clip) == (form == "fused")
    expected = softmax(model({name: frames[None] for name, frames in clip.items()}).emotion)[0]
    np.testing.assert_allclose(predicted.emotion_probabilities, expected, rtol=1e-5)
    best = int(expected.argmax())
    assert predicted.emotion() == {
        "emotion": ("fear", "joy")[best],
        "probability": predicted.emotion_probabilities[best],
    }
    assert (predicted.probabilities is None) == (form == "appearance")
    assert predict.main(["--workdir", str(workdir), str(videos / "0.mp4")]) == 0
    assert f"%  emotion: {predicted.emotion()['emotion']}" in capsys.readouterr().out


def test_predict_command(workdir, videos, model, run_command):
    done = run_command([sys.executable, "-m", "manet_jax.predict", "--workdir", workdir, videos])
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == "manet_jax: 3 of 6 videos could not be read"
    blocks = done.stdout.split(str(videos) + "/")[1:]
    assert [block.splitlines()[0] for block in blocks] == [
        "0.mp4",
        "1.mp4",
        "2.mp4",
        "cut.mp4",
        "sound.mp4",
        "text.mp4",
    ]
    best = model.predict(videos / "1.mp4")[0].top(1)[0]
    assert blocks[1].splitlines()[1] == f"  {100 * best['probability']:5.1f} %  {best['action']} ({best['group']})"
    assert blocks[4].splitlines()[1] == "  cannot be read: the file has no video track"


def test_predict_command_keeps_what_it_predicted(workdir, long_video, videos, run_command, tmp_path, capsys):
    """Of a file whose name is not UTF-8, beside a damaged one and timelines that cannot be written."""
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(long_video, os.fsencode(folder) + b"/latin_\xe9.mp4")
    shutil.copy(videos / "cut.mp4", folder / "cut.mp4")
    shutil.copy(videos / "1.mp4", folder / "z.mp4")
    (tmp_path / "file").write_text("")
    flags = ["--workdir", str(workdir), "--json", "--timelines"]
    unwritable = str(tmp_path / "file" / "below")
    done = run_command([sys.executable, "-m", "manet_jax.predict", *flags, unwritable, folder])
    assert done.returncode == 1
    cut, talk, last = map(json.loads, done.stdout.splitlines())
    assert cut["error"].startswith("the file is cut off: ")
    assert talk["video"] == f"{folder}/latin_\\xe9.mp4"
    assert len(talk["windows"]) == 10
    assert len(last["top"]) == 3
    assert done.stderr.splitlines()[-2:] == [
        "manet_jax: 1 of 3 videos could not be read",
        f"manet_jax: timelines cannot be written to {unwritable} (Not a directory); give another folder with "
        "--timelines",
    ]

    latin = os.fsdecode(os.fsencode(folder) + b"/latin_\xe9.mp4")
    assert predict.main([*flags, str(tmp_path / "timelines"), latin]) == 0
    (talk,) = map(json.loads, capsys.readouterr().out.splitlines())
    (timeline,) = (tmp_path / "timelines").glob("*.json")
    assert json.loads(timeline.read_text())["video"] == talk["video"]
    assert timeline.with_suffix(".png").exists()


def test_interrupted_command_keeps_its_output(capsys):
    def run():
        print("done so far")
        raise KeyboardInterrupt

    assert command.run_command("manet_jax", run) == 130
    assert capsys.readouterr() == ("done so far\n", "manet_jax: interrupted\n")


def test_command_survives_a_closed_pipe_and_an_ascii_terminal():
    code = (
        "import sys; from tfds_ma52.command import run_command; "
        "sys.exit(run_command('x', lambda: print('\u540d\\n' * 100000) or 0))"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"\\u540d\n"
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == b""


def test_predict_command_writes_json_lines(workdir, videos, long_video, model, tmp_path, capsys):
    paths = [str(path) for path in (videos / "0.mp4", long_video, videos / "text.mp4")]
    flags = ["--json", "--top", "2", "--timelines", str(tmp_path / "out")]
    assert predict.main(["--workdir", str(workdir), *flags, *paths]) == 1
    short, long, broken = map(json.loads, capsys.readouterr().out.splitlines())
    best = [
        dict(each, probability=pytest.approx(each["probability"])) for each in model.predict(videos / "0.mp4")[0].top(2)
    ]
    assert short == {"video": str(videos / "0.mp4"), "end": 0.367, "top": best}
    assert [(window["start"], window["end"]) for window in long["windows"]] == [(i, i + 2) for i in range(10)]
    assert all(len(window["top"]) == 2 for window in long["windows"])
    assert broken["error"].startswith("the file is damaged or not a video")


def test_predict_command_writes_timelines(workdir, long_video, model, tmp_path, capsys):
    copy = tmp_path / "else" / long_video.name
    copy.parent.mkdir()
    copy.write_bytes(long_video.read_bytes())
    out = tmp_path / "out"
    assert predict.main(["--workdir", str(workdir), "--timelines", str(out), str(long_video), str(copy)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["talk.json", "talk.png", "talk_2.json", "talk_2.png"]
    timeline = json.loads((out / "talk.json").read_text())
    predicted = model.predict(long_video)
    assert (timeline["start"], timeline["end"]) == (list(range(10)), list(range(2, 12)))
    np.testing.assert_allclose(timeline["probabilities"], [each.probabilities for each in predicted], atol=1e-4)
    assert timeline["actions"] == list(LABELS.names)
    stretches = [list(group) for _, group in itertools.groupby(predicted, lambda each: each.top(1)[0]["action"])]
    printed = capsys.readouterr().out.split(str(copy))[0].splitlines()
    assert printed[0] == f"{long_video}: 10 windows"
    lines = printed[1 : 1 + len(stretches)]
    segments = grouping.group(
        np.stack([each.probabilities for each in predicted]), np.arange(10) + 1.0, predicted[-1].end
    )
    shown = shown_segments(segments, 0.25)
    assert printed[1 + len(stretches)] == f"{long_video}: {len(shown)} segments (start, end, score)"
    assert [line.split("  ")[2] for line in printed[2 + len(stretches) :]] == [f"{each.score:.2f}" for each in shown]
    mean = np.mean([each.probabilities.max() for each in stretches[0]])
    assert lines[0].startswith(f"  0:00 - {figures.clock(stretches[0][-1].end)}  {100 * mean:5.1f} %  ")


def test_timelines_of_other_videos_are_kept(workdir, long_video, tmp_path, capsys):
    """Run after run: a video's own timeline is written anew, another video of its name gets another one."""
    paths = [tmp_path / folder / "talk.mp4" for folder in ("first", "second")]
    for path in paths:
        path.parent.mkdir()
        path.symlink_to(shutil.copy(long_video, path.parent / "file"))
    out = tmp_path / "out"
    out.mkdir()
    others = {"talk_2.json": "notes, no timeline", "talk_3.json": "[]"}
    for name, text in others.items():
        (out / name).write_text(text)

    def run(video):
        assert predict.main(["--workdir", str(workdir), "--timelines", str(out), "--stride", "5", str(video)]) == 0
        return pathlib.Path(capsys.readouterr().err.partition("timeline: ")[2].split()[0])

    assert [run(video).name for video in (*paths, paths[0])] == ["talk.json", "talk_4.json", "talk.json"]
    with contextlib.chdir(paths[1].parent):  # the same video by another path
        assert run("talk.mp4") == out / "talk_4.json"
    recorded = [json.loads((out / name).read_text())["video"] for name in ("talk.json", "talk_4.json")]
    assert recorded == [str(path.resolve()) for path in paths]
    assert {name: (out / name).read_text() for name in others} == others


def test_annotations_of_people_are_kept(workdir, videos, tmp_path, capsys):
    """What a person coded before, and what a person corrected; what nobody touched is written anew."""
    video = shutil.copy(videos / "0.mp4", tmp_path / "talk.mp4")

    def run():
        flags = ["--timelines", str(tmp_path), "--window", "0.2", "--stride", "0.1", "--elan"]
        assert predict.main(["--workdir", str(workdir), *flags, str(video)]) == 0
        return pathlib.Path(capsys.readouterr().err.partition("timeline: ")[2].split()[0].rstrip(",")).name

    own = tmp_path / "talk.eaf"
    own.write_text("coded by hand")
    assert [run(), run()] == ["talk_2.json"] * 2
    assert own.read_text() == "coded by hand"
    corrected = tmp_path / "talk_2.eaf"
    assert elan.read_eaf(corrected, []) is not None
    with corrected.open("a") as file:
        file.write("<!-- corrected -->")
    text = corrected.read_text()
    assert [run(), run()] == ["talk_3.json"] * 2
    assert (own.read_text(), corrected.read_text()) == ("coded by hand", text)


def test_timelines_are_found_by_their_beginning(tmp_path):
    """Many videos of one name: the probabilities of those before are not read for each."""
    timeline = {"video": "/other/talk.mp4", "files": {}, "probabilities": [[0.5]]}
    (tmp_path / "talk.json").write_text(json.dumps(timeline)[:-3])  # cut off
    assert predictions.timeline_path(tmp_path, "/other/talk.mp4") == tmp_path / "talk.json"
    assert predictions.timeline_path(tmp_path, "/own/talk.mp4") == tmp_path / "talk_2.json"


def test_a_batch_of_prediction_that_does_not_fit_is_one_sentence(workdir, videos, monkeypatch, capsys):
    arguments = ["--workdir", str(workdir), str(videos / "0.mp4"), str(videos / "1.mp4"), "--batch_size", "1"]
    stack, calls = np.stack, []

    def fail(arrays, **options):
        if calls:
            raise MemoryError("Unable to allocate 1 TiB")
        calls.append(1)
        return stack(arrays, **options)

    monkeypatch.setattr(inference.np, "stack", fail)
    assert predict.main(arguments) == 2
    output = capsys.readouterr()
    sentence = (
        "manet_jax: a batch of 1 clips does not fit into memory (Unable to allocate 1 TiB): set a smaller --batch_size"
    )
    assert output.err.splitlines()[-1].endswith(sentence)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0:00"), (2.5, "0:02.5"), (59.97, "1:00"), (754.2, "12:34.2"), (3725.0, "1:02:05")]
)
def test_clock(seconds, text):
    assert figures.clock(seconds) == text


def test_predict_command_ends_with_status_2_on_mistakes(workdir, tmp_path, capsys):
    assert predict.main(["--workdir", str(tmp_path), "a.mp4"]) == 2
    assert "checkpoints/best holds no checkpoint" in capsys.readouterr().err
    assert predict.main(["--workdir", str(workdir), "--stride", "0", "a.mp4"]) == 2
    assert capsys.readouterr().err.endswith("manet_jax: stride is 0.0; give 0.01 to 86400 seconds\n")
    with pytest.raises(SystemExit) as stopped:
        predict.main(["--workdir", str(workdir), "--top", "0", "a.mp4"])
    assert stopped.value.code == 2
    assert "--top is 0; it must be at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        predict.main(["--workdir", str(workdir), "--threshold", "40", "a.mp4"])
    assert "--threshold is 40; give 0 to 1" in capsys.readouterr().err


def repeat(source, target, count):
    """Writes a clip several times in a row, without encoding it again."""
    with av.open(str(target), "w") as output:
        stream = None
        for i in range(count):
            with av.open(str(source)) as video:
                track = video.streams.video[0]
                stream = stream or output.add_stream_from_template(track)
                for packet in video.demux(track):
                    if packet.size:
                        packet.pts, packet.dts = packet.pts + i * track.duration, packet.dts + i * track.duration
                        packet.stream = stream
                        output.mux(packet)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_a_videos_length(workdir, tmp_path):
    path = tmp_path / "ten_minutes.mp4"
    write_clip(tmp_path / "one_minute.mp4", num_frames=1800)
    repeat(tmp_path / "one_minute.mp4", path, 10)
    # The kernel's own mark: the one of `resource` starts from the largest size of the process that started this one.
    code = (
        "import pathlib, sys; from manet_jax import predict; "
        "status = predict.main(sys.argv[1:]); "
        "print(pathlib.Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0]); sys.exit(status)"
    )
    arguments = ["--workdir", workdir, "--json", "--timelines", tmp_path, path]
    words = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    predicted, kibibytes = done.stdout.splitlines()
    assert len(json.loads(predicted)["windows"]) == 599
    assert int(kibibytes) < 1.5e9 / 1024


def test_predict_reads_the_golden_videos(tmp_path):
    config = small(ma52.get_config())
    model = manet_jax.load_model(save(tmp_path, config, MA52))
    for each in model.predict(sorted(GOLDEN.iterdir())):
        assert not each.error
        assert len(each.top()) == 5


def test_predict_writes_segments_for_annotators(workdir, videos, tmp_path, capsys):
    """Of a short video too, which is read in windows then."""
    command = ["--workdir", str(workdir), "--timelines", str(tmp_path), "--window", "0.2", "--stride", "0.1"]
    pages = tmp_path / "pages"
    flags = ["--elan", "--boris", "--webvtt", "--json", "--html", str(pages), "--review", "1", "--flip"]
    assert predict.main([*command, *flags, str(videos / "0.mp4")]) == 0
    printed = capsys.readouterr()
    assert f"timeline: {tmp_path / '0'}.json, .png, .eaf, .boris, .csv and .vtt" in printed.err.splitlines()
    names = ["0.boris", "0.csv", "0.eaf", "0.json", "0.png", "0.vtt", "pages"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert f"pages: {pages / 'index.html'}" in printed.err
    assert 'href="0.html"' in (pages / "index.html").read_text()
    assert 'href="review_0.html"' in (pages / "review.html").read_text()
    assert os.path.relpath(videos / "0.mp4", pages) in (pages / "0.html").read_text()
    segments = json.loads(printed.out)["segments"]
    assert segments
    read = elan.read_eaf(tmp_path / "0.eaf", [])
    found = {(each.value, each.start, each.end) for each in read.annotations}
    assert found == {(each["action"], each["start"], each["end"]) for each in segments}
    # Learned from, a file that lacked the others would say that they do not happen.
    reviewed = elan.read_eaf(pages / "review_0.eaf", []).annotations
    assert found <= {(each.value, each.start, each.end) for each in reviewed}
    assert len(reviewed) <= len(found) + 1
    assert (pages / "review_0.eaf").read_text().count(" to review<") == 1


def test_what_is_to_review_replaces_no_other_file(workdir, videos, tmp_path):
    """Videos that are named like pages of the review; and a file of ELAN that somebody has corrected."""
    names = ("a", "review", "review_a")
    paths = [shutil.copy(videos / "0.mp4", tmp_path / f"{name}.mp4") for name in names]
    pages = tmp_path / "pages"
    flags = ["--window", "0.2", "--stride", "0.1", "--timelines", str(tmp_path / "out"), "--html", str(pages)]

    def run(*more):
        assert predict.main(["--workdir", str(workdir), *flags, *more, *map(str, paths)]) == 0
        return {path.name for path in pages.iterdir()}

    without = run()
    assert without == {"a.html", "review_2.html", "review_a.html", "index.html"}
    kept = {name: (pages / name).read_text() for name in without}
    added = run("--review", "1000") - without
    reviewed = {"review_a_2", "review_review", "review_review_a"}
    assert added == {"review.html"} | {f"{name}{suffix}" for name in reviewed for suffix in (".html", ".eaf")}
    assert {name: (pages / name).read_text() for name in without} == kept
    corrected = pages / "review_review.eaf"
    corrected.write_text("corrected")
    assert {"review_review_2.html", "review_review_2.eaf"} <= run("--review", "1000")
    assert corrected.read_text() == "corrected"
    assert 'href="review_review_2.html"' in (pages / "review.html").read_text()


def test_predict_writes_pages_of_videos_without_a_frame_rate(workdir, tmp_path):
    """As browsers record them: frames come when they come, and the header gives no rate."""
    encoded, path = io.BytesIO(), tmp_path / "talk.webm"
    with av.open(encoded, "w", format="webm") as container:
        stream = container.add_stream("libvpx", rate=30, width=64, height=64, pix_fmt="yuv420p")
        stream.codec_context.time_base = Fraction(1, 1000)
        for pts in (0, 33, 90, 400, 700):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 99, np.uint8), "rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    encoded.seek(0)
    with av.open(encoded) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])  # without the rate
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    with av.open(str(path)) as container:
        assert not container.streams.video[0].average_rate
    flags = ["--timelines", str(tmp_path), "--html", str(tmp_path), "--boris"]
    assert predict.main(["--workdir", str(workdir), *flags, str(path)]) == 0
    assert '"frameRate": 25.0' in (tmp_path / "talk.html").read_text()
    (observation,) = json.loads((tmp_path / "talk.boris").read_text())["observations"].values()
    assert observation["media_info"]["fps"] == {str(path): 25.0}


def test_predict_without_actions_has_no_segments_to_write(tmp_path, videos, capsys):
    workdir = save(tmp_path, small(ma52_pro.get_config("appearance")), emotions=("fear", "joy"), multilabel=True)
    assert predict.main(["--workdir", str(workdir), "--webvtt", str(videos / "0.mp4")]) == 2
    assert f"--webvtt shows micro-actions, but {workdir} recognises emotions only" in capsys.readouterr().err


def test_predict_writes_no_segments_of_folders_of_images(workdir, tmp_path, capsys):
    (tmp_path / "clip").mkdir()
    cv2.imwrite(str(tmp_path / "clip/1.png"), np.zeros((40, 40, 3), np.uint8))
    command = ["--workdir", str(workdir), "--frame_rate", "10", "--boris", str(tmp_path / "clip")]
    assert predict.main(command) == 2
    assert "--boris is for videos, not for folders of images: leave out --frame_rate" in capsys.readouterr().err


def test_predict_writes_pages_where_timelines_cannot_be_written(workdir, videos, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    command = ["--workdir", str(workdir), "--timelines", str(tmp_path / "file"), "--html", str(tmp_path / "pages")]
    assert predict.main([*command, str(videos / "0.mp4")]) == 1
    assert (tmp_path / "pages/0.html").exists()
    assert (tmp_path / "pages/index.html").exists()
    assert f"timelines cannot be written to {tmp_path / 'file'}" in capsys.readouterr().err


def test_predict_takes_the_runs_detector_for_long_videos(workdir, long_video, model, tmp_path, capsys):
    copy = shutil.copytree(workdir, tmp_path / "run")
    windows = DenseWindows((2.0,), 1.0)
    head = DetectionHead(HeadOptions(2, 1.0, width=8, num_levels=2), rngs=nnx.Rngs(0))
    fitted = detector.Detector(head, windows, grouping.Grouping(), features.network_digest(model), "")
    path = copy / detector.FOLDER / detector.FILE
    detector.save(fitted, path)
    expected = distinct(fitted(features.compute_features(model, long_video, windows)))

    def printed(threshold=0.0):
        flags = ["--json", "--threshold", str(threshold)]
        assert predict.main(["--workdir", str(copy), *flags, str(long_video)]) == 0
        captured = capsys.readouterr()
        return json.loads(captured.out)["segments"], captured.err

    segments, _ = printed()
    scores = sorted(each.score for each in expected)
    assert sorted(each["score"] for each in segments) == pytest.approx(scores)
    middle = scores[len(scores) // 2]
    assert sorted(each["score"] for each in printed(middle)[0]) == pytest.approx(scores[scores.index(middle) :])
    detector.save(dataclasses.replace(fitted, network="other"), path)
    segments, err = printed()
    assert f"{path} was fitted to another checkpoint: grouping finds segments instead" in err
    assert len(segments) != len(expected)
    path.write_bytes(b"damaged")
    again, err = printed()
    assert again == segments
    assert f"{path} is not a whole .safetensors file" in err
