import re

import pytest
from helpers import write_clip

import tfds_ma52.__main__
from tfds_ma52 import annotations, ma52_dataset_builder
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52_NAMES

TEN_LINES = """\
video,labels,emotion
clips/one.mp4,nodding;touching nose,joy
clips/two.mp4, Nodding ; 26,
clips/three.mp4,43,fear
clips/four.mp4,shaking legs,Joy
clips/five.mp4,9;10;43,joy
clips/six.mp4,waving,calm
clips/seven.mp4,waving;nodding,
clips/eight.mp4,SHAKING   HEAD,fear
clips/nine.mp4,crossing arms,joy
"""


def write(root, files, clips=()):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for i, name in enumerate(clips):
        write_clip(root / name, num_frames=5 + i, seed=i)
    return root


def ids(*names):
    return tuple(sorted(MA52_NAMES.index(name) for name in names))


def problems(root, **options):
    return [text.removeprefix(f"{root}/") for text in annotations.read_folder(root, **options).problems]


@pytest.fixture
def ten(tmp_path):
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    clips = [f"clips/{name}.mp4" for name in numbers]
    val = "emotion,video,labels\njoy,v/a.mp4,nodding\nanger,v/b.mp4,waving\n"
    return write(tmp_path, {"train.csv": TEN_LINES, "val.csv": val}, [*clips, "v/a.mp4", "v/b.mp4"])


def test_read_folder_reads_a_hand_written_file(ten):
    folder = annotations.read_folder(ten)
    assert folder.problems == ()
    assert folder.emotions == ("anger", "calm", "fear", "joy")  # those that occur, sorted
    train = {clip.video_id: clip for clip in folder.clips if clip.split == "train"}
    assert train["clips/one.mp4"].labels == ids("nodding", "touching nose")
    assert train["clips/two.mp4"].labels == ids("nodding", "spread legs")
    assert train["clips/five.mp4"].labels == ids("nodding", "shaking head", "touching nose")
    assert train["clips/eight.mp4"].labels == ids("shaking head")
    assert [train[f"clips/{name}.mp4"].emotion for name in ("one", "two", "three", "four")] == [3, -1, 2, 3]
    assert train["clips/one.mp4"].path == ten / "clips/one.mp4"
    assert train["clips/one.mp4"].location == f"{ten}/train.csv:2"


def test_emotions_that_are_numbers_keep_their_meaning(tmp_path):
    numbers = [1 + i % 12 for i in range(24)]  # the positions of other names
    files = {
        split: "video,labels,emotion\n" + "".join(f"{i}.mp4,nodding,{number}\n" for i, number in enumerate(numbers))
        for split in ("train.csv", "val.csv")
    }
    folder = annotations.read_folder(write(tmp_path, files, [f"{i}.mp4" for i in range(24)]))
    assert folder.emotions == tuple(map(str, range(1, 13)))
    train = [clip for clip in folder.clips if clip.split == "train"]
    assert [folder.emotions[clip.emotion] for clip in train] == list(map(str, numbers))


def test_name_that_is_a_number_is_no_id():
    parse = annotations.class_parser(("2", "0", "wave"))
    assert [parse(text) for text in ("2", "0", "wave", "1")] == [0, 1, 2, 1]
    with pytest.raises(ValueError, match=r"label 3 is outside 0\.\.2"):
        parse("3")


def test_build_builds_a_hand_written_file(ten, capsys):
    assert tfds_ma52.__main__.main(["--manual_dir", str(ten), "--config=pro_h264_256", "--num_processes=1"]) == 0
    summary = capsys.readouterr().out.splitlines()
    assert "train 9, val 2 clips" in summary[-2]
    assert summary[-1] == "  labels a clip: train 1.6, val 1.0; emotions: anger, calm, fear, joy"
    builder = ma52_dataset_builder.build(ten, config="pro_h264_256")
    examples = {example["video_id"].decode(): example for example in builder.as_data_source("train")}
    assert examples["clips/one.mp4"]["labels"].nonzero()[0].tolist() == [9, 43]
    assert examples["clips/one.mp4"]["labels"].shape == (52,)
    assert int(examples["clips/two.mp4"]["emotion"]) == -1
    assert int(examples["clips/six.mp4"]["emotion"]) == 1
    assert int(examples["clips/three.mp4"]["num_frames"]) == 7
    metadata = builder.info.metadata
    assert metadata["emotions"] == ["anger", "calm", "fear", "joy"]
    assert metadata["label_counts"]["train"][9] == 4
    assert metadata["emotion_counts"] == {"train": [0, 1, 2, 4], "val": [1, 0, 0, 1]}
    assert metadata["hidden"] == []


def test_build_reports_every_problem_in_one_error(ten):
    rows = TEN_LINES + "clips/one.mp4,nodding,\nclips/ten.mp4,nodding,\nclips/two.mp4,noding,\nclips/six.mp4,,\n"
    rows += "clips/one.mp4,nodding;9,\nclips/one.mp4,52,\n,nodding,\n/etc/a.mp4,nodding,\na.mp4,nodding\n"
    rows += "clips/two.mp4,nodding;;waving,\n../b.mp4,xyz,\n"
    (ten / "train.csv").write_text(rows)
    (ten / "v/b.mp4").write_bytes(b"")
    with pytest.raises(UserError) as error:
        ma52_dataset_builder.build(ten, config="pro_original", num_processes=1)
    lines = [line.strip().removeprefix(f"{ten}/") for line in str(error.value).splitlines()]
    assert lines[0].endswith(": 13 problems")
    assert lines[1:] == [
        "train.csv:19: expected 3 fields (video,labels,emotion), got 2",
        "train.csv:13: unknown label 'noding'; did you mean 'nodding'?",
        "train.csv:14: a label is empty; expected names or ids with ';' between them",
        "train.csv:15: label 'nodding' is given twice",
        "train.csv:16: label 52 is outside 0..51",
        "train.csv:17: the video is missing",
        f"train.csv:18: '/etc/a.mp4' lies outside {ten}",
        "train.csv:20: a label is empty; expected names or ids with ';' between them",
        f"train.csv:21: '../b.mp4' lies outside {ten}",
        "train.csv:21: unknown label 'xyz'",
        f"train.csv:11: one.mp4 is listed more than once (also {ten}/train.csv:2)",
        f"train.csv:12: {ten}/clips/ten.mp4: the file is missing",
        f"val.csv:3: {ten}/v/b.mp4: the file is empty",
    ]


def test_read_folder_reads_one_file_with_a_column_of_splits(tmp_path):
    rows = "split,video,labels,note\ntrain,a.mp4,nodding,x\nVAL,b.mp4,waving,\ntest,c.mp4,tiptoe,\n"
    root = write(tmp_path, {"annotations.csv": "\ufeff" + rows.replace("\n", "\r\n")})
    folder = annotations.read_folder(root)
    assert [(clip.split, clip.labels) for clip in folder.clips] == [
        ("train", ids("nodding")),
        ("val", ids("waving")),
        ("test", ids("tiptoe")),
    ]
    assert folder.emotions == ()
    assert folder.problems == ()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            "video,labels\na.mp4,9\n",
            "annotations.csv:1: the header 'video,labels' lacks split; or name the",
        ),
        ("video,split\na.mp4,train\n", "annotations.csv:1: the header 'video,split' lacks labels"),
        ("video,labels,split\na.mp4,9,dev\n", "annotations.csv:2: split is 'dev'; expected one of train, val, test"),
        ("video,labels,split\na.mp4,9,train\n", "annotations.csv: no row is of split val; both are needed"),
        ("video,labels,split\n", "annotations.csv: there is no row below the header"),
        ("", "annotations.csv: the file is empty"),
    ],
)
def test_read_folder_refuses_unusable_files(tmp_path, rows, expected):
    (problem,) = problems(write(tmp_path, {"annotations.csv": rows}))
    assert problem.startswith(expected)


def test_read_folder_reads_own_classes_and_emotions(tmp_path):
    files = {
        "train.csv": "video,labels,emotion\na.mp4,Fidget;1,1\n",
        "val.csv": "video,labels,emotion\nb.mp4,blink,joi\nc.mp4,blink,Joy\n",
        "label_name.txt": "0\tfidget\n1\tblink\n",
        "emotion_name.txt": "0\tcalm\n1\tjoy\n2\trage\n",
    }
    folder = annotations.read_folder(write(tmp_path, files))
    assert folder.labels.names == ("fidget", "blink")
    assert folder.emotions == ("calm", "joy", "rage")
    assert [(clip.labels, clip.emotion) for clip in folder.clips] == [((0, 1), 1), ((1,), 1)]
    assert problems(tmp_path) == ["val.csv:2: unknown emotion 'joi'; did you mean 'joy'?"]
    (tmp_path / "label_name.txt").write_text("zero fidget\n")
    assert problems(tmp_path)[0].startswith("label_name.txt:1: expected '<id><TAB><name>'")


def test_read_folder_finds_clips_and_files_in_all_locations(tmp_path):
    row = "video,labels\n{},9\n"
    files = {f"lists/{split}.csv": row.format(f"{split}.mp4") for split in ("train", "val")}
    root = write(tmp_path, files, ["clips_train/train.mp4", "videos/val.mp4"])
    options = {"list_file": "lists/{split}.csv"}
    paths = [clip.path.relative_to(root) for clip in annotations.read_folder(root, **options).clips]
    assert list(map(str, paths)) == ["train.mp4", "videos/val.mp4"]
    paths = [
        c.path.relative_to(root) for c in annotations.read_folder(root, video_folder="clips_{split}", **options).clips
    ]
    assert list(map(str, paths)) == ["clips_train/train.mp4", "clips_val/val.mp4"]
    write(root, {"all.csv": "video,labels,split\na.mp4,9,train\nb.mp4,9,val\n"})
    assert len(annotations.read_folder(root, list_file="all.csv").clips) == 2
    with pytest.raises(UserError, match=r"'\{part\}\.csv' names no location"):
        annotations.read_folder(root, list_file="{part}.csv")


def test_build_hides_a_test_split_without_labels(tmp_path):
    row = "video,labels,emotion\n{}.mp4,9,joy\n"
    files = {"train.csv": row.format("a"), "val.csv": row.format("b"), "test.csv": "video,labels,emotion\nc.mp4,,\n"}
    root = write(tmp_path, files, ["a.mp4", "b.mp4", "c.mp4"])
    builder = ma52_dataset_builder.build(root, config="pro_original", num_processes=1)
    assert builder.info.metadata["hidden"] == ["test"]
    assert next(iter(builder.as_data_source("test")))["labels"].sum() == 0
    (root / "test.csv").write_text("video,labels\nc.mp4,\nd.mp4,9\n")
    assert problems(root) == ["test.csv:2: a label is empty; expected names or ids with ';' between them"]


def test_read_folder_without_files_states_the_format(tmp_path):
    with pytest.raises(UserError, match=re.escape("annotations.csv with the header video,labels,emotion,split")):
        annotations.read_folder(tmp_path)
    with pytest.raises(UserError, match=r"there is no folder .*/none: name the folder of the annotation files"):
        annotations.read_folder(tmp_path / "none")


def test_build_refuses_changed_annotations(ten):
    ma52_dataset_builder.build(ten, config="pro_original", num_processes=1)
    text = (ten / "train.csv").read_text()
    (ten / "train.csv").write_text(text.replace("\n", "\r\n"))
    ma52_dataset_builder.build(ten, config="pro_original")  # the same rows
    (ten / "train.csv").write_text(text.replace("crossing arms", "waving"))
    with pytest.raises(UserError, match=r"was built from other lists \(or windows\) than those now in"):
        ma52_dataset_builder.build(ten, config="pro_original")
