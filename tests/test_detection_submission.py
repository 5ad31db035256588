import csv
import io
import re
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from manet_jax.detection.segments import Segment
from manet_jax.detection.submission import check_submission, write_submission
from tfds_ma52.errors import UserError

DURATIONS = {"test0000": 10.0, "test0001": 7.5}
SEGMENTS = {
    "test0001": [Segment(0.0, 7.5, 51, 1.0)],
    "test0000": [Segment(1 / 3, 2.25, 0, 0.123456789012345), Segment(4.0, 5.0, 7, np.float64(0.0))],
}
HEADER = ",video_id,t_start,t_end,class,score"
ROWS = ["0,test0000,0.5,2.5,3,0.9", "1,test0001,1,2,0,1"]


def read(path):
    """The rows of a submission as the challenge reads them."""
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["prediction.csv"]
        header, *rows = csv.reader(io.StringIO(archive.read("prediction.csv").decode("ascii")))
    assert header == HEADER.split(",")
    return rows


def write(path, lines, name="prediction.csv"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "\n".join(lines) + "\n" if lines else "")
    return path


def test_write_submission_has_a_row_for_each_segment(tmp_path):
    path = tmp_path / "prediction.zip"
    write_submission(path, SEGMENTS, DURATIONS, 52)
    assert read(path) == [
        ["0", "test0001", "0.0", "7.5", "51", "1.0"],
        ["1", "test0000", "0.3333333333333333", "2.25", "0", "0.123456789012345"],
        ["2", "test0000", "4.0", "5.0", "7", "0.0"],
    ]
    check_submission(path, DURATIONS, 52)
    assert [each.name for each in tmp_path.iterdir()] == ["prediction.zip"]


@hypothesis.given(
    strategies.lists(
        strategies.tuples(
            strategies.floats(0, 4), strategies.floats(4.001, 9), strategies.integers(0, 4), strategies.floats(0, 1)
        ),
        min_size=1,
    )
)
def test_write_submission_loses_nothing(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("submission") / "out.zip"
    write_submission(path, {"v": [Segment(*row) for row in rows]}, {"v": 9.0}, 5)
    assert [(float(a), float(b), int(c), float(d)) for _, _, a, b, c, d in read(path)] == rows


def test_write_submission_is_the_same_each_time(tmp_path):
    for name in "ab":
        write_submission(tmp_path / name, SEGMENTS, DURATIONS, 52)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_write_submission_refuses_what_cannot_be_submitted(tmp_path):
    path = tmp_path / "out.zip"
    path.write_text("earlier")
    with pytest.raises(UserError) as caught:
        write_submission(path, {"test0000": [Segment(1.0, 2.0, 52, 0.5)], "x": SEGMENTS["test0001"]}, DURATIONS, 52)
    assert str(caught.value).splitlines() == [
        f"{path} is no submission of these videos: 3 problems",
        "  row 0: its class is 52; expected 0 to 51",
        "  row 1: the split has no video 'x'",
        "  video test0001 has no segment",
    ]
    assert path.read_text() == "earlier"
    with pytest.raises(UserError, match=r"none/out.zip cannot be written \(No such file or directory\): give another"):
        write_submission(tmp_path / "none" / "out.zip", SEGMENTS, DURATIONS, 52)
    assert [each.name for each in tmp_path.iterdir()] == ["out.zip"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("1,test0001,1,2,0", "it has 5 fields; expected 6"),
        ("2,test0001,1,2,0,0.5", "its index is '2'; expected 1"),
        ("1,test0002,1,2,0,0.5", "the split has no video 'test0002'"),
        ("1,test0001,1,2,0.5,0.5", "1, 2, 0.5, 0.5 are not a start, an end, a class and a score"),
        ("1,test0001,one,2,0,0.5", "one, 2, 0, 0.5 are not a start, an end, a class and a score"),
        ("1,test0001,nan,2,0,0.5", "nan, 2, 0, 0.5 are not all finite"),
        ("1,test0001,-0.5,2,0,0.5", "it lasts from -0.5 to 2 s, in a video of 7.5 s"),
        ("1,test0001,2,2,0,0.5", "it lasts from 2 to 2 s, in a video of 7.5 s"),
        ("1,test0001,2,7.52,0,0.5", "it lasts from 2 to 7.52 s, in a video of 7.5 s"),
        ("1,test0001,1,2,-1,0.5", "its class is -1; expected 0 to 51"),
        ("1,test0001,1,2,52,0.5", "its class is 52; expected 0 to 51"),
        ("1,test0001,1,2,0,-0.5", "its score is -0.5; expected 0 to 1"),
        ("1,test0001,1,2,0,1.5", "its score is 1.5; expected 0 to 1"),
    ],
)
def test_check_submission_reports_a_wrong_row(tmp_path, row, problem):
    path = write(tmp_path / "out.zip", [HEADER, ROWS[0], row, "2,test0001,2,7.505,0,0.5"])
    expected = f"{path} is no submission of these videos: 1 problem\n  row 1: {problem}"
    with pytest.raises(UserError, match=re.escape(expected)):
        check_submission(path, DURATIONS, 52)


def test_check_submission_reports_all_problems_at_once(tmp_path):
    path = write(tmp_path / "out.zip", [HEADER, "1,test0001,1,2,0,0.5", "", "2,test0001,5,4,0,0.5"])
    with pytest.raises(UserError) as caught:
        check_submission(path, DURATIONS, 52)
    assert str(caught.value).splitlines()[1:] == [
        "  row 0: its index is '1'; expected 0",
        "  row 1: it has 0 fields; expected 6",
        "  row 2: it lasts from 5 to 4 s, in a video of 7.5 s",
        "  video test0000 has no segment",
    ]


def test_check_submission_reports_what_is_no_submission(tmp_path):
    path = tmp_path / "out.zip"

    def problem():
        with pytest.raises(UserError) as caught:
            check_submission(path, DURATIONS, 52)
        return str(caught.value)

    assert problem() == f"{path} cannot be read (No such file or directory)"
    path.write_text("no zip file")
    assert problem() == f"{path} is no sound zip file (File is not a zip file): give one that holds prediction.csv"
    write(path, [HEADER, *ROWS], "submission.csv")
    assert problem() == f"{path} holds submission.csv; it must hold prediction.csv alone"
    write(path, [])
    assert problem() == f"{path}: prediction.csv begins with ''; expected '{HEADER}'"
    write(path, ["video_id,t_start,t_end,class,score", *ROWS])
    assert problem() == f"{path}: prediction.csv begins with 'video_id,t_start,t_end,class,score'; expected '{HEADER}'"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("prediction.csv", HEADER.encode("utf-16"))
    assert problem() == f"{path}: prediction.csv is not UTF-8 text: save it as such"
    write(path, [HEADER, '0,test0000,"0.5,2.5,3,0.9', ROWS[1]])
    assert problem() == f"{path}: prediction.csv has a row that is not csv (unexpected end of data)"
    write(path, [HEADER, *ROWS])
    content = path.read_bytes()
    path.write_bytes(content.replace(b"test0000", b"test0009"))
    assert problem() == (
        f"{path} is no sound zip file (Bad CRC-32 for file 'prediction.csv'): give one that holds prediction.csv"
    )
    locked = bytearray(content)
    for start in (6, content.index(b"PK\x01\x02") + 8):  # the flags of the file in both places
        locked[start] |= 1
    path.write_bytes(locked)
    assert "is encrypted, password required" in problem()
