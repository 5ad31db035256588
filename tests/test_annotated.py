import collections
import pathlib
import sys

import numpy as np
import pympi
import pytest
from helpers import outcome, write_clip
from hypothesis import example, given
from hypothesis import strategies as st

from tfds_ma52 import annotated, ma52_dataset_builder
from tfds_ma52.errors import UserError
from tfds_ma52.untrimmed import Action

NAMES = ("nodding", "waving", "tiptoe")
WINDOWS = {"window": 1.0, "stride": 1.0, "min_overlap": 0.5}
CLIP_SECONDS = 2.0
AGGREGATED = "Observation id,Source,Subject,Behavior,Behavioral category,Behavior type,Start (s),Stop (s)\n"
TABULAR = "Observation id,Source,Subject,Behavior,Behavioral category,Modifier #1,Behavior type,Time\n"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The bytes of a video of two seconds."""
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    write_clip(path, num_frames=60)
    return path.read_bytes()


@pytest.fixture
def root(tmp_path, clip):
    """A folder with two videos of three classes, of which the second is annotated."""
    (tmp_path / "label_name.txt").write_text("".join(f"{i}\t{name}\n" for i, name in enumerate(NAMES)))
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").write_bytes(clip)
    write_eaf(tmp_path / "b.eaf", {"body": [(0, 500, "waving")]})
    return tmp_path


def new_eaf(tiers=None, media=()):
    """A file of ELAN in memory: spans in milliseconds and values of each tier."""
    eaf = pympi.Eaf()
    eaf.add_linguistic_type("symbolic", constraints="Symbolic_Association", timealignable=False)
    for name, spans in (tiers or {}).items():
        eaf.add_tier(name)
        for start, end, value in spans:
            eaf.add_annotation(name, start, end, value)
    for name, origin in media:
        eaf.add_linked_file(f"file:///C:/Users/x/{name}", mimetype="video/mp4", time_origin=origin)
    return eaf


def write_eaf(path, tiers=None, media=()):
    path.parent.mkdir(exist_ok=True)
    new_eaf(tiers, media).to_file(path)


def actions(root, name="a.mp4", **options):
    """The actions of a video, with the names of their classes."""
    labels, videos = annotated.read_videos(root, **options)
    (video,) = [each for each in videos if each.name == name]
    return [(labels.names[each.class_id], each.start, each.end) for each in video.actions]


def problems(root, **options):
    """What is wrong with a folder, a line each, without its path."""
    read = annotated.read_folder(root, **WINDOWS, **options)
    return [line.replace(f"{root}/", "") for line in read.problems]


def test_read_videos_reads_all_tiers_by_hand(root):
    write_eaf(
        root / "a.eaf", {"Kopf": [(100, 900, "Nodding"), (900, 1200, "nodding")], "Hand": [(500, 1900, "waving")]}
    )
    assert actions(root) == [("nodding", 0.1, 0.9), ("nodding", 0.9, 1.2), ("waving", 0.5, 1.9)]


def test_read_folder_makes_windows_with_their_labels(root):
    write_eaf(root / "a.eaf", {"Kopf": [(100, 900, "nodding")], "Hand": [(800, 1900, "waving")]})
    (root / "splits.csv").write_text("video,split,person\na,train,anna\nb.mp4,val,ben\n")
    folder = annotated.read_folder(root, **WINDOWS)
    assert folder.problems == ()
    assert [(clip.video_id, clip.split, clip.labels, clip.subject, clip.span) for clip in folder.clips] == [
        ("a.mp4@0.00-1.00", "train", (0,), "anna", (0.0, 1.0)),
        ("a.mp4@1.00-2.00", "train", (1,), "anna", (1.0, 2.0)),
        ("b.mp4@0.00-1.00", "val", (1,), "ben", (0.0, 1.0)),
        ("b.mp4@1.00-2.00", "val", (), "ben", (1.0, 2.0)),
    ]
    assert [clip.path for clip in folder.clips] == [root / "a.mp4"] * 2 + [root / "b.mp4"] * 2
    assert annotated.read_folder(root, **WINDOWS).fingerprint == folder.fingerprint
    assert annotated.read_folder(root, **{**WINDOWS, "window": 2.0}).fingerprint != folder.fingerprint
    write_eaf(root / "a.eaf", {"Kopf": [(100, 901, "nodding")]})
    assert annotated.read_folder(root, **WINDOWS).fingerprint != folder.fingerprint


def test_read_videos_reads_dependent_tiers(root):
    eaf = new_eaf({"speech": [(100, 900, "yes"), (1000, 1500, "no")]})
    eaf.add_tier("gesture", ling="symbolic", parent="speech")
    eaf.add_ref_annotation("gesture", "speech", 500, "nodding")
    eaf.add_tier("of gesture", ling="symbolic", parent="gesture")
    eaf.add_ref_annotation("of gesture", "gesture", 500, "waving")
    eaf.to_file(root / "a.eaf")
    (root / "classes.csv").write_text("tier,value,class\nspeech,*,\n")
    assert actions(root) == [("nodding", 0.1, 0.9), ("waving", 0.1, 0.9)]
    assert any("classes.csv leaves out 2 annotations" in line for line in warnings(root))


def warnings(root, **options):
    return list(annotated.read_folder(root, **WINDOWS, **options).warnings)


def test_read_folder_reports_every_annotation(root):
    eaf = new_eaf({"Größe": [(0, 100, ""), (200, 300, "noding"), (300, 400, "3"), (500, 2500, "waving")]})
    eaf.add_annotation("Größe", 600, 700, "waving")
    eaf.add_annotation("default", 600, 700, "waving")
    eaf.timeslots[eaf.generate_ts_id(900)] = None
    slot = eaf.generate_ts_id(100)
    eaf.tiers["default"][0]["a90"] = (slot, slot, "waving", None)
    eaf.tiers["default"][0]["a91"] = (slot, f"ts{eaf.maxts - 1}", "waving", None)
    eaf.add_tier("parts", ling="symbolic", parent="Größe")
    for _ in range(2):
        eaf.add_ref_annotation("parts", "Größe", 50, "waving")
    eaf.add_tier("lost", ling="symbolic", parent="Größe")
    eaf.tiers["lost"][1]["a99"] = ("a98", "waving", None, None)
    eaf.to_file(root / "a.eaf")
    found = problems(root)
    parts = "it is one of several parts of an annotation, which have no times of their own"
    assert found == [
        "a.eaf: tier 'default' at 0.100 s: it starts at 0.100 s, but ends at 0.100 s: give it a length",
        "a.eaf: tier 'default', annotation a91: its start or end has no time: drag it to its place in ELAN",
        f"a.eaf: tier 'parts', annotation a8: {parts}",
        f"a.eaf: tier 'parts', annotation a9: {parts}",
        "a.eaf: tier 'lost', annotation a99: the annotation that it depends on is not there",
        "a.eaf: tier 'Größe' at 0.000 s: the annotation is empty: name its class, or leave it out in classes.csv",
        "a.eaf: tier 'Größe' at 0.200 s: unknown class 'noding'; did you mean 'nodding'?; or name the class of this "
        "value in classes.csv",
        "a.eaf: tier 'Größe' at 0.300 s: '3' is a number, not a class: say in classes.csv which class it is",
        "a.eaf: tier 'Größe' at 0.500 s: it ends at 2.500 s, but a.mp4 at 2.000 s",
        "a.eaf: tier 'Größe' at 0.600 s: the same class with the same times is there twice",
    ]
    with pytest.raises(UserError, match=r"the annotations in .* cannot be read: 10 problems"):
        annotated.read_videos(root)


def test_read_folder_refuses_files_that_it_cannot_read(root):
    (root / "a.eaf").write_text("<ANNOTATION_DOCUMENT>")
    (line,) = problems(root)
    assert line.startswith("a.eaf: not readable as a file of ELAN (Exception(")
    eaf = new_eaf({"x": [(0, 5, "nodding")]})
    eaf.header["TIME_UNITS"] = "PAL-frames"
    eaf.to_file(root / "a.eaf")
    assert problems(root) == ["a.eaf: its times are in PAL-frames; only milliseconds can be read"]
    write_eaf(root / "a.eaf", {"x": [(0, 5, "nodding")], "y": [(0, 7, "nodding")]})
    text = (root / "a.eaf").read_text()
    (root / "a.eaf").write_text(text.replace('TIER_ID="y"', 'TIER_ID="x"'))
    assert problems(root) == ["a.eaf: tiers or annotations of one name would be lost: save it with ELAN again"]


def test_read_folder_finds_the_video(root, clip):
    write_eaf(root / "coded/first.eaf", {"x": [(0, 500, "nodding")]}, media=[("a.mp4", 250), ("a.wav", None)])
    assert actions(root) == [("nodding", 0.25, 0.75)]  # ELAN's clock is 0 where the video is at 0.25 s
    (root / "a.mp4").rename(root / "Tag 1.mp4")
    write_eaf(root / "coded/first.eaf", {"x": [(0, 500, "nodding")]}, media=[("Tag%201.mp4", 0)])
    assert actions(root, "Tag 1.mp4") == [("nodding", 0.0, 0.5)]
    (root / "videos").mkdir()
    (root / "Tag 1.mp4").rename(root / "videos/first.MP4")
    assert actions(root, "videos/first.MP4") == [("nodding", 0.0, 0.5)]
    (root / "videos").rename(root / "media")
    assert actions(root, "media/first.MP4", video_folder="media") == [("nodding", 0.0, 0.5)]
    (root / "media/first.MP4").rename(root / "media/first.m2ts")  # of any kind that prediction finds in folders
    assert actions(root, "media/first.m2ts", video_folder="media") == [("nodding", 0.0, 0.5)]
    folders = f"{root}/coded, {root}".replace(f"{root}/", "")
    assert problems(root)[0] == (
        f"coded/first.eaf: its video is not there; looked for 'Tag%201.mp4' or 'Tag 1.mp4' or 'first.mp4' in {folders}"
    )


def test_read_folder_lists_each_folder_once(root, clip, monkeypatch):
    """However many files there are: listing thousands for each of thousands takes minutes."""
    for i in range(20):
        (root / f"v{i}.mp4").write_bytes(clip)
        write_eaf(root / f"v{i}.eaf", {"x": [(0, 500, "nodding")]})
    counts, iterdir = collections.Counter(), pathlib.Path.iterdir
    monkeypatch.setattr(pathlib.Path, "iterdir", lambda path: [counts.update([path]), iterdir(path)][1])
    assert not annotated.read_folder(root, **WINDOWS).problems
    assert counts[root] < 5


def test_read_folder_refuses_videos_in_doubt(root, clip):
    write_eaf(root / "c.eaf", {}, media=[("a.mp4", 0), ("b.mp4", 0)])
    assert problems(root)[
        0
    ] == f"c.eaf: it may be of several videos ({root}/a.mp4, b.mp4): give it the name of its video".replace(
        f"{root}/", ""
    )
    write_eaf(root / "c.eaf", {}, media=[("b.mp4", 0)])
    assert problems(root)[0] == "c.eaf: b.mp4 is annotated in b.eaf too: keep one of them"
    write_eaf(root / "c.eaf", {}, media=[("a.mp4", 0)])
    (root / "a.mp4").write_bytes(b"no video")
    assert problems(root)[0].startswith("c.eaf: the file is damaged or not a video")
    outside = root.parent / f"{root.name}_videos"
    outside.mkdir()
    (outside / "c.mp4").write_bytes(clip)
    assert "lies outside" in problems(root, video_folder=f"../{outside.name}")[-1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,train", "splits.csv: it lacks b.mp4"),
        ("a,train\nb,dev", "splits.csv:3: the split is 'dev'; expected train, val, test"),
        ("a,train\nb,val\nc,val", "splits.csv:4: 'c' is no video with annotations"),
        ("a,train\nb,val\na.mp4,val", "splits.csv:4: a.mp4 is there twice"),
        ("a,train\nb,train", "splits.csv: no video is in split val"),
    ],
)
def test_read_folder_checks_the_splits(root, rows, message):
    write_eaf(root / "a.eaf", {"x": [(0, 500, "nodding")]})
    (root / "splits.csv").write_text(f"video,split\n{rows}\n")
    assert problems(root) == [message]


def test_read_folder_checks_the_splits_header(root):
    write_eaf(root / "a.eaf", {"x": [(0, 500, "nodding")]})
    (root / "other.csv").write_text("video\na\nb\n")
    assert problems(root, list_file="other.csv") == [
        "other.csv: the header has neither split nor person: add one of them"
    ]
    (root / "splits.csv").write_text("video,person\na,anna\nb,\n")
    assert problems(root)[0] == "splits.csv:3: the person is missing"
    (root / "splits.csv").write_text("video,split,person\na,train,anna\nb,val,anna\n")
    assert "person anna is in splits train and val" in warnings(root)
    with pytest.raises(UserError, match=r"no table of splits .*none.csv: name another with --list_file"):
        annotated.read_videos(root, list_file="none.csv")


def test_read_folder_draws_splits_by_person(tmp_path, clip):
    (tmp_path / "splits.csv").write_text("video,person\n" + "".join(f"v{i},p{i % 5}\n" for i in range(15)))
    for i in range(15):
        (tmp_path / f"v{i}.mp4").write_bytes(clip)
        write_eaf(tmp_path / f"v{i}.eaf", {"x": [(0, 500, "nodding")]})
    splits = {clip.video_id: (clip.subject, clip.split) for clip in annotated.read_folder(tmp_path, **WINDOWS).clips}
    persons = dict(splits.values())
    # A fifth of five: the one whose name has the first SHA-256.
    assert persons == {f"p{i}": "val" if i == 0 else "train" for i in range(5)}
    assert len(set(splits.values())) == 5  # nobody is in two


def test_read_folder_draws_splits_without_a_table(root, clip):
    assert problems(root) == ["there is one video only, of which none is left for val: add others, or write splits.csv"]
    write_eaf(root / "a.eaf", {"x": [(0, 500, "nodding")]})
    assert sorted(video.split for video in annotated.read_videos(root)[1]) == ["train", "val"]
    assert any("nothing says who is in which video" in line for line in warnings(root))
    for name in ("a", "b"):
        (root / f"{name}.mp4").rename(root / f"0007_01_000{name == 'b':d}.mp4")
        (root / f"{name}.eaf").rename(root / f"0007_01_000{name == 'b':d}.eaf")
    assert problems(root) == [
        "there is one person only, of which none is left for val: add others, or write splits.csv"
    ]


def test_read_classes_maps_values(root):
    write_eaf(
        root / "a.eaf",
        {"Kopf": [(0, 100, "NICKT "), (200, 300, "1"), (400, 500, "?")], "x": [(600, 700, "1"), (800, 900, "")]},
    )
    (root / "classes.csv").write_text("value;class;tier\nnickt;nodding;\n1;waving;Kopf\n1;tiptoe;\n?;;\n*;;X\n")
    assert actions(root) == [("nodding", 0.0, 0.1), ("waving", 0.2, 0.3), ("tiptoe", 0.6, 0.7)]
    assert f"{root}/classes.csv leaves out 2 annotations" in warnings(root)
    write_eaf(root / "a.eaf", {"x": [(0, 100, ""), (200, 300, "nodding"), (400, 500, "a"), (600, 700, "b")]})
    (root / "classes.csv").write_text("value,class,tier\n,,*\na,,y\nb,waving,*\nb,tiptoe,x\n*,waving,\n")
    assert actions(root) == [("waving", 0.2, 0.3), ("waving", 0.4, 0.5), ("tiptoe", 0.6, 0.7)]
    (root / "classes.csv").write_text("value,class\nnickt,nod\nx,nodding\nX,nodding\n*,\n")
    assert problems(root)[:2] == [
        "classes.csv:2: unknown class 'nod'; did you mean 'nodding'?",
        "classes.csv:4: the value 'X' is there twice",
    ]


def test_read_folder_warns_of_what_is_not_in_the_set(root, clip):
    write_eaf(root / "a.eaf", {})
    (root / "c.mp4").write_bytes(clip)
    (root / "notes.csv").write_text("when,what\n1,2\n")
    assert [line.replace(f"{root}/", "") for line in warnings(root)][:3] == [
        "notes.csv is no table of events of BORIS: it is not read",
        "1 video (c.mp4) without an annotation file: not in the set",
        "1 video (a.mp4) without any action: all windows count as without actions",
    ]


def test_read_folder_refuses_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*x: name that of the annotated videos with --manual_dir"):
        annotated.read_folder(tmp_path / "x", **WINDOWS)
    with pytest.raises(UserError, match=r"has no annotations: it must hold files of ELAN \(.eaf\)"):
        annotated.read_folder(tmp_path, **WINDOWS)
    with pytest.raises(UserError, match=r"window is 0.0"):
        annotated.read_folder(tmp_path, **{**WINDOWS, "window": 0.0})


def test_read_videos_reads_aggregated_events_of_boris(root):
    (root / "b.eaf").unlink()
    source = r"player #1:C:\Users\x\{}.mp4|player #2:|player #3:"
    rows = [
        ("o1", source.format("a"), "", "Nodding", "head", "STATE", "0.100", "0.900"),
        ("o1", source.format("a"), "", "waving", "hand", "STATE", "0.500", "1.900"),
        ("o2", source.format("b"), "", "tiptoe", "leg", "STATE", "0", "1.5"),
    ]
    (root / "events.csv").write_text(AGGREGATED + "".join(",".join(row) + "\n" for row in rows))
    assert actions(root) == [("nodding", 0.1, 0.9), ("waving", 0.5, 1.9)]
    assert actions(root, "b.mp4") == [("tiptoe", 0.0, 1.5)]


def test_read_videos_reads_tabular_events_of_boris(root):
    rows = [
        ("o", "player #1:a.mp4", "anna", "touching", "x", "nose", "START", "0.1"),
        ("o", "player #1:a.mp4", "ben", "touching", "x", "nose", "START", "0.2"),
        ("o", "player #1:a.mp4", "anna", "waving", "", "left", "START", "0.3"),
        ("o", "player #1:a.mp4", "anna", "touching", "x", "nose", "STOP", "0.4"),
        ("o", "player #1:a.mp4", "anna", "waving", "", "left", "STOP", "0.5"),
        ("o", "player #1:a.mp4", "ben", "touching", "x", "nose", "STOP", "0.6"),
    ]
    text = TABULAR + "".join(",".join(row) + "\n" for row in rows)
    (root / "a.tsv").write_text(text.replace(",", "\t"))
    (root / "classes.csv").write_text("value,class\ntouching|nose,tiptoe\n")
    assert sorted(actions(root)) == [("tiptoe", 0.1, 0.4), ("tiptoe", 0.2, 0.6), ("waving", 0.3, 0.5)]


# Exported by BORIS 8.27.4 from a project with a video of 5 s, by its own functions.
EXPORTED_TABULAR = """\
Observation id,Observation date,Description,Observation duration,Observation type,Source,Time offset (s),\
Media duration (s),FPS,Subject,Behavior,Behavioral category,Behavior type,Time,Media file name,Image index,\
Image file path,Comment
a é,2026-11-28 08:37:03,x,5,Media file(s),player #1:/tmp/x/a é.mp4,0.0,5.000,30.000,,nodding,head,START,0.500,\
/tmp/x/a é.mp4,NA,NA,confidence 0.900
a é,2026-11-28 08:37:03,x,5,Media file(s),player #1:/tmp/x/a é.mp4,0.0,5.000,30.000,,waving,upper limb,START,1.000,\
/tmp/x/a é.mp4,NA,NA,confidence 0.400
a é,2026-11-28 08:37:03,x,5,Media file(s),player #1:/tmp/x/a é.mp4,0.0,5.000,30.000,,nodding,head,STOP,1.250,\
/tmp/x/a é.mp4,NA,NA,
a é,2026-11-28 08:37:03,x,5,Media file(s),player #1:/tmp/x/a é.mp4,0.0,5.000,30.000,,waving,upper limb,STOP,2.000,\
/tmp/x/a é.mp4,NA,NA,
"""
EXPORTED_AGGREGATED = """\
Observation id,Observation date,Description,Observation type,Source,Time offset (s),Coding duration,Media duration (s),\
FPS (frame/s),Subject,Observation duration by subject by observation,Behavior,Behavioral category,Behavior type,\
Start (s),Stop (s),Duration (s),Media file name,Image index start,Image index stop,Image file path start,\
Image file path stop,Comment start,Comment stop
a é,2026-11-28 08:37:03,x,Media file,player #1:/tmp/x/a é.mp4,0.0,5.000,5.000,30.000,No focal subject,1.75,nodding,\
head,STATE,0.500,1.250,0.750,/tmp/x/a é.mp4,NA,NA,,,confidence 0.900,
a é,2026-11-28 08:37:03,x,Media file,player #1:/tmp/x/a é.mp4,0.0,5.000,5.000,30.000,No focal subject,1.75,waving,\
upper limb,STATE,1.000,2.000,1.000,/tmp/x/a é.mp4,NA,NA,,,confidence 0.400,
"""


@pytest.mark.parametrize("text", [EXPORTED_TABULAR, EXPORTED_AGGREGATED], ids=["tabular", "aggregated"])
def test_read_videos_reads_what_boris_exports(root, text):
    (root / "a.mp4").rename(root / "a é.mp4")
    (root / "events.csv").write_bytes(text.replace("\n", "\r\n").encode())
    assert actions(root, "a é.mp4") == [("nodding", 0.5, 1.25), ("waving", 1.0, 2.0)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("o,a.mp4,,nodding,,POINT,1,1", "a.csv:2: a point event has no length: code the behavior as a state event"),
        ("o,a.mp4,,nodding,,STATE,1,NA", "a.csv:2: stop is 'NA'; expected seconds"),
        ("o,a.mp4,,nodding,,STATE,-1,1", "a.csv:2: start is '-1'; expected seconds from 0 on"),
        ("o,a.mp4,,nodding,,STATE,1,0.5", "a.csv:2: it starts at 1.000 s, but ends at 0.500 s: give it a length"),
        (
            "o,player #1:a.mp4;b.mp4,,nodding,,STATE,0,1",
            "a.csv: observation 'o': it has several videos one after the other: code each video in an observation of "
            "its own",
        ),
        (
            "o,a.mp4,,nodding,,STATE,0,1\no,b.mp4,,nodding,,STATE,0,1",
            "a.csv: observation 'o': its rows name no media file, or several: export it with the media file (column "
            "'Source')",
        ),
    ],
)
def test_read_folder_reports_events_of_boris(root, row, message):
    (root / "a.csv").write_text(AGGREGATED + row + "\n")
    assert message in problems(root)


def test_read_folder_reports_unpaired_events_of_boris(root):
    rows = ["nodding,,,STOP,0.5", "nodding,,,START,1", "nodding,,,START,1.5", "waving,,,PAUSE,1"]
    text = TABULAR + "".join(f"o,a.mp4,,{row}\n" for row in rows)
    (root / "a.csv").write_text(text)
    assert problems(root)[:4] == [
        "a.csv:2: the behavior type is 'STOP'; expected START, and STOP after each",
        "a.csv:4: the behavior type is 'START'; expected START, and STOP after each",
        "a.csv:5: the behavior type is 'PAUSE'; expected START, and STOP after each",
        "a.csv:3: the behavior starts, but does not stop",
    ]
    header = AGGREGATED.replace("Subject", "Time offset (s)")
    (root / "a.csv").write_text(header + "o,a.mp4,2.5,nodding,,STATE,0,1\n")
    assert "lacks subject" in problems(root)[0]
    (root / "a.csv").write_text(header.replace("Source", "Subject,Source") + "o,,a.mp4,2.5,nodding,,STATE,0,1\n")
    assert problems(root)[0] == (
        "a.csv: observation 'o': it has a time offset: set that to 0 in BORIS and export again"
    )


# What ELAN lets people write: any text but control characters.
VALUES = st.one_of(
    st.sampled_from(["nodding", " Waving", "tiptoe", "", "?", "1", "*", "名前", "a|b"]),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=8).filter(
        lambda text: not set(text) & {"\ufffe", "\uffff"}
    ),
)
TIERS = st.dictionaries(
    VALUES.filter(bool),
    st.lists(st.tuples(st.integers(0, 2500), st.integers(1, 2500), VALUES), max_size=4),
    max_size=3,
)


@given(TIERS)
@example({"x": [(0, 5, "*"), (0, 5, "*")]})
def test_read_folder_reads_or_reports_every_annotation(clip, tmp_path_factory, tiers):
    root = tmp_path_factory.mktemp("any")
    for name in ("a", "b"):
        (root / f"{name}.mp4").write_bytes(clip)
        write_eaf(root / f"{name}.eaf", {"x": [(0, 500, "waving")]})
    (root / "label_name.txt").write_text("".join(f"{i}\t{name}\n" for i, name in enumerate(NAMES)))
    eaf = new_eaf(
        {tier: [(start, start + length, value) for start, length, value in rows] for tier, rows in tiers.items()}
    )
    (root / "a.eaf").unlink()
    eaf.to_file(root / "a.eaf")
    read = annotated.read_folder(root, **WINDOWS)
    _, videos = (None, None) if read.problems else annotated.read_videos(root)
    total = sum(map(len, tiers.values()))
    assert all(len(line.splitlines()) == 1 and line.startswith(f"{root}/a.eaf: tier ") for line in read.problems)
    expected, num_wrong = [], 0
    for rows in tiers.values():
        for start, length, value in rows:
            name = " ".join(value.lower().split())
            name = name if name in NAMES else name.split("|")[0].strip()
            action = (name, start, start + length)
            if name in NAMES and start + length <= 2100 and action not in expected:
                expected.append(action)
            else:
                num_wrong += 1
    assert len(read.problems) == num_wrong
    assert total == num_wrong + len(expected)
    if videos:
        (video,) = [each for each in videos if each.name == "a.mp4"]
        assert video.actions == [Action(NAMES.index(name), start / 1000, end / 1000) for name, start, end in expected]


@given(st.binary(max_size=200), st.sampled_from(["a.eaf", "a.csv", "classes.csv", "splits.csv"]))
def test_read_folder_survives_any_bytes(tmp_path_factory, content, name):
    root = tmp_path_factory.mktemp("bytes")
    write_eaf(root / "b.eaf", {"x": [(0, 5, "nodding")]})
    (root / name).write_bytes(content)
    found, _ = outcome(lambda: annotated.read_folder(root, **WINDOWS))
    assert found is None or all(len(problem.splitlines()) == 1 for problem in found.problems)


@pytest.mark.parametrize("form", ["h264", "jpeg"])
def test_build_from_annotated_videos(root, form):
    write_eaf(root / "a.eaf", {"x": [(0, 800, "nodding")], "y": [(1200, 1900, "waving")]})
    (root / "splits.csv").write_text("video,split\na,train\nb,val\n")
    options = {"config": f"annotated_{form}_256", "num_processes": 1, "window": 1.0}
    builder = ma52_dataset_builder.build(root, **options)
    examples = {example["video_id"].decode(): example for example in builder.as_data_source("train")}
    assert {name: example["labels"].nonzero()[0].tolist() for name, example in examples.items()} == {
        "a.mp4@0.00-1.00": [0],
        "a.mp4@1.00-2.00": [1],
    }
    assert all(int(example["num_frames"]) == 30 for example in examples.values())
    assert np.sum([example["labels"].sum() for example in builder.as_data_source("val")]) == 1
    (root / "b.mp4").unlink()  # a built set needs it no more
    assert len(ma52_dataset_builder.build(root, **options).as_data_source("val")) == 2
    write_eaf(root / "a.eaf", {"x": [(0, 700, "nodding")]})
    with pytest.raises(UserError, match="was built from other lists"):
        ma52_dataset_builder.build(root, **options)


def test_command_builds_annotated_videos(root, run_command):
    write_eaf(root / "a.eaf", {"x": [(0, 800, "nodding")]})
    command = [sys.executable, "-m", "tfds_ma52", "--config", "annotated_h264_256", "--manual_dir", str(root)]
    done = run_command(command)
    assert done.returncode == 0, done.stderr
    assert "labels a clip" in done.stdout
    assert "nothing says who is in which video" in done.stderr
    write_eaf(root / "a.eaf", {"x": [(0, 800, "noding"), (900, 1000, "")]})
    done = run_command([*command, "--overwrite"])
    assert done.returncode == 2
    assert f"{root}/a.eaf: tier 'x' at 0.000 s: unknown class 'noding'; did you mean 'nodding'?" in done.stderr
    assert f"{root}/a.eaf: tier 'x' at 0.900 s: the annotation is empty" in done.stderr
    assert "Traceback" not in done.stderr
