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


def test_numbers_are_no_ids_where_names_are_numbers(tmp_path):
    files = {
        "train.csv": "video,labels,emotion\na.mp4,20;10.0,6\nb.mp4,1,5\nc.mp4,30,0\nd.mp4,2.0,\n",
        "val.csv": "video,labels\nv.mp4,10\n",
        "label_name.txt": "0\t10\n1\t20\n2\t30\n",
        "emotion_name.txt": "0\t5\n1\t6\n",
    }
    root = write(tmp_path, files)
    assert [(clip.labels, clip.emotion) for clip in annotations.read_folder(root).clips] == [((0, 1), 1), ((0,), -1)]
    assert problems(root) == [
        "train.csv:3: unknown label '1': where names are numbers, it must be one of them",
        "train.csv:4: unknown emotion '0': where names are numbers, it must be one of them",
        "train.csv:5: unknown label '2.0': where names are numbers, it must be one of them",
    ]


def test_whole_numbers_with_a_fraction_are_the_same(tmp_path):
    rows = "video,labels,emotion,split\na.mp4,3.0,3.0,train\nb.mp4,4.0;5,3,train\nc.mp4,3,10.0,val\nd.mp4,4.5,2,val\n"
    folder = annotations.read_folder(write(tmp_path, {"annotations.csv": rows}))
    assert folder.emotions == ("2", "3", "10")
    assert [(clip.labels, folder.emotions[clip.emotion]) for clip in folder.clips] == [
        ((3,), "3"),
        ((4, 5), "3"),
        ((3,), "10"),
    ]
    assert problems(tmp_path) == ["annotations.csv:5: unknown label '4.5'"]
    write(tmp_path, {"emotion_name.txt": "".join(f"{i}\t{name}\n" for i, name in enumerate("abcdefghijk"))})
    assert [clip.emotion for clip in annotations.read_folder(tmp_path).clips] == [3, 3, 10]


def test_names_that_differ_in_case_alone_must_be_exact(tmp_path):
    files = {"train.csv": "video,labels\na.mp4,nod\nb.mp4,Nod\nc.mp4,NOD\n", "val.csv": "video,labels\nv.mp4,nod\n"}
    root = write(tmp_path, files | {"label_name.txt": "0\tNod\n1\tnod\n"})
    assert [clip.labels for clip in annotations.read_folder(root).clips] == [(1,), (0,), (1,)]
    assert problems(root) == ["train.csv:4: label 'NOD' may be 'Nod' or 'nod'"]


@pytest.mark.parametrize(
    "text",
    [
        'video;labels;emotion;split\na.mp4;"nodding;waving";joy;train\nb.mp4;nodding|waving;joy;val\n',
        "video;labels;emotion;split\na.mp4;nodding,waving;joy;train\nb.mp4;9, 19;joy;val\n",
        "split\tvideo\tlabels\temotion\ntrain\ta.mp4\tnodding;waving\tjoy\nval\tb.mp4\twaving | 9\tjoy\n",
        'video, labels, emotion, split\na.mp4, "nodding,waving", joy, train\nb.mp4, 9;19, joy, val\n',
        ",Video,Unnamed: 0,Labels,emotion,split\n0,a.mp4,7,9;19,joy,train\n1,b.mp4,,19;9,joy,val\n",
    ],
    ids=["semicolons", "commas in cells", "tabs", "spaces", "index columns"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_read_folder_reads_tables_of_other_programs(tmp_path, text, encoding, line_end):
    (tmp_path / "annotations.csv").write_bytes(text.replace("\n", line_end).encode(encoding))
    folder = annotations.read_folder(tmp_path)
    assert folder.problems == ()
    assert [(clip.split, clip.video_id, clip.labels, clip.emotion) for clip in folder.clips] == [
        ("train", "a.mp4", (9, 19), 0),
        ("val", "b.mp4", (9, 19), 0),
    ]
    assert folder.emotions == ("joy",)
    assert folder.clips[1].location == f"{tmp_path}/annotations.csv:3"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "video;labels;emotion\na.mp4;nodding;waving;joy\n",
            "train.csv:2: expected 3 fields (video;labels;emotion), got 4; where ';' separates the fields, several "
            "labels need quotes or '|' between them",
        ),
        (
            "video;labels;emotion\na.mp4;nodding;Waving\n",
            "train.csv:2: emotion 'Waving' is a class: where ';' separates the fields, several labels need quotes "
            "or '|' between them; if it is an emotion, write emotion_name.txt",
        ),
        (
            "video;labels\na.mp4;3,0\n",
            "train.csv:2: labels '3,0' may be two, or one with a decimal comma: write ids without one, or with ';'",
        ),
        ("video;labels\na.mp4;9|10,19\n", "train.csv:2: unknown label '10,19'"),
        ("video,labels,Labels \na.mp4,9,10\n", "train.csv:1: the header has 'labels' more than once"),
        ("video,labels,\na.mp4,9,waving\n", "train.csv:2: field 3 is 'waving', but the column has no name"),
        ('video,labels,note\na.mp4,9,"so\nb.mp4,9,\n', "train.csv:3: not a csv row (unexpected end of data)"),
        ("video\tlabels;split\na\t9\n", "train.csv:1: the header 'video\\tlabels;split' lacks labels"),
    ],
)
def test_read_folder_refuses_ambiguous_tables(tmp_path, text, expected):
    root = write(tmp_path, {"train.csv": text, "val.csv": "video,labels\nv.mp4,9\n"})
    assert problems(root)[0] == expected


def test_read_folder_takes_marks_within_names(tmp_path):
    train = 'video,labels\na.mp4,"hands, folded"\nb.mp4,"hands, folded;up|down"\nc.mp4,down;wave\nd.mp4,up|down\n'
    files = {"train.csv": train, "val.csv": "video,labels\nv.mp4,wave\n"}
    names = ["hands, folded", "up|down", "down", "wave"]
    root = write(tmp_path, files | {"label_name.txt": "".join(f"{i}\t{name}\n" for i, name in enumerate(names))})
    assert problems(root) == []
    assert [clip.labels for clip in annotations.read_folder(root).clips] == [(0,), (0, 1), (2, 3), (1,), (3,)]
    write(root, {"label_name.txt": "0\thands, folded\n1\tup|down\n2\tdown\n3\twave\n4\tup\n"})
    assert problems(root) == ["train.csv:5: labels 'up|down' may be 'up|down' or 'up' and 'down'"]


def test_read_folder_takes_backslashes_as_folders(tmp_path):
    rows = "clips\\a.mp4,train\nb.mp4,val\n..\\c.mp4,train\nC:\\d.mp4,train\n\\\\host\\e.mp4,train\n"
    text = "video,split,labels\n" + rows.replace("\n", ",9\n")
    root = write(tmp_path, {"annotations.csv": text})
    first, _ = annotations.read_folder(root).clips
    assert (first.video_id, first.path) == ("clips/a.mp4", root / "clips/a.mp4")
    assert problems(root) == [
        f"annotations.csv:4: '../c.mp4' lies outside {root}",
        f"annotations.csv:5: 'C:/d.mp4' lies outside {root}",
        f"annotations.csv:6: '//host/e.mp4' lies outside {root}",
    ]


@pytest.mark.parametrize("word", ["", " ", "nan", "NaN", "N/A", "NA", "None", "null", "-", "#N/A", "<NA>"])
def test_words_for_missing_are_no_labels_and_no_emotions(tmp_path, word):
    rows = f"video,labels,emotion,split\na.mp4,{word},{word},train\nb.mp4,9,joy,val\nc.mp4,{word},{word},test\n"
    root = write(tmp_path, {"annotations.csv": rows})
    folder = annotations.read_folder(root)
    assert folder.problems == ()
    assert folder.emotions == ("joy",)
    assert [(clip.labels, clip.emotion) for clip in folder.clips] == [((), -1), ((9,), 0), (None, -1)]
    write(root, {"annotations.csv": rows + "d.mp4,9,,test\n"})
    assert [clip.labels for clip in annotations.read_folder(root).clips] == [(), (9,), (), (9,)]


def test_words_for_missing_may_be_names(tmp_path):
    files = {
        "train.csv": "video,labels,emotion\na.mp4,None,NONE\nb.mp4,null,nan\nc.mp4,none;nod,calm\n",
        "val.csv": "video,labels\nv.mp4,nod\n",
        "label_name.txt": "0\tnod\n1\tnone\n",
        "emotion_name.txt": "0\tnone\n1\tcalm\n",
    }
    folder = annotations.read_folder(write(tmp_path, files))
    assert folder.problems == ()
    assert [(clip.labels, clip.emotion) for clip in folder.clips] == [((1,), 0), ((), -1), ((0, 1), 1), ((0,), -1)]


def test_read_folder_reports_ids_that_start_at_1_once(tmp_path):
    files = {"train.csv": "video,labels\na.mp4,1\nb.mp4,3;2\nc.mp4,3.0\n", "val.csv": "video,labels\nv.mp4,3\n"}
    root = write(tmp_path, files | {"label_name.txt": "0\tnod\n1\twave\n2\tkick\n"})
    line = "label 3 is outside 0..2"
    assert problems(root) == [
        f"train.csv:3: {line} (and 2 more); no label is 0: the ids seem to start at 1, and must start at 0"
    ]
    write(root, {"val.csv": "video,labels\nv.mp4,Nod\n"})  # class 0 by its name
    assert problems(root) == [f"train.csv:3: {line}", f"train.csv:4: {line}"]


def test_read_folder_warns_of_absent_classes(tmp_path):
    names = "".join(f"{i}\t{name}\n" for i, name in enumerate(["nod", "wave", "kick"]))
    files = {"train.csv": "video,labels\na.mp4,1\n", "val.csv": "video,labels\nv.mp4,2\n", "label_name.txt": names}
    root = write(tmp_path, files)
    assert annotations.read_folder(root).warnings == (
        f"{root}: no clip of train and val is of class 0 (nod), but some are of every other class: if the ids start at "
        "1, let them start at 0",
        f"{root}: val has clips, but train has none, of 1 of 3 classes: kick",
    )
    write(root, {"train.csv": "video,labels\na.mp4,wave\n", "val.csv": "video,labels\nv.mp4,kick|wave\n"})
    assert annotations.read_folder(root).warnings[0] == f"{root}: train and val have no clip of 1 of 3 classes: nod"
    write(root, {"train.csv": "video,labels\na.mp4,nod;wave;kick\n"})
    assert annotations.read_folder(root).warnings == ()


def test_read_folder_warns_where_ids_may_be_of_other_classes(tmp_path):
    root = write(tmp_path, {"train.csv": "video,labels\na.mp4,0;1\n", "val.csv": "video,labels\nv.mp4,1\n"})
    (warning,) = annotations.read_folder(root).warnings
    assert warning.startswith(f"{root} has no label_name.txt: its labels are taken as MA-52's 52 classes, of which 2")
    write(root, {"train.csv": "video,labels\na.mp4,nodding;0\n", "val.csv": "video,labels\nv.mp4,0\n"})
    (warning,) = annotations.read_folder(root).warnings  # whoever writes nodding has MA-52's
    absent = (
        "sitting straightly, shrugging, turning around, rising up, bowing head, head up, tilting head, turning head, "
    )
    absent += "shaking head, scratching arms and 40 more"
    assert warning == f"{root}: train and val have no clip of 50 of 52 classes: {absent}"


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
    rows = TEN_LINES + "clips/one.mp4,nodding,\nclips/ten.mp4,nodding,\nclips/two.mp4,noding,\nclips/six.mp4,waving;,\n"
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
        "train.csv:16: label 52 is outside 0..51; no label is 0: the ids seem to start at 1, and must start at 0",
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
        (
            "video,labels,split,emotions\na.mp4,9,train,joy\n",
            "annotations.csv:1: the header has 'emotions', which would be ignored: write 'emotion'",
        ),
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
    (tmp_path / "label_name.txt").write_text("zero\tfidget\n")
    assert problems(tmp_path)[0].startswith("label_name.txt:1: expected '<id><TAB><name>'")
    (tmp_path / "label_name.txt").unlink()
    (tmp_path / "train.csv").write_text("video,labels,emotion\na.mp4,9,1\n")
    write(tmp_path, {"val.csv": "video,labels,emotion\nb.mp4,9,joi\n", "emotion_name.txt": "1 calm\n2 joy\n"})
    line = "emotion_name.txt: the ids run from 1 to 2; they must start at 0, here and where clips have them"
    assert problems(tmp_path) == [line]  # none of the emotions, which cannot be read without their names


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
    (root / "test.csv").write_text("video,labels\nc.mp4,\nd.mp4,9\n")  # the first is without a micro-action
    write_clip(root / "d.mp4")
    builder = ma52_dataset_builder.build(root, config="pro_original", num_processes=1, overwrite=True)
    assert builder.info.metadata["hidden"] == []
    assert [example["labels"].sum() for example in builder.as_data_source("test")] == [0, 1]


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
    with pytest.raises(UserError, match=r"was built from other lists \(or windows, or boxes\) than those now in"):
        ma52_dataset_builder.build(ten, config="pro_original")
