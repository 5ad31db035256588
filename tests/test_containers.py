"""Whether a file is as long as its container says, from its structure."""

import re
import struct

import pytest
from numbered import write

from tfds_ma52 import containers
from tfds_ma52.containers import CutOffError


def check(tmp_path, content):
    """Whether a file's structure shows that it is whole, or the text of the error."""
    (tmp_path / "file").write_bytes(content)
    try:
        return containers.announces_length(tmp_path / "file")
    except CutOffError as error:
        return str(error)


def box(name, content=b""):
    return struct.pack(">I4s", 8 + len(content), name) + content


def index(*sizes, version=0):
    """A `sidx` box that lists fragments."""
    before = bytes(8) if version == 0 else bytes(16)
    listed = b"".join(struct.pack(">III", size, 0, 0) for size in sizes)
    return box(b"sidx", bytes([version, 0, 0, 0]) + bytes(8) + before + struct.pack(">HH", 0, len(sizes)) + listed)


FRAGMENT = box(b"prft", bytes(16)) + box(b"moof", bytes(20)) + box(b"mdat", bytes(30))
MXF = bytes.fromhex("060e2b34020501010d01020101")
START = box(b"ftyp", b"isom") + box(b"moov", bytes(40))


@pytest.mark.parametrize("version", [0, 1])
def test_fragments_are_whole_where_a_list_of_them_says_so(tmp_path, version):
    assert check(tmp_path, START + 2 * FRAGMENT) is False
    assert check(tmp_path, START + 2 * FRAGMENT + box(b"mfra")) is True
    whole = START + index(len(FRAGMENT), len(FRAGMENT), version=version) + 2 * FRAGMENT
    assert check(tmp_path, whole) is True
    cut = whole[: -len(FRAGMENT)]
    assert check(tmp_path, cut) == f"{len(cut)} of its {len(whole)} bytes are there"
    each = index(len(FRAGMENT), version=version) + FRAGMENT  # as DASH has it: the list of one tells nothing of others
    assert check(tmp_path, START + 2 * each) is False


@pytest.mark.parametrize("name", [b"prft", b"emsg", b"moof", b"mdat"])
def test_a_box_that_is_cut_is_reported(tmp_path, name):
    whole = START + box(b"moof") + box(name, bytes(50))
    assert check(tmp_path, whole[:-1]) == f"{len(whole) - 1} of its {len(whole)} bytes are there"


@pytest.mark.parametrize("rest", [b"a note at the end", bytes(100), struct.pack(">I4s", 5000, b"sefd") + bytes(9)])
def test_what_is_no_known_box_may_follow_an_mp4(tmp_path, rest):
    assert check(tmp_path, START + box(b"mdat", bytes(50)) + rest) is True


def test_a_transport_stream_is_cut_where_its_last_packet_is(tmp_path):
    packets = 5 * (b"G" + bytes(187))
    assert check(tmp_path, packets) is False
    assert check(tmp_path, packets + b"G" + bytes(49)) == "its last packet has 50 of 188 bytes"
    assert check(tmp_path, packets + bytes(300)) is False  # a recorder's padding
    assert check(tmp_path, packets + b"END") is False
    assert check(tmp_path, packets[:376] + bytes(31) + packets) is False  # out of step
    packets = 5 * (bytes(4) + b"G" + bytes(187))
    assert check(tmp_path, packets + bytes(4) + b"G" + bytes(5)) == "its last packet has 10 of 192 bytes"
    assert check(tmp_path, packets + bytes(3)) is False


def test_a_gif_is_whole_with_its_end_mark(tmp_path):
    start = b"GIF89a" + bytes(4) + b"\x80\0\0" + bytes(6) + b"!\xf9\x04" + bytes(5)  # two colours, a delay
    picture = b"," + bytes(8) + b"\x81" + bytes(12) + b"\x02\x03ab;\0"  # of four colours
    whole = start + 2 * picture + b";"
    assert check(tmp_path, whole) is True
    assert check(tmp_path, whole + b"\n") is True
    for size in (len(whole) - 1, len(whole) - 2, len(start + picture), len(start) - 3, 12):
        assert check(tmp_path, whole[:size]) == "its end mark is missing"


def test_an_avi_may_count_its_header(tmp_path):
    def riff(length):
        return b"RIFF" + struct.pack("<I", length) + b"AVI " + bytes(92)

    assert check(tmp_path, riff(96)) is True
    assert check(tmp_path, riff(104)) is True  # as some writers have it, though 8 too many
    assert check(tmp_path, riff(98)) == "104 of its 106 bytes are there"


def test_a_large_avi_lists_its_indexes(tmp_path):
    def riff(*offsets, kind=b"\4\0\0\0"):
        listed = b"".join(struct.pack("<QII", offset, 24, 1) for offset in offsets)
        content = b"AVI " + b"indx" + bytes(4) + kind + struct.pack("<I", len(offsets)) + b"00dc" + bytes(12) + listed
        return b"RIFF" + struct.pack("<I", len(content)) + content

    second = b"RIFF" + struct.pack("<I", 40) + bytes(40)
    first = riff(50, 100)
    assert check(tmp_path, first + second) is True
    assert check(tmp_path, first) == f"{len(first)} of its 100 bytes are there"
    assert check(tmp_path, riff()) is True
    assert check(tmp_path, riff(50, 10**6, kind=b"\2\0\0\1")) is True  # an index itself


def test_a_matroska_segment_of_no_size_tells_nothing(tmp_path):
    assert check(tmp_path, b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x80" + bytes(50)) is False
    assert check(tmp_path, b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\xb2" + bytes(50)) is True


def test_an_mxf_file_has_its_last_partition(tmp_path):
    whole = write(tmp_path / "a.mxf", range(12), codec="mpeg2video").read_bytes()
    assert check(tmp_path, whole) is True
    assert re.fullmatch(r"\d+ of its \d+ bytes are there", check(tmp_path, whole[: len(whole) * 7 // 10]))
    at = 16 + 4 + 24  # key, length of four bytes, offset of the field
    assert check(tmp_path, whole[:at] + bytes(8) + whole[at + 8 :]) is False  # left open


def test_an_flv_is_held_against_its_size_else_its_duration(tmp_path):
    whole = write(tmp_path / "a.flv", range(60), codec="flv").read_bytes()  # two seconds
    assert check(tmp_path, whole) is True
    ends, at = [], 13
    while at < len(whole):
        ends.append(at)
        at += 15 + int.from_bytes(whole[at + 1 : at + 4], "big")
    assert check(tmp_path, whole[: ends[-1]]) == f"{ends[-1]} of its {len(whole)} bytes are there"

    def with_duration(content, seconds):
        start = content.index(b"duration") + 9
        return content[:start] + struct.pack(">d", seconds) + content[start + 8 :]

    assert check(tmp_path, with_duration(whole, 200.0)) is True  # as sound that goes on may have it
    unsized = whole.replace(b"filesize", b"somesize")
    assert check(tmp_path, unsized) is False
    assert check(tmp_path, unsized[: ends[20]]) == "it ends at 0.60 of 2.00 s"
    for end in (ends[20] - 1, ends[20] + 5, ends[20] + 11):  # the length of the tag before; a header; a content
        cut = check(tmp_path, with_duration(unsized, 0.0)[:end])
        assert (cut is False) if end < ends[20] else cut.endswith(" bytes are there")
    for seconds in (0.0, -1.0, float("nan"), float("inf"), 2.9):
        assert check(tmp_path, with_duration(unsized, seconds)) is False
    assert check(tmp_path, whole[:9]) is False


@pytest.mark.parametrize("start", [b"FLV\1", MXF, b"GIF89a", b"RIFF", b"\x1a\x45\xdf\xa3"])
def test_a_start_alone_is_no_crash(tmp_path, start):
    assert check(tmp_path, start) in (False, True, "its end mark is missing")
