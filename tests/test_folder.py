import codecs

import pytest
from helpers import write_folder

from tfds_ma52 import folder, labels
from tfds_ma52.errors import UserError

LINE = "expected '<name>.mp4 <label>' or '<folder> <num_frames> <label>'"


def make_folder(root, train="0001_01_0001.mp4 0\n", val="0002_01_0001.mp4 1\n", **others):
    """Lists with empty files for clips: reading lists opens none."""
    for split, text in {"train": train, "val": val, **others}.items():
        (root / split).mkdir(parents=True, exist_ok=True)
        (root / f"{split}_list_videos.txt").write_bytes(text.encode())
    return root


@pytest.mark.parametrize("layout", ["videos", "annotations"])
def test_read_folder_reads_both_layouts_with_crlf(tmp_path, layout):
    read = folder.read_folder(write_folder(tmp_path, per_split=(("train", 3), ("val", 1)), layout=layout))
    assert read.labels.names == ("nodding", "waving", "tiptoe")
    assert [(clip.split, clip.video_id, clip.labels, clip.subject) for clip in read.clips] == [
        ("train", "0000_01_0000.mp4", (0,), "0000"),
        ("train", "0001_01_0001.mp4", (1,), "0001"),
        ("train", "0002_01_0002.mp4", (2,), "0002"),
        ("val", "0100_01_0000.mp4", (0,), "0100"),
    ]
    assert all(clip.path.is_file() for clip in read.clips)
    assert read.clips[1].location.endswith("train_list_videos.txt:2")


def test_read_folder_without_label_names_has_ma52s(tmp_path):
    some = make_folder(tmp_path, train="a.mp4 0\nb.mp4 1\n")
    (some / "classes.txt").write_text("walk\nrun\n")
    read = folder.read_folder(some)
    assert read.labels == labels.MA52
    assert read.warnings == (
        f"{some} has no label_name.txt (classes.txt is not read): its labels are taken as MA-52's 52 classes, of which "
        f"2 occur; if they are classes of your own, write {some}/label_name.txt with '<id><TAB><name>' a line",
    )
    (some / "label_name.txt").write_text("0\twalk\n1\trun\n")
    assert folder.read_folder(some).warnings == ()
    (some / "label_name.txt").unlink()
    most = make_folder(tmp_path, train="".join(f"{i}.mp4 {i}\n" for i in range(50)))
    assert folder.read_folder(most).warnings == (
        f"{most}: train and val have no clip of 2 of 52 classes: scratching legs, scratching feet",
    )


def own_classes(root, train, val="v.mp4 2\n", names=("walk", "run", "jump"), **others):
    """Lists of labels of some classes."""
    (make_folder(root, train, val, **others) / "label_name.txt").write_text("\n".join(names))
    return root


def test_read_folder_warns_of_classes_without_clips(tmp_path):
    root = own_classes(tmp_path, "a.mp4 0\n", test="t.mp4 1\n")
    assert folder.read_folder(root).warnings == (
        f"{root}: train and val have no clip of 1 of 3 classes: run",
        f"{root}: val has clips, but train has none, of 1 of 3 classes: jump",
    )
    root = own_classes(tmp_path, "a.mp4 0\n", "v.mp4 0\n", names="abcdefghijkl")
    assert folder.read_folder(root).warnings == (
        f"{root}: train and val have no clip of 11 of 12 classes: b, c, d, e, f, g, h, i, j, k and 1 more",
    )
    root = own_classes(tmp_path, "a.mp4 2\nb.mp4 1\nc.mp4 0\n")
    assert folder.read_folder(root).warnings == ()


def test_read_folder_warns_of_ids_that_may_start_at_1(tmp_path):
    root = own_classes(tmp_path, "a.mp4 1\nb.mp4 2\n", test="t.mp4 0\n")
    assert folder.read_folder(root).warnings == (
        f"{root}: no clip of train and val is of class 0 (walk), but some are of every other class: if the ids start "
        "at 1, let them start at 0",
    )
    (tmp_path / "train_list_videos.txt").write_text("a.mp4 1\nb.mp4 x\n")  # the clip of class 0, perhaps
    assert folder.read_folder(root).warnings == ()


def test_read_folder_reports_ids_that_start_at_1_once(tmp_path):
    root = own_classes(tmp_path, "a.mp4 1\nb.mp4 3\nc.mp4 3\nd.mp4\n", "v.mp4 3\n", test="t.mp4 3\n")
    path = f"{root}/train_list_videos.txt"
    assert list(folder.read_folder(root).problems) == [
        f"{path}:2: label 3 is outside 0..2 (and 3 more); no label is 0: the ids seem to start at 1, and must start at "
        "0",
        f"{path}:4: {LINE}, got 'd.mp4'",
    ]


@pytest.mark.parametrize("other", ["0", "4", "-1"])
def test_read_folder_reports_each_id_outside_that_is_no_count_from_1(tmp_path, other):
    problems = folder.read_folder(own_classes(tmp_path, f"a.mp4 3\nb.mp4 3\nc.mp4 {other}\n")).problems
    own = [f"{tmp_path}/train_list_videos.txt:{i}: label 3 is outside 0..2" for i in (1, 2)]
    assert list(problems[:2]) == own
    assert len(problems) == 2 + (other != "0")


def test_read_folder_reads_lists_of_windows_and_spreadsheets(tmp_path):
    root = make_folder(tmp_path, val="v.mp4 3\rpart\\w.mp4 4\r")
    (root / "train_list_videos.txt").write_bytes("part\\a.mp4\t3.0\r\n..\\b.mp4 3\r\nc.mp4 3.5\r\n".encode("utf-16"))
    read = folder.read_folder(root)
    assert [(clip.video_id, clip.path, clip.labels) for clip in read.clips] == [
        ("part/a.mp4", root / "train/part/a.mp4", (3,)),
        ("v.mp4", root / "val/v.mp4", (3,)),
        ("part/w.mp4", root / "val/part/w.mp4", (4,)),
    ]
    assert list(read.problems) == [
        f"{root}/train_list_videos.txt:2: '../b.mp4' lies outside {root}/train",
        f"{root}/train_list_videos.txt:3: {LINE}, got 'c.mp4 3.5'",
    ]


def test_read_folder_hides_a_test_list_of_zeros(tmp_path):
    read = folder.read_folder(make_folder(tmp_path, test="test0000.mp4 0\r\ntest0001.mp4 0\r\n"))
    assert [clip.labels for clip in read.clips if clip.split == "test"] == [None, None]
    assert [clip.subject for clip in read.clips if clip.split == "test"] == ["", ""]


def test_read_folder_keeps_an_open_test_list(tmp_path):
    read = folder.read_folder(make_folder(tmp_path, test="a.mp4 0\nb.mp4 3\n"))
    assert [clip.labels for clip in read.clips if clip.split == "test"] == [(0,), (3,)]


def test_read_folder_takes_other_locations(tmp_path):
    (tmp_path / "lists").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"clips_{split}").mkdir()
        (tmp_path / "lists" / f"{split}.txt").write_text("my clip.mp4 4\n")
    read = folder.read_folder(tmp_path, video_folder="clips_{split}", list_file="lists/{split}.txt")
    assert [(clip.path, clip.labels) for clip in read.clips] == [
        (tmp_path / "clips_train" / "my clip.mp4", (4,)),
        (tmp_path / "clips_val" / "my clip.mp4", (4,)),
    ]


def test_fingerprint_depends_on_labels_alone(tmp_path):
    first = folder.read_folder(make_folder(tmp_path / "a"))
    same = folder.read_folder(make_folder(tmp_path / "b", train="0001_01_0001.mp4 0\r\n"))
    other = folder.read_folder(make_folder(tmp_path / "c", train="0001_01_0001.mp4 1\n"))
    wide = make_folder(tmp_path / "d")
    (wide / "train_list_videos.txt").write_bytes("0001_01_0001.mp4 0\r".encode("utf-16"))
    assert folder.read_folder(wide).fingerprint == first.fingerprint
    assert first.fingerprint == same.fingerprint != other.fingerprint


def test_read_folder_reports_every_bad_line(tmp_path):
    train = (
        "ok.mp4 0\nno_label.mp4\nwords.mp4 nod\nrange.mp4 52\nminus.mp4 -1\n../out.mp4 0\n/etc/out.mp4 0\nok.mp4 1\n"
        f"two.mp4 --5\nhuge.mp4 {'9' * 5000}\na.mp4 0 1\n"
    )
    make_folder(tmp_path, train=train, val="\n")
    path = f"{tmp_path}/train_list_videos.txt"
    assert list(folder.read_folder(tmp_path).problems) == [
        f"{path}:2: {LINE}, got 'no_label.mp4'",
        f"{path}:3: {LINE}, got 'words.mp4 nod'",
        f"{path}:4: label 52 is outside 0..51",
        f"{path}:5: label -1 is outside 0..51",
        f"{path}:6: '../out.mp4' lies outside {tmp_path}/train",
        f"{path}:7: '/etc/out.mp4' lies outside {tmp_path}/train",
        f"{path}:9: {LINE}, got 'two.mp4 --5'",
        f"{path}:10: {LINE}, got 'huge.mp4 {'9' * 5000}'",
        f"{path}:11: {LINE}, got 'a.mp4 0 1'",
        f"{tmp_path}/val_list_videos.txt: the list is empty",
        f"{path}:8: ok.mp4 is listed more than once (also {path}:1)",
    ]


def test_read_folder_reports_other_encodings(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "train_list_videos.txt").write_bytes("caf\u00e9.mp4 0\n".encode("latin-1"))
    (tmp_path / "label_name.txt").write_bytes(codecs.BOM_UTF16_LE + b"\0\xd8")  # half of a pair
    (tmp_path / "val_list_videos.txt").write_bytes("a.mp4 0\n".encode("utf-16-le"))
    assert list(folder.read_folder(tmp_path).problems) == [
        f"{tmp_path}/label_name.txt is not UTF-8 text: save it as such",
        f"{tmp_path}/train_list_videos.txt is not UTF-8 text: save it as such",
        f"{tmp_path}/val_list_videos.txt holds the character NUL, as no UTF-8 text does: save it as such",
    ]


def test_read_folder_refuses_a_clip_in_two_splits(tmp_path):
    make_folder(tmp_path, train="a.mp4 0\n", val="a.mp4 0\n")
    (problem,) = folder.read_folder(tmp_path, video_folder="train").problems
    assert "val_list_videos.txt:1: a.mp4 is listed more than once" in problem


def test_read_folder_reports_a_list_without_clips(tmp_path):
    make_folder(tmp_path, test="a.mp4 0\n")
    (tmp_path / "test").rmdir()
    (problem,) = folder.read_folder(tmp_path).problems
    assert "test_list_videos.txt: its clips have no folder; looked for test or videos_test" in problem


@pytest.mark.parametrize("pattern", ["lists/{name}.txt", "{", "{0}"])
def test_read_folder_refuses_other_braces_in_a_pattern(tmp_path, pattern):
    make_folder(tmp_path)
    with pytest.raises(UserError, match=r"names no location: \{split\} is the only thing that may stand in braces"):
        folder.read_folder(tmp_path, list_file=pattern)


@pytest.mark.parametrize(
    ("name", "subject"),
    [("0007_01_0002.mp4", "0007"), ("part/0007_01_0002.mp4", "0007"), ("clip_7.mp4", ""), ("test0000.mp4", "")],
)
def test_subject_of_reads_names_of_ma52s_form_only(tmp_path, name, subject):
    read = folder.read_folder(make_folder(tmp_path, train=f"{name} 0\n"))
    assert read.clips[0].subject == subject


@pytest.mark.parametrize("missing", ["folder", "list"])
def test_read_folder_without_data_states_how_to_get_them(tmp_path, missing):
    root = tmp_path / "none"
    if missing == "list":
        make_folder(root)
        (root / "val_list_videos.txt").unlink()
    with pytest.raises(UserError) as error:
        folder.read_folder(root)
    reason = {"folder": f"There is no folder {root}.", "list": f"{root} has no list for val"}[missing]
    for part in (
        reason,
        "github.com/VUT-HFUT/Micro-Action",
        "videos_{train,val,test}/*.mp4",
        "with --manual_dir",
        "python -m tfds_ma52.synthetic DIR",
    ):
        assert part in str(error.value)
