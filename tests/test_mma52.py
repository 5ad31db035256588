import io
import json

import av
import numpy as np
import pytest

from tfds_ma52 import ma52_dataset_builder, mma52, untrimmed
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52_NAMES

HEADER = "id,video_id,start_frame,end_frame,class,total_frames,fps\n"
WINDOWS = {"window": 2.0, "stride": 1.0, "min_overlap": 0.5}
# A video of 5.5 s: nodding in 0..1 s, waving in 2.5..5 s; one of 1.2 s.
TRAIN = HEADER + "0,a,0,30,9,165,30\n1,a,75,150,waving,165,30\n2,b,6,30,nodding,36,30\n"
VAL = HEADER + "0,c,15,45,10,75,25\n"


def write(root, **files):
    for name, text in files.items():
        (root / f"{name}.csv").write_text(text)
    return root


def write_numbered(path, num_frames, fps=30):
    """Writes a clip whose brightness is the number of the frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.broadcast_to(np.arange(num_frames)[:, None, None, None], (num_frames, 64, 48, 3)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 48, 64, "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def read(root, **changes):
    return mma52.read_folder(root, **{**WINDOWS, **changes})


def test_windows_by_hand():
    assert untrimmed.windows(5.0, 2.0, 1.0) == [(0, 2), (1, 3), (2, 4), (3, 5)]
    assert untrimmed.windows(5.5, 2.0, 1.5) == [(0, 2), (1.5, 3.5), (3, 5), (3.5, 5.5)]  # the last ends with the video
    assert untrimmed.windows(1.2, 2.0, 1.0) == [(0, 1.2)]
    assert untrimmed.windows(2.0, 2.0, 1.0) == [(0, 2)]
    assert len(untrimmed.windows(0.3 * 10, 0.3, 0.1)) == 28  # 2.7 / 0.1 is not quite 27
    # 60 and 120 frames at 29.97 a second: a rest of less than a frame is no window.
    assert untrimmed.windows(2.002, 2.0, 1.0) == [(0, 2)]
    assert untrimmed.windows(4.004, 2.0, 1.0) == [(0, 2), (1, 3), (2, 4)]


def test_labels_of_counts_by_overlap():
    actions = [untrimmed.Action(9, 0.0, 1.0), untrimmed.Action(19, 2.5, 5.0)]

    def targets(*span, share=0.5):
        return untrimmed.labels_of(actions, tuple(map(float, span)), share)

    assert targets(0, 2) == (9,)
    assert targets(0.5, 2.5) == (9,)  # half of the nod
    assert targets(0.6, 2.6) == ()  # less than half of it, 0.1 s of the wave
    assert targets(1.4, 3.4) == ()  # 0.9 of the window's 2 s
    assert targets(1.5, 3.5) == (19,)
    assert targets(3, 5) == (19,)
    assert targets(1.0, 2.5, share=0.01) == ()  # they only touch
    assert targets(0, 5, share=1.0) == (9, 19)


def test_read_folder_reads_the_same_from_csv_and_json(tmp_path):
    (tmp_path / "csv").mkdir()
    (tmp_path / "json").mkdir()
    write(tmp_path / "csv", train=TRAIN, val=VAL)
    content = {
        "a": {"subset": "training", "duration": 5.5, "actions": [[9, 0, 1], ["Waving", 2.5, 5]]},
        "b": {"subset": "Train", "duration": 1.2, "actions": [["nodding", 0.2, 1.0]]},
        "c": {"subset": "validation", "duration": 3.0, "actions": [["shaking head", 0.6, 1.8]]},
    }
    (tmp_path / "json/annotations.json").write_text(json.dumps(content))
    left, right = (read(tmp_path / suffix) for suffix in ("csv", "json"))
    assert left.problems == right.problems == ()
    found = [(clip.video_id, clip.split, clip.labels, clip.span) for clip in left.clips]
    assert found == [(clip.video_id, clip.split, clip.labels, clip.span) for clip in right.clips]
    assert [(name, [MA52_NAMES[i] for i in labels]) for name, _, labels, _ in found] == [
        ("a@0.00-2.00", ["nodding"]),
        ("a@1.00-3.00", []),
        ("a@2.00-4.00", ["waving"]),
        ("a@3.00-5.00", ["waving"]),
        ("a@3.50-5.50", ["waving"]),
        ("b@0.00-1.20", ["nodding"]),
        ("c@0.00-2.00", ["shaking head"]),
        ("c@1.00-3.00", ["shaking head"]),
    ]


def test_build_stores_the_frames_of_each_window_only(tmp_path):
    write(tmp_path, train=TRAIN, val=VAL)
    for name, frames, fps in (("train/a.mp4", 165, 30), ("train/b.mp4", 36, 30), ("val/c.mp4", 75, 25)):
        write_numbered(tmp_path / name, frames, fps)
    options = {"config": "mma52_h264_256", "num_processes": 1}
    builder = ma52_dataset_builder.build(tmp_path, **options)
    examples = {example["video_id"].decode(): example for example in builder.as_data_source("train")}
    assert {name: int(example["num_frames"]) for name, example in examples.items()} == {
        "a@0.00-2.00": 60,
        "a@1.00-3.00": 60,
        "a@2.00-4.00": 60,
        "a@3.00-5.00": 60,
        "a@3.50-5.50": 60,
        "b@0.00-1.20": 36,
    }
    with av.open(io.BytesIO(examples["a@2.00-4.00"]["video"])) as container:
        means = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    np.testing.assert_allclose(means, np.arange(60, 120), atol=2.5)
    assert examples["a@1.00-3.00"]["labels"].sum() == 0
    assert examples["a@2.00-4.00"]["labels"].nonzero()[0].tolist() == [MA52_NAMES.index("waving")]
    (val, _) = builder.as_data_source("val")
    assert int(val["num_frames"]) == 50  # two seconds of 25
    with pytest.raises(UserError, match=r"was built from other lists \(or windows, or boxes\)"):
        ma52_dataset_builder.build(tmp_path, **options, window=1.0)
    assert len(ma52_dataset_builder.build(tmp_path, **options, window=5.0, overwrite=True).as_data_source("train")) == 3


def test_build_reports_a_video_shorter_than_its_annotation(tmp_path):
    write(tmp_path, train=TRAIN, val=VAL)
    for name, frames, fps in (("train/a.mp4", 90, 30), ("train/b.mp4", 36, 30), ("val/c.mp4", 75, 25)):
        write_numbered(tmp_path / name, frames, fps)
    with pytest.raises(UserError) as error:
        ma52_dataset_builder.build(tmp_path, config="mma52_h264_256", num_processes=1)
    assert "train.csv:2" in str(error.value)
    assert "a.mp4: the file has no frame from second 3.00 on" in str(error.value)


def test_read_folder_hides_a_test_split_of_dummies(tmp_path):
    write(tmp_path, train=TRAIN, val=VAL, test=HEADER + "0,d,0,0,0,60,30\n1,e,0,0,,60,30\n")
    folder = read(tmp_path)
    assert folder.problems == ()
    assert [clip.labels for clip in folder.clips if clip.split == "test"] == [None, None]
    write(tmp_path, test=HEADER + "0,d,0,30,9,60,30\n1,e,30,60,0,60,30\n")
    assert [clip.labels for clip in read(tmp_path).clips if clip.split == "test"] == [(9,), (0,)]


def video(name, *spans, split="test"):
    actions = [untrimmed.Action(class_id, start, end) for class_id, start, end in spans]
    return untrimmed.Video(name, split, 9.0, "", actions)


def test_is_hidden_knows_the_placeholder_of_mma52():
    """One action a video at frames 0 to 20 of 29 or 30 a second, its class counting."""
    dummies = [video(f"{i}", (i % 51 + 1, 0.0, 20 / (29 + i % 2))) for i in range(60)]
    assert mma52.is_hidden("test", dummies)
    assert not mma52.is_hidden("test", [*dummies, video("x", (3, 0.0, 0.9))])
    assert not mma52.is_hidden("test", [*dummies, video("x", (3, 0.0, 0.68), (4, 0.0, 0.68))])
    assert not mma52.is_hidden("test", dummies[:1])  # which may be an action as well
    assert not mma52.is_hidden("train", [video(f"{i}", (0, 0.0, 1.0), split="train") for i in range(3)])


def test_read_videos_gives_actions_but_hidden_ones(tmp_path, caplog):
    write(tmp_path, train=TRAIN, val=VAL, test=HEADER + "0,d,0,20,1,60,30\n1,e,0,20,2,60,30\n")
    labels, videos = mma52.read_videos(tmp_path)
    assert labels.names == MA52_NAMES
    assert [(v.name, v.split, v.duration) for v in videos] == [
        *(("a", "train", 5.5), ("b", "train", 1.2), ("c", "val", 3.0), ("d", "test", 2.0), ("e", "test", 2.0)),
    ]
    assert videos[0].actions == [untrimmed.Action(9, 0.0, 1.0), untrimmed.Action(19, 2.5, 5.0)]
    assert videos[3].actions == videos[4].actions == []
    assert "train and val have no clip of 49 of 52 classes" in caplog.text
    assert mma52.find_video(tmp_path, videos[0], "of_{split}") == tmp_path / "of_train/a.mp4"
    (tmp_path / "val").mkdir()
    (tmp_path / "val/c.mp4").touch()
    assert mma52.find_video(tmp_path, videos[2]) == tmp_path / "val/c.mp4"


def test_read_videos_raises_all_problems_at_once(tmp_path):
    write(tmp_path, train=TRAIN + "3,a,0,200,9,165,30\n", val=VAL + "1,a,0,30,9,60,30\n")
    with pytest.raises(UserError) as error:
        mma52.read_videos(tmp_path)
    assert str(error.value).splitlines() == [
        f"the annotations of {tmp_path} cannot be used: 2 problems",
        f"  {tmp_path}/train.csv:5: the action ends at 6.67 s, but the video at 5.50 s",
        f"  {tmp_path}/val.csv:3: a is also in split train",
    ]


def test_read_folder_takes_a_test_row_without_a_class_as_a_video_without_actions(tmp_path):
    write(tmp_path, train=TRAIN, val=VAL, test=HEADER + "0,d,0,30,nan,60,30\n1,e,0,30,,60,30\n")
    assert [clip.labels for clip in read(tmp_path).clips if clip.split == "test"] == [None, None]
    write(tmp_path, test=HEADER + "0,d,0,30,nan,60,30\n1,e,0,30,9,60,30\n")
    assert [clip.labels for clip in read(tmp_path).clips if clip.split == "test"] == [(), (9,)]


def test_read_folder_reads_tables_of_other_programs(tmp_path):
    write(tmp_path, train=TRAIN.replace(",9,", ",9.0,").replace(",a,", ",x\\a,").replace(",", ";"))
    (tmp_path / "val.csv").write_bytes(VAL.replace(",", "\t").replace("id\t", "\t", 1).encode("utf-16"))
    folder = read(tmp_path)
    assert folder.problems == ()
    assert [(clip.video_id, clip.labels) for clip in folder.clips] == [
        ("x/a@0.00-2.00", (9,)),
        ("x/a@1.00-3.00", ()),
        ("x/a@2.00-4.00", (19,)),
        ("x/a@3.00-5.00", (19,)),
        ("x/a@3.50-5.50", (19,)),
        ("b@0.00-1.20", (9,)),
        ("c@0.00-2.00", (10,)),
        ("c@1.00-3.00", (10,)),
    ]
    assert folder.clips[0].path == tmp_path / "x/a.mp4"


def test_read_folder_reports_ids_that_start_at_1_once(tmp_path):
    names = "".join(f"{i}\t{name}\n" for i, name in enumerate(["nod", "wave", "kick"]))
    (tmp_path / "label_name.txt").write_text(names)
    rows = HEADER + "0,a,0,30,1,60,30\n1,a,30,60,3,60,30\n"
    write(tmp_path, train=rows, val=HEADER + "0,v,0,30,3,60,30\n", test=HEADER + "0,t,0,0,0,60,30\n")
    assert read(tmp_path).problems == (
        f"{tmp_path}/train.csv:3: label 3 is outside 0..2 (and 1 more); no label is 0: the ids seem to start at 1, and "
        "must start at 0",
    )
    write(tmp_path, train=rows.replace(",3,60", ",2,60"), val=HEADER + "0,v,0,30,2,60,30\n")
    assert read(tmp_path).warnings == (
        f"{tmp_path}: no clip of train and val is of class 0 (nod), but some are of every other class: if the ids "
        "start at 1, let them start at 0",
    )
    write(tmp_path, train=rows.replace(",3,60", ",nod,60"), val=HEADER + "0,v,0,30,2,60,30\n")
    assert read(tmp_path).warnings == (f"{tmp_path}: val has clips, but train has none, of 1 of 3 classes: kick",)


def test_read_folder_reports_every_bad_row(tmp_path):
    rows = TRAIN + "3,a,10,10,9,165,30\n4,a,0,30,9,165,30\n5,a,0,30,nodin,165,30\n6,a,0,200,9,165,30\n"
    rows += "7,a,0,30,10,165,25\n8,f,0,30,9,60,0\n9,g,x,30,9,60,30\n10,,0,30,9,60,30\n11,h,0,30\n12,i,0,-5,9,60,30\n"
    rows += "13,j,0,30,NA,60,30\n14,..\\k,0,30,9,60,30\n"
    write(tmp_path, train=rows, val=VAL + "1,a,0,30,9,60,30\n")
    found = [problem.removeprefix(f"{tmp_path}/") for problem in read(tmp_path).problems]
    assert found == [
        "train.csv:13: expected 7 fields (id,video_id,start_frame,end_frame,class,total_frames,fps), got 4",
        "train.csv:5: the action starts at 0.33 s, but ends at 0.33 s",
        "train.csv:7: unknown label 'nodin'; did you mean 'nodding'?",
        "train.csv:8: the action ends at 6.67 s, but the video at 5.50 s",
        "train.csv:9: total_frames and fps are 165, 25, but 165, 30 above",
        "train.csv:10: total_frames is 60 and fps 0; expected 1 frame to a day of them, 0.1 to 10,000 a second",
        "train.csv:11: start_frame is 'x'; expected a number",
        "train.csv:12: the video_id is missing",
        "train.csv:14: end_frame is '-5'; expected a number from 0 on",
        "train.csv:15: the class is missing",
        f"train.csv:16: '../k' lies outside {tmp_path}",
        "val.csv:3: a is also in split train",
    ]


def test_actions_of_a_visible_test_split_have_possible_times(tmp_path):
    rows = "0,d,30,60,9,90,30\n1,d,60,30,19,90,30\n2,e,0,30,9,60,30\n3,e,0,99,10,60,30\n"
    write(tmp_path, train=TRAIN, val=VAL, test=HEADER + rows)
    path = f"{tmp_path}/test.csv"
    assert list(read(tmp_path).problems) == [
        f"{path}:2: d: the action starts at 2.00 s, but ends at 1.00 s",
        f"{path}:4: e: the action ends at 3.30 s, but the video at 2.00 s",
    ]
    with pytest.raises(UserError, match="2 problems"):
        mma52.read_videos(tmp_path)


def test_an_action_that_is_there_twice_counts_once(tmp_path):
    write(tmp_path, train=TRAIN, val=VAL)
    _, once = mma52.read_videos(tmp_path)
    write(tmp_path, train=TRAIN + TRAIN.splitlines()[1].replace("0,", "7,", 1) + "\n", val=VAL)
    assert mma52.read_videos(tmp_path)[1] == once
    assert read(tmp_path).warnings[0] == (
        f"{tmp_path}/train.csv:2: an action is there twice, with the same class and times, and counted once: nodding "
        "of a, 0.00 to 1.00 s"
    )


def test_read_folder_knows_a_video_by_its_file(tmp_path):
    """With and without the suffix: else its actions would be divided among two videos, or it would be in two splits."""
    write(tmp_path, train=TRAIN + "3,a.mp4,0,30,9,165,30\n", val=VAL)
    path = f"{tmp_path}/train.csv"
    assert list(read(tmp_path).problems) == [f"{path}:5: a.mp4 is the file of a ({path}:2) too"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "annotations.json: not readable as json"),
        ("[]", "annotations.json: expected an object of videos"),
        ('{"a": {"subset": "dev", "duration": 3, "actions": []}}', "annotations.json: a: subset is 'dev'; expected"),
        ('{"a": {"subset": "train", "duration": 0, "actions": []}}', "annotations.json: a: duration is 0; it must be"),
        ('{"a": {"subset": "train", "actions": []}}', "annotations.json: a: expected subset, duration and actions"),
        ('{"a": {"subset": "train", "duration": 3, "actions": [[1, 2]]}}', "annotations.json: a: expected subset, dur"),
        (
            '{"a": {"subset": "train", "duration": 3, "actions": [["x", 0, 1]]}}',
            "annotations.json: a, action 1: unknown label 'x'",
        ),
        (
            '{"a": {"subset": "train", "duration": 3, "actions": [[null, 0, 1]]}}',
            "annotations.json: a, action 1: the class is missing",
        ),
        (
            '{"a": {"subset": "train", "duration": 3, "actions": []}, "a": {}}',
            "annotations.json: not readable as json ('a' is there twice)",
        ),
        (
            '{"b/a": {"subset": "val", "duration": 3, "actions": []}, '
            '"b\\\\a": {"subset": "val", "duration": 3, "actions": []}}',
            "annotations.json: b\\a: the video is there as 'b/a' too",
        ),
        ('{"a": {"subset": "train", "duration": 3, "actions": []}}', "annotations.json: no video is of subset val"),
    ],
)
def test_read_folder_refuses_unusable_json(tmp_path, content, expected):
    (tmp_path / "annotations.json").write_text(content)
    assert read(tmp_path).problems[0].removeprefix(f"{tmp_path}/").startswith(expected)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("window", 0.0, "window is 0.0; give 0.01 to 86400 seconds"),
        ("stride", -1.0, "stride is -1.0; give 0.01 to 86400 seconds"),
        ("min_overlap", 0.0, "min_overlap is 0.0; give a share above 0, up to 1"),
        ("min_overlap", 1.5, "min_overlap is 1.5; give a share above 0, up to 1"),
    ],
)
def test_check_windows_refuses_values_out_of_range(tmp_path, field, value, message):
    with pytest.raises(UserError, match=message) as error:
        read(write(tmp_path, train=TRAIN, val=VAL), **{field: value})
    assert error.value.field == field


def test_read_folder_without_files_states_the_format(tmp_path):
    with pytest.raises(UserError, match=r"has no annotations of MMA-52: it must hold .*train\.csv and .*val\.csv"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"there is no folder .*/none: name the folder of MMA-52"):
        read(tmp_path / "none")
