import csv
import itertools
import json
import pathlib

import av
import pympi
import pytest
from helpers import write_clip
from hypothesis import given
from hypothesis import strategies as st

from manet_jax import annotation_files
from manet_jax.detection.segments import Segment
from tfds_ma52 import boris, elan
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52, LabelSet

LABELS = LabelSet(("nodding", "shaking head", "tiptoe"), ("head", "leg"), (0, 0, 1))
VIDEO = pathlib.Path("/data/Gespräche/Tag 1.mp4")
SEGMENTS = [
    Segment(1.0, 2.5, 0, 0.875),
    Segment(2.0, 3.0, 1, 0.5),  # overlaps the nod, in the same group
    Segment(2.5, 4.0, 0, 0.25),  # begins where it ends
    Segment(0.0004, 0.0006, 2, 1.0),  # shorter than a millisecond
]


@st.composite
def _segments(draw):
    found = []
    for _ in range(draw(st.integers(0, 12))):
        start = draw(st.floats(0, 99))
        end = start + draw(st.floats(0.002, 1))
        found.append(Segment(start, end, draw(st.integers(0, 2)), draw(st.floats(0, 1))))
    return found


def rounded(segments):
    """What a file keeps of segments, computed another way: times as decimal text, to the millisecond."""
    rows = []
    for each in segments:
        start, end = (float(f"{time:.3f}") for time in (each.start, each.end))
        rows.append((start, max(end, round(start + 0.001, 3)), LABELS.names[each.class_id], f"{each.score:.3f}"))
    return sorted(rows)


def read_eaf(path):
    """Times, value and confidence of all annotations, by pympi's own functions, and their tiers."""
    eaf = pympi.Eaf(path)
    found, tiers = [], {}
    for tier in eaf.get_tier_names():
        if eaf.get_parameters_for_tier(tier).get("PARENT_REF"):
            continue
        (below,) = eaf.get_child_tiers_for(tier)
        scores = {parent: value for parent, value, _, _ in eaf.tiers[below][1].values()}
        data = eaf.get_annotation_data_for_tier(tier)
        tiers[tier] = [(start, end) for start, end, _ in data]
        for key, (start, end, value) in zip(eaf.tiers[tier][0], data, strict=True):
            found.append((start / 1000, end / 1000, value, scores[key]))
    return eaf, sorted(found), tiers


def test_write_eaf_by_hand(tmp_path):
    annotation_files.write_eaf(tmp_path / "a.eaf", VIDEO, 5.0, SEGMENTS, LABELS)
    eaf, found, tiers = read_eaf(tmp_path / "a.eaf")
    assert found == [
        (0.0, 0.001, "tiptoe", "1.000"),
        (1.0, 2.5, "nodding", "0.875"),
        (2.0, 3.0, "shaking head", "0.500"),
        (2.5, 4.0, "nodding", "0.250"),
    ]
    assert tiers == {"head": [(1000, 2500), (2500, 4000)], "head (2)": [(2000, 3000)], "leg": [(0, 1)]}
    assert eaf.get_ref_annotation_data_for_tier("head: confidence") == [
        (1000, 2500, "0.875", "nodding"),
        (2500, 4000, "0.250", "nodding"),
    ]
    assert list(eaf.get_linguistic_type_names()) == [elan.CONFIDENCE_TYPE, "head", "leg"]
    assert [entry[0][0] for entry, _ in eaf.get_cv_entries("head").values()] == ["nodding", "shaking head"]
    times = list(eaf.timeslots.values())
    assert times == sorted(times)
    assert ("lastUsedAnnotationId", str(eaf.maxaid)) in eaf.properties


def test_write_eaf_marks_what_is_to_review(tmp_path):
    annotation_files.write_eaf(tmp_path / "a.eaf", VIDEO, 5.0, SEGMENTS, LABELS, to_review=SEGMENTS[:1])
    _, found, _ = read_eaf(tmp_path / "a.eaf")
    marked = [each[:3] for each in found if each[3].endswith(" to review")]
    assert marked == [(SEGMENTS[0].start, SEGMENTS[0].end, LABELS.names[SEGMENTS[0].class_id])]
    assert len(found) == len(SEGMENTS)


def test_write_eaf_links_the_video(tmp_path):
    video = tmp_path / "Gespräche" / "Tag 1.mp4"
    (tmp_path / "eaf").mkdir()
    annotation_files.write_eaf(tmp_path / "eaf/a.eaf", video, 5.0, [], LABELS)
    annotation_files.write_eaf(tmp_path / "a.eaf", video.with_suffix(".xyz"), 5.0, [], LABELS)
    (link,) = pympi.Eaf(tmp_path / "eaf/a.eaf").get_linked_files()
    assert link["MEDIA_URL"] == f"file://{tmp_path}/Gespräche/Tag 1.mp4"
    assert link["RELATIVE_MEDIA_URL"] == "../Gespräche/Tag 1.mp4"
    assert link["MIME_TYPE"] == "video/mp4"
    (link,) = pympi.Eaf(tmp_path / "a.eaf").get_linked_files()
    assert (link["RELATIVE_MEDIA_URL"], link["MIME_TYPE"]) == ("./Gespräche/Tag 1.xyz", "video/*")


def test_write_eaf_keeps_tier_names_apart(tmp_path):
    labels = LabelSet(("a", "b", "c"), ("x", "x (2)", "x: confidence"), (0, 1, 2))
    segments = [Segment(0.0, 1.0, i, 0.5) for i in (0, 0, 0, 1, 2)]
    annotation_files.write_eaf(tmp_path / "a.eaf", VIDEO, 5.0, segments, labels)
    eaf = pympi.Eaf(tmp_path / "a.eaf")
    assert [tier for tier in eaf.get_tier_names() if not eaf.get_parameters_for_tier(tier).get("PARENT_REF")] == [
        *("x", "x (3)", "x (4)", "x (2)", "x: confidence")
    ]
    assert sum(len(aligned) for aligned, _, _, _ in eaf.tiers.values()) == 5


def test_write_eaf_refuses_what_xml_cannot_hold(tmp_path):
    labels = LabelSet(("nod\x01",), ("head",), (0,))
    with pytest.raises(UserError, match=r"'nod\\x01' has a character that ELAN's files cannot hold: rename it"):
        annotation_files.write_eaf(tmp_path / "a.eaf", VIDEO, 5.0, [], labels)
    assert not list(tmp_path.iterdir())


WRITERS = [
    annotation_files.write_eaf,
    annotation_files.write_boris_events,
    annotation_files.write_boris_project,
    annotation_files.write_webvtt,
]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("wrong", [Segment(*times, 0, 1.0) for times in ((-1.0, 1.0), (4.0, 5.2), (1.0, 1.0))])
def test_writers_refuse_segments_outside_the_video(tmp_path, write, wrong):
    with pytest.raises(ValueError, match=r"does not lie in a video of 5.0 s"):
        write(tmp_path / "file", VIDEO, 5.0, [wrong], LABELS)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_writers_take_no_segments_and_all_classes(tmp_path, write):
    write_clip(tmp_path / "a.mp4")
    for segments in ([], [Segment(float(i), i + 2.0, i, 0.5) for i in range(52)]):
        write(tmp_path / "file", tmp_path / "a.mp4", 60.0, segments, MA52)
        assert (tmp_path / "file").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "file"]


@given(_segments())
def test_write_eaf_keeps_all_segments(tmp_path_factory, segments):
    path = tmp_path_factory.mktemp("eaf") / "a.eaf"
    annotation_files.write_eaf(path, VIDEO, 100.0, segments, LABELS)
    _, found, tiers = read_eaf(path)
    assert found == rounded(segments)
    for spans in tiers.values():
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


@given(_segments())
def test_written_files_are_read_back(tmp_path_factory, segments):
    """By the readers of annotated data sets."""
    root = tmp_path_factory.mktemp("read")
    annotation_files.write_eaf(root / "a.eaf", VIDEO, 100.0, segments, LABELS)
    annotation_files.write_boris_events(root / "a.csv", VIDEO, 100.0, segments, LABELS)
    expected = [row[:3] for row in rounded(segments)]
    problems = []
    observations = [elan.read_eaf(root / "a.eaf", problems)]
    if segments:
        assert boris.is_table(root / "a.csv")
        observations += boris.read_table(root / "a.csv", problems)
    assert problems == []
    for each in observations:
        assert sorted((a.start, a.end, a.value) for a in each.annotations) == expected
        assert [media.name for media in each.media] == ["Tag 1.mp4"]


def test_write_boris_events_by_hand(tmp_path):
    annotation_files.write_boris_events(tmp_path / "a.csv", VIDEO, 5.0, SEGMENTS, LABELS)
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert tuple(rows[0]) == annotation_files.BORIS_COLUMNS
    columns = ("Behavior", "Behavioral category", "Start (s)", "Stop (s)", "Duration (s)", "Comment start")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("tiptoe", "leg", "0.000", "0.001", "0.001", "confidence 1.000"),
        ("nodding", "head", "1.000", "2.500", "1.500", "confidence 0.875"),
        ("shaking head", "head", "2.000", "3.000", "1.000", "confidence 0.500"),
        ("nodding", "head", "2.500", "4.000", "1.500", "confidence 0.250"),
    ]
    assert {row["Image index start"] + row["Image index stop"] for row in rows} == {"NANA"}
    assert {row["Source"] for row in rows} == {f"player #1:{VIDEO}"}
    assert {row["Observation duration by subject by observation"] for row in rows} == {"4.001"}
    assert {(row["Observation id"], row["Behavior type"], row["Media duration (s)"]) for row in rows} == {
        ("Tag 1", "STATE", "5.000")
    }


def test_write_boris_project_by_hand(tmp_path):
    video = tmp_path / "é.mp4"
    write_clip(video)  # 30 frames a second
    touching = [*SEGMENTS, Segment(1.5, 1.75, 0, 0.9)]
    annotation_files.write_boris_project(tmp_path / "a.boris", video, 5.0, touching, LABELS)
    project = json.loads((tmp_path / "a.boris").read_text())
    (observation,) = project["observations"].values()
    assert observation["events"] == [
        [0.0, "", "tiptoe", "", "confidence 1.000", "NA"],
        [0.001, "", "tiptoe", "", "", "NA"],
        [1.0, "", "nodding", "", "confidence 0.900", "NA"],
        [2.0, "", "shaking head", "", "confidence 0.500", "NA"],
        [3.0, "", "shaking head", "", "", "NA"],
        [4.0, "", "nodding", "", "", "NA"],
    ]
    assert observation["file"]["1"] == [str(video)]
    assert observation["media_info"]["fps"] == {str(video): 30.0}
    assert [(each["code"], each["category"]) for each in project["behaviors_conf"].values()] == [
        ("nodding", "head"),
        ("shaking head", "head"),
        ("tiptoe", "leg"),
    ]


@given(_segments())
def test_write_boris_project_starts_and_stops_in_turn(tmp_path_factory, segments):
    root = tmp_path_factory.mktemp("boris")
    video = root / "a.mp4"
    write_clip(video, num_frames=2)
    annotation_files.write_boris_project(root / "a.boris", video, 100.0, segments, LABELS)
    (observation,) = json.loads((root / "a.boris").read_text())["observations"].values()
    covered = {name: set() for name in LABELS.names}
    for name in LABELS.names:
        times = [round(1000 * event[0]) for event in observation["events"] if event[2] == name]
        assert all(left < right for left, right in itertools.pairwise(times))
        for start, end in zip(times[::2], times[1::2], strict=True):
            covered[name] |= set(range(start, end))
    expected = {name: set() for name in LABELS.names}
    for start, end, name, _ in rounded(segments):
        expected[name] |= set(range(round(1000 * start), round(1000 * end)))
    assert covered == expected


def test_write_webvtt_by_hand(tmp_path):
    labels = LabelSet(("nod <b> & --> more",), ("head",), (0,))
    annotation_files.write_webvtt(tmp_path / "a.vtt", VIDEO, 4000.0, [Segment(3661.0016, 3662.0, 0, 0.875)], labels)
    assert (tmp_path / "a.vtt").read_text() == (
        "WEBVTT\n\n1\n01:01:01.002 --> 01:01:02.000\nnod &lt;b&gt; &amp; --&gt; more 0.88\n"
    )


@given(_segments())
def test_write_webvtt_is_read_by_ffmpeg(tmp_path_factory, segments):
    path = tmp_path_factory.mktemp("vtt") / "a.vtt"
    annotation_files.write_webvtt(path, VIDEO, 100.0, segments, LABELS)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux() if packet.size]
    found = [(packet.pts, packet.pts + packet.duration, bytes(packet).decode()) for packet in packets]
    # FFmpeg leaves out cues that are equal to another.
    expected = {(round(1000 * start), round(1000 * end), name) for start, end, name, _ in rounded(segments)}
    assert {(start, end, text.rsplit(" ", 1)[0]) for start, end, text in found} == expected
    assert [start for start, _, _ in found] == sorted(start for start, _, _ in found)
