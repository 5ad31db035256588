import dataclasses
import pathlib

import pytest

from manet_jax.annotation_files import write_eaf
from manet_jax.detection.segments import Segment
from manet_jax.studies import correct
from tfds_ma52 import elan, mma52
from tfds_ma52.untrimmed import Action


def test_compare_by_hand():
    actions = [Action(1, 0.0, 2.0), Action(1, 10.0, 12.0), Action(2, 5.0, 6.0)]
    predicted = [
        Segment(0.1, 2.2, 1, 0.9),
        Segment(0.0, 2.9, 1, 0.8),  # the same action again
        Segment(10.0, 13.0, 1, 0.7),  # a second too long, IoU 2/3
        Segment(5.0, 6.0, 3, 0.6),  # of another class
    ]
    assert sorted(correct.compare(predicted, actions)) == sorted(
        ["left as it is", "deleted", "moved in time", "deleted", "added"]
    )
    assert correct.compare([], actions) == ["added"] * 3
    assert correct.compare(predicted[:1], []) == ["deleted"]


def test_corrected_files_hold_what_was_drawn(drawn_untrimmed, tmp_path, capsys):
    labels, videos = mma52.read_videos(drawn_untrimmed)
    videos = [video for video in videos if video.split != "test"]  # whose actions are hidden
    for video in videos:
        moved = [Segment(max(0.0, a.start - 1), a.end, a.class_id, 0.5) for a in video.actions[1:]]
        file = mma52.find_video(drawn_untrimmed, video)
        write_eaf(tmp_path / f"{file.stem}.eaf", file, video.duration, moved, labels)
    assert correct.main([str(tmp_path), "--truth", str(drawn_untrimmed)]) == 0
    head, _, *rows = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines())
    assert set(head) - {""} == {"train", "val"}
    counts = {kind: sum(map(int, each)) for kind, *each in rows}
    num_actions = sum(len(video.actions) for video in videos)
    assert counts["added"] - counts["deleted"] == len(videos) == 2  # the first action of each was missing
    assert counts["left as it is"] + counts["moved in time"] + counts["added"] == num_actions
    assert counts["moved in time"] > 0
    for video in videos:
        observation = elan.read_eaf(tmp_path / f"{video.name.removesuffix('.mp4')}.eaf", [])
        found = sorted((each.start, each.end, each.value) for each in observation.annotations)
        expected = sorted((a.start, a.end, labels.names[a.class_id]) for a in video.actions)
        assert [each[2] for each in found] == [each[2] for each in expected]
        for one, other in zip(found, expected, strict=True):
            assert one[:2] == pytest.approx(other[:2], abs=1e-3)


def test_bad_folders_are_refused(drawn_untrimmed, tmp_path, capsys):
    assert correct.main([str(tmp_path), "--truth", str(drawn_untrimmed)]) == 2
    assert "has no .eaf file" in capsys.readouterr().err
    labels, _ = mma52.read_videos(drawn_untrimmed)
    write_eaf(tmp_path / "other.eaf", tmp_path / "other.mp4", 3.0, [], labels)
    assert correct.main([str(tmp_path), "--truth", str(drawn_untrimmed)]) == 2
    assert "has no video other" in capsys.readouterr().err


def test_files_that_cannot_be_corrected_stay_as_they_are(drawn_untrimmed, tmp_path, capsys):
    """Of a model of other classes, and of a split whose actions are hidden: not those that were drawn."""
    labels, videos = mma52.read_videos(drawn_untrimmed)
    others = dataclasses.replace(labels, names=tuple(f"my {name}" for name in labels.names))
    for video in videos:
        path, of_video = tmp_path / f"{pathlib.Path(video.name).stem}.eaf", labels if video.split == "test" else others
        write_eaf(path, tmp_path / "a.mp4", video.duration, [Segment(0.0, 1.0, 0, 0.5)], of_video)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert correct.main([str(tmp_path), "--truth", str(drawn_untrimmed)]) == 2
    err = capsys.readouterr().err
    assert err.count(f"has no class 'my {labels.names[0]}'") == 2
    assert err.count("the actions of split test are hidden") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
