"""Whether a video file is as long as its container says, from the file's own structure, without decoding it."""

import io
import pathlib
from collections.abc import Callable
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", 0x18538067
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"mfra", b"sidx", b"styp", b"uuid", b"meta")
_PACKET_SIZES = {188: 0, 192: 4, 204: 0}  # of transport streams, and where in a packet its sync byte lies
_UNFINISHED = (0, 0x7FFFFFFF, 0xFFFFFFFF)  # sizes that a recorder writes before it knows better


class CutOffError(Exception):
    """A file that is shorter than its container says; the text says by how much."""


def announces_length(path: pathlib.Path) -> bool:
    """Whether the structure of a file shows that it is whole; False where the container says nothing of its length.

    Known are MP4 and QuickTime, AVI, Matroska and WebM, ASF (wmv), GIF, MPEG program and transport streams.

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
    if start[:4] == b"GIF8":
        return _check_gif
    if start[:4] == b"\0\0\1\xba":
        return _check_program_stream
    if start[4:8] in _BOXES:
        return _check_boxes
    for packet, sync in _PACKET_SIZES.items():
        if start[sync : sync + 1] == b"G" == start[sync + packet : sync + packet + 1]:
            return lambda file, size: _check_transport_stream(size, packet)
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
        offset += 8 + length + length % 2
        _compare(size + length % 2, offset)
    return True


def _check_matroska(file: BinaryIO, size: int) -> bool:
    """Matroska: a header, then a segment; of a live recording the segment's size is left open."""
    _, length, offset = _read_element(file, 0)
    if length is None:
        return False
    name, length, offset = _read_element(file, offset + length)
    return name == _SEGMENT and length is not None and _compare(size, offset + length)


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


def _check_gif(file: BinaryIO, size: int) -> bool:
    if not _read(file, max(0, size - 1024), 1024).rstrip(b"\0").endswith(b";"):
        raise CutOffError("its end mark is missing")
    return True


def _check_program_stream(file: BinaryIO, size: int) -> bool:
    """MPEG program stream: an end code that not every writer sets."""
    return b"\0\0\1\xb9" in _read(file, max(0, size - 4096), 4096)


def _check_transport_stream(size: int, packet: int) -> bool:
    if size % packet:
        raise CutOffError(f"its last packet has {size % packet} of {packet} bytes")
    return False


def _check_boxes(file: BinaryIO, size: int) -> bool:
    """MP4: a row of boxes; one in fragments may end after any of them, unless it has a list of them."""
    offset, names = 0, set()
    while len(header := _read(file, offset, 16)) >= 8 and header[4:8] in _BOXES:
        names.add(header[4:8])
        length = int.from_bytes(header[:4], "big")
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:], "big")
        if length < 8:  # 0: to the end of the file
            break
        offset += length
        _compare(size, offset)
    return b"moof" not in names or b"mfra" in names


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)
