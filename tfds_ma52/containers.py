"""Whether a video file is as long as its container says, from the file's own structure, without decoding it."""

import io
import pathlib
import struct
from collections.abc import Callable
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", 0x18538067
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_MXF = bytes.fromhex("060e2b34020501010d01020101")  # of a header partition, but for its last bytes
_BOXES = (
    *(b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"mfra", b"sidx", b"ssix", b"styp", b"uuid"),
    *(b"meta", b"prft", b"emsg", b"pdin"),
)
_PACKET_SIZES = {188: 0, 192: 4, 204: 0}  # of transport streams, and where in a packet its sync byte lies
_UNFINISHED = (0, 0x7FFFFFFF, 0xFFFFFFFF)  # sizes that a recorder writes before it knows better
_FLV_TAGS = (8, 9, 18)  # sound, pictures, and data such as the duration


class CutOffError(Exception):
    """A file that is shorter than its container says; the text says by how much."""


def announces_length(path: pathlib.Path) -> bool:
    """Whether the structure of a file shows that it is whole; False where the container says nothing of its length.

    Known are MP4 and QuickTime, AVI, Matroska and WebM, ASF (wmv), FLV, MXF, GIF, MPEG program and transport streams.

    Raises:
      CutOffError: the file is shorter than its container says.
    """
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        start = file.read(205)
        check = _check_of(start)
        return check is not None and check(file, size)


def _check_of(start: bytes) -> Callable[[BinaryIO, int], bool] | None:
    """The check for a container, which its first bytes tell."""
    if start[:4] == b"RIFF":
        return _check_riff
    if start[:4] == _EBML:
        return _check_matroska
    if start[:16] == _ASF:
        return _check_asf
    if start[:4] == b"FLV\1":
        return _check_flv
    if start[:13] == _MXF:
        return _check_mxf
    if start[:4] == b"GIF8":
        return _check_gif
    if start[:4] == b"\0\0\1\xba":
        return _check_program_stream
    if start[4:8] in _BOXES:
        return _check_boxes
    for packet, sync in _PACKET_SIZES.items():
        if start[sync : sync + 1] == b"G" == start[sync + packet : sync + packet + 1]:
            return lambda file, size: _check_transport_stream(file, size, packet, sync)
    return None


def _compare(size: int, announced: int) -> bool:
    if size < announced:
        raise CutOffError(f"{size} of its {announced} bytes are there")
    return True


def _check_riff(file: BinaryIO, size: int) -> bool:
    """AVI: one RIFF chunk, or one for each gigabyte."""
    offset = 0
    while header := _read(file, offset, 8):
        length = int.from_bytes(header[4:], "little")
        if header[:4] != b"RIFF":
            break
        if length in _UNFINISHED:
            return False
        if offset == 0 and length == size:  # some writers count the header, too
            return True
        offset += 8 + length + length % 2
        _compare(size + length % 2, offset)
    return _compare(size, _last_riff_index(_read(file, 0, 65536)))


def _last_riff_index(header: bytes) -> int:
    """Where the last of the indexes lies that the header of a large AVI lists; 0 where it lists none."""
    at = header.find(b"indx")
    count = int.from_bytes(header[at + 12 : at + 16], "little")
    if at < 0 or count == 0 or header[at + 8 : at + 12] != b"\4\0\0\0":  # no list of indexes
        return 0
    last = at + 32 + 16 * (count - 1)
    return int.from_bytes(header[last : last + 8], "little")


def _check_matroska(file: BinaryIO, size: int) -> bool:
    """Matroska: a header, then a segment; of a live recording the segment's size is left open."""
    _, length, offset = _read_element(file, 0)
    if length is None:
        return False
    name, length, offset = _read_element(file, offset + length)
    return name == _SEGMENT and bool(length) and _compare(size, offset + length)


def _read_element(file: BinaryIO, offset: int) -> tuple[int, int | None, int]:
    """The id of an EBML element, the length of its content (None: open), and where the content starts."""
    header = _read(file, offset, 12).ljust(12, b"\0")
    id_length = 9 - header[0].bit_length()
    name = int.from_bytes(header[:id_length], "big")
    if id_length > 4:  # not an element's id
        return name, None, offset
    length_length = 9 - header[id_length].bit_length()
    if length_length > 8:
        return name, None, offset
    end = id_length + length_length
    length = int.from_bytes(header[id_length:end], "big") & ((1 << 7 * length_length) - 1)
    return name, None if length == (1 << 7 * length_length) - 1 else length, offset + end


def _check_asf(file: BinaryIO, size: int) -> bool:
    """ASF: the properties in its header give the file's size, unless it was written as a broadcast."""
    header = _read(file, 0, 65536)
    at = header.find(_ASF_FILE_PROPERTIES)
    properties = header[at : at + 104]
    if at < 0 or len(properties) < 104 or properties[88] & 1:
        return False
    announced = int.from_bytes(properties[40:48], "little")
    return announced not in _UNFINISHED and _compare(size, announced)


def _check_flv(file: BinaryIO, size: int) -> bool:
    """FLV: a row of tags; the first may give the file's size, and the time of the last in seconds."""
    offset, time, data = 13, 0, b""
    while (header := _read(file, offset, 11)) and header[0] & 0x1F in _FLV_TAGS:
        _compare(size, offset + 11)
        length = int.from_bytes(header[1:4], "big")
        if not data:
            data = _read(file, offset + 11, length)
        time = max(time, int.from_bytes(header[4:7], "big") | header[7] << 24)
        offset += 11 + length
        _compare(size, offset)
        offset += 4
    if announced := _flv_number(data, b"filesize"):
        return _compare(size, int(announced))
    duration = _flv_number(data, b"duration")
    if time / 1000 < duration - 1:  # at what the last picture's own time is added differs
        raise CutOffError(f"it ends at {time / 1000:.2f} of {duration:.2f} s")
    return False


def _flv_number(data: bytes, name: bytes) -> float:
    """A number of a FLV file's first tag; 0 where it is missing or senseless."""
    at = data.find(name + b"\0") + len(name) + 1
    if name not in data or at + 8 > len(data):
        return 0.0
    (number,) = struct.unpack_from(">d", data, at)
    return number if 0 < number < 2**62 else 0.0


def _check_mxf(file: BinaryIO, size: int) -> bool:
    """MXF: its first partition says where the last one lies, unless it was left open."""
    header = _read(file, 0, 128).ljust(128, b"\0")
    length_length = 1 + (header[16] & 0x7F if header[16] & 0x80 else 0)
    footer = int.from_bytes(header[16 + length_length + 24 :][:8], "big")
    return footer > 0 and _compare(size, footer + 16)


def _check_gif(file: BinaryIO, size: int) -> bool:
    """GIF: a row of blocks up to an end mark; what follows that is not looked at."""
    file.seek(10)
    _skip_colors(file, file.read(3))
    while kind := file.read(1):
        if kind == b";":
            return True
        if kind == b",":  # a picture
            _skip_colors(file, file.read(9)[8:])
        elif kind != b"!":
            return False
        file.seek(1, io.SEEK_CUR)
        while length := file.read(1)[:1].strip(b"\0"):
            file.seek(length[0], io.SEEK_CUR)
    raise CutOffError("its end mark is missing")


def _skip_colors(file: BinaryIO, flags: bytes) -> None:
    """Skips a GIF's table of colours, whose flags are the first of some bytes."""
    if flags and flags[0] & 0x80:
        file.seek(3 << (flags[0] & 7) + 1, io.SEEK_CUR)


def _check_program_stream(file: BinaryIO, size: int) -> bool:
    """MPEG program stream: an end code that not every writer sets."""
    return b"\0\0\1\xb9" in _read(file, max(0, size - 4096), 4096)


def _check_transport_stream(file: BinaryIO, size: int, packet: int, sync: int) -> bool:
    """MPEG transport stream: only a packet that is cut tells; something else may follow the last one."""
    rest = size % packet
    if rest > sync and _read(file, size - rest + sync, 1) == b"G" == _read(file, size - rest - packet + sync, 1):
        raise CutOffError(f"its last packet has {rest} of {packet} bytes")
    return False


def _check_boxes(file: BinaryIO, size: int) -> bool:
    """MP4: a row of boxes; one in fragments may end after any of them, unless it has a list of them."""
    offset, names, last_fragment, index_end = 0, set(), 0, 0
    while len(header := _read(file, offset, 16)) >= 8:
        name, length = header[4:8], int.from_bytes(header[:4], "big")
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:], "big")
        if length < 8 or (name not in _BOXES and offset + length > size):  # 0: to the end of the file; or no box
            break
        _compare(size, offset + length)
        names.add(name)
        if name == b"sidx":
            index_end = max(index_end, _end_of_index(_read(file, offset, length), offset))
            _compare(size, index_end)
        elif name == b"moof":
            last_fragment = offset
        offset += length
    return b"moof" not in names or b"mfra" in names or index_end > last_fragment


def _end_of_index(box: bytes, offset: int) -> int:
    """Where the fragments end that a `sidx` box lists; 0 of a box that lists less than two."""
    long = len(box) > 8 and box[8] > 0
    first, count_at = (28, 38) if long else (24, 30)
    count = int.from_bytes(box[count_at : count_at + 2], "big")
    sizes = [int.from_bytes(box[at : at + 4], "big") & 0x7FFFFFFF for at in range(count_at + 2, len(box) - 11, 12)]
    before = int.from_bytes(box[first : first + (8 if long else 4)], "big")
    return offset + len(box) + before + sum(sizes[:count]) if count > 1 else 0


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)
