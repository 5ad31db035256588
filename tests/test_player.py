import base64
import dataclasses
import html.parser
import json
import pathlib
import re
import urllib.parse

import numpy as np
import pytest
from helpers import outcome
from hypothesis import given
from hypothesis import strategies as st

from manet_jax.detection.segments import Segment, distinct
from manet_jax.report import figures
from manet_jax.report.player import index, video_page
from manet_jax.report.player.video_page import VideoPage
from tfds_ma52.labels import LabelSet

LABELS = LabelSet(("nodding", "waving", "tiptoe"), ("head", "limbs"), (0, 1, 1))
# Without its ">", "</script " ends a script too; "<!--<script " would hide the end of it.
EVIL = "</script ></script><!--<script ><img src=x onerror=alert(1)>&amp;\u2028\"'$title"


def make_page(video=pathlib.Path("clip.mp4"), **changes):
    fields = {
        "video": video,
        "duration": 4.0,
        "frame_rate": 25.0,
        "labels": LABELS,
        "times": np.array([0.5, 1.5, 3.0]),
        "probabilities": np.array([[0.0, 0.5, 1.0], [0.2, 0.3, 0.4], [0.001, 0.999, 0.25]]),
        "segments": (Segment(1.0, 2.0, 1, 0.5), Segment(0.5, 3.5, 2, 0.9), Segment(2.0, 2.5, 1, 0.2)),
    }
    return VideoPage(**fields | changes)


class Parser(html.parser.HTMLParser):
    """The elements of a page, and the texts of some."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], {}, ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open = dict(attrs).get("id") or tag

    def handle_endtag(self, tag):
        self.open = ""

    def handle_data(self, data):
        self.texts[self.open] = self.texts.get(self.open, "") + data


def written(data, folder, **options):
    """The page that was written, and the data in it."""
    path = folder / "page.html"
    video_page.write_page(data, path, **options)
    page = Parser(path.read_text("utf-8"))
    return page, json.loads(page.texts["data"])


def decoded(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


def test_write_page_keeps_all_data(tmp_path):
    page, value = written(make_page(title="Interview"), tmp_path)
    assert page.texts["title"] == page.texts["h1"] == value["title"] == "Interview"
    assert (value["duration"], value["frameRate"], value["threshold"], value["moments"]) == (4, 25, 0.25, 3)
    assert (value["names"], value["groupNames"]) == (list(LABELS.names), list(LABELS.group_names))
    assert value["groups"] == [0, 1, 1]
    assert value["colors"] == list(figures.COLORS[:2])
    assert decoded(value["edges"], "<f4").tolist() == [0, 1, 2.25, 4]
    by_class = [[0, 51, 0], [128, 76, 255], [255, 102, 64]]  # 255 p, rounded; of 127.5 and 63.75 the even or nearer one
    assert decoded(value["probabilities"], np.uint8).reshape(3, 3).tolist() == by_class
    expected = [[0.5, 3.5, 2, 0.9], [1.0, 2.0, 1, 0.5], [2.0, 2.5, 1, 0.2]]
    assert sorted(value["segments"]) == expected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_to_bytes_is_within_half_a_level(values):
    array = np.array(values)[:, None]
    assert np.abs(video_page.to_bytes(array) / 255 - array).max() <= 0.5 / 255 + 1e-12


def test_write_page_escapes_names(tmp_path):
    labels = LabelSet((EVIL, "b", "c"), ("head", EVIL), (0, 1, 1))
    page, value = written(make_page(tmp_path / "a<b>&'\".mp4", labels=labels, title=EVIL), tmp_path, index=EVIL)
    assert value["names"][0] == value["groupNames"][1] == value["title"] == EVIL
    assert page.texts["title"] == page.texts["h1"] == EVIL
    assert not set("<>&") & set(page.texts["data"])
    plain, _ = written(make_page(), tmp_path, index="index.html")
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert ("a", {"href": EVIL}) in page.elements


def test_write_page_heading_is_the_file_name(tmp_path):
    data = make_page(tmp_path / "a<b>&.mp4")
    page, value = written(data, tmp_path)
    assert page.texts["h1"] == value["video"]["name"] == "a<b>&.mp4"
    assert make_page(pathlib.Path("bad\udcff.mp4")).heading == "bad\\xff.mp4"


@pytest.mark.parametrize(
    ("video", "address"),
    [
        ("pages/clip.mp4", "clip.mp4"),
        ("clip.mp4", "../clip.mp4"),
        ("videos/day 1/50%#ä?.mp4", "../videos/day%201/50%25%23%C3%A4%3F.mp4"),
        ("pages/a:b.mp4", "a%3Ab.mp4"),
        ("bad\udcff.mp4", "../bad%FF.mp4"),
    ],
)
def test_write_page_links_relatively(video, address, tmp_path):
    _, value = written(make_page(tmp_path / video), tmp_path / "pages")
    assert value["video"]["address"] == address
    path = urllib.parse.unquote_to_bytes(address).decode(errors="surrogateescape")
    assert (tmp_path / "pages" / path).resolve() == tmp_path / video


def test_write_page_links_from_the_real_folder(tmp_path):
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "pages").symlink_to(tmp_path / "far" / "away")
    _, value = written(make_page(tmp_path / "clip.mp4"), tmp_path / "pages")
    assert value["video"]["address"] == "../../clip.mp4"


def test_write_page_embeds_up_to_a_size(tmp_path):
    video = tmp_path / "clip.webm"
    video.write_bytes(bytes(range(100)))
    _, linked = written(make_page(video), tmp_path, embed_bytes=99)
    assert linked["video"]["address"] == "clip.webm"
    _, embedded = written(make_page(video), tmp_path, embed_bytes=100)
    kind, content = embedded["video"]["address"].split(",")
    assert (kind, base64.b64decode(content)) == ("data:video/webm;base64", bytes(range(100)))
    _, folder = written(make_page(tmp_path), tmp_path / "pages", embed_bytes=10**9)  # of images
    assert folder["video"]["address"] == ".."


def test_write_page_is_self_contained(tmp_path):
    page, _ = written(make_page(), tmp_path)
    assert not [attrs for tag, attrs in page.elements if tag == "script" and "src" in attrs]
    assert [attrs["href"] for tag, attrs in page.elements if tag == "link"] == ["data:,"]
    assert not re.search(r"https?:|@import|url\(", (tmp_path / "page.html").read_text())


def test_write_page_errors(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    _, error = outcome(lambda: video_page.write_page(make_page(), tmp_path / "file" / "page.html"))
    assert error == f"{tmp_path}/file/page.html cannot be written (File exists); give another folder"
    (tmp_path / "clip.mp4").write_bytes(b"video")

    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "read_bytes", refuse)
    data = make_page(tmp_path / "clip.mp4")
    _, error = outcome(lambda: video_page.write_page(data, tmp_path / "page.html", embed_bytes=9))
    assert error == f"{tmp_path}/clip.mp4 cannot be read (Permission denied)"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"duration": 0.0}, "duration is 0.0; it must be a number above 0"),
        ({"frame_rate": float("nan")}, "frame_rate is nan; it must be a number above 0"),
        ({"threshold": 1.5}, "threshold is 1.5; give 0 to 1"),
        ({"times": np.array([0.5, 0.5, 1.0])}, "times must be at least one moment, each later than the one before"),
        ({"times": np.zeros(0)}, "times must be at least one moment, each later than the one before"),
        ({"times": np.array([0.5, 1, 5])}, "times run from 0.5 to 5 s; they must lie within the 4 s"),
        (
            {"probabilities": np.zeros((2, 3))},
            "probabilities have the shape (2, 3); 3 moments of 3 classes need (3, 3)",
        ),
        ({"probabilities": np.full((3, 3), np.nan)}, "probabilities must lie from 0 to 1"),
        ({"probabilities": np.full((3, 3), 1.01)}, "probabilities must lie from 0 to 1"),
        (
            {"segments": (Segment(2.0, 1.0, 0, 0.5),)},
            "a segment lasts from 2.0 to 1.0; it must end after its start, from 0 on",
        ),
        ({"segments": (Segment(0.0, 1.0, 3, 0.5),)}, "a segment has class 3; give 0 to 2"),
        ({"segments": (Segment(0.0, 1.0, 0, 2.0),)}, "a segment has the score 2.0; give 0 to 1"),
    ],
)
def test_video_page_errors(changes, error, unchecked):
    assert outcome(lambda: make_page(**changes))[1] == error


def test_distinct_keeps_the_more_certain_one():
    wide, close, second = Segment(1.0, 9.0, 0, 0.3), Segment(2.0, 4.0, 0, 0.8), Segment(4.0, 6.0, 0, 0.5)
    other = Segment(2.0, 4.0, 1, 0.1)
    assert distinct([wide, other, second, close]) == [close, second, other]


@given(
    st.lists(
        st.builds(
            lambda start, length, class_id, score: Segment(start / 2, (start + length) / 2, class_id, score / 4),
            *(st.integers(0, 10), st.integers(1, 6), st.integers(0, 1), st.integers(0, 4)),
        )
    ),
    st.randoms(),
)
def test_distinct_segments_do_not_overlap(segments, random):
    kept = distinct(segments)
    shuffled = random.sample(segments, len(segments))
    assert distinct(shuffled) == kept

    def overlap(a, b):
        return a.class_id == b.class_id and max(a.start, b.start) < min(a.end, b.end)

    assert not any(overlap(a, b) for i, a in enumerate(kept) for b in kept[:i])
    assert all(any(overlap(each, k) and k.score >= each.score for k in kept) for each in segments)


def test_shown_is_ordered_and_above_the_threshold():
    data = make_page()
    assert data.shown() == [data.segments[1], data.segments[0]]
    assert dataclasses.replace(data, threshold=0.2).shown() == [data.segments[i] for i in (1, 0, 2)]


def test_write_index_lists_videos(tmp_path):
    first = make_page(title="First & second", threshold=0.2)
    second = make_page(title="Quiet", duration=90.0, segments=())
    pages = [(first, tmp_path / "pages" / "a b.html"), (second, tmp_path / "quiet.html")]
    index.write_index(pages, tmp_path / "index.html")
    text = (tmp_path / "index.html").read_text()
    rows = [re.sub(r"\s*<[^>]+>\s*", "|", row) for row in re.findall("<tr>(?:(?!</tr>).)*</tr>", text)]
    assert rows == [
        "|||First &amp; second|||0:04||3||45.0||waving (2), tiptoe (1)||",  # 3 in 4 s are 45 a minute
        "|||Quiet|||1:30||0||0.0||none||",
    ]
    assert re.findall('href="([^"]*html)"', text) == ["pages/a%20b.html", "quiet.html"]
    assert "2 videos, 1:34 in all; 3 segments with a score of at least 0.20 to 0.25." in text


def test_write_index_escapes_names(tmp_path):
    data = make_page(labels=LabelSet(("a", EVIL, "c"), ("x",), (0, 0, 0)), title=EVIL)
    index.write_index([(data, tmp_path / 'a"<b>.html')], tmp_path / "index.html")
    page = Parser((tmp_path / "index.html").read_text("utf-8"))
    assert page.texts["a"] == EVIL
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "img"})
    assert ("a", {"href": "a%22%3Cb%3E.html"}) in page.elements


def test_write_index_needs_a_page(tmp_path):
    _, error = outcome(lambda: index.write_index([], tmp_path / "index.html"))
    assert error == "there is no page to list: give at least one video"
