"""JPEGs of a clip's frames: in one content while a set is built, and then as records of a file for each split.

The content is, as little-endian unsigned 64-bit integers, the number n of JPEGs and n + 1 offsets, in bytes from the
content's start: where each JPEG begins, and the content's length; then the JPEGs themselves.
"""

import itertools
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tqdm
from array_record.python import array_record_module

from tfds_ma52.video import DamagedVideoError

_INTEGER = np.dtype("<u8")


def join(jpegs: Sequence[bytes]) -> bytes:
    """The content that holds some JPEGs."""
    start = _INTEGER.itemsize * (len(jpegs) + 2)
    offsets = start + np.cumsum([0, *(len(jpeg) for jpeg in jpegs)])
    return b"".join([np.array([len(jpegs), *offsets], _INTEGER).tobytes(), *jpegs])


def split(content: bytes) -> list[memoryview]:
    """The JPEGs in a content, not copied.

    Raises:
      DamagedVideoError: it does not hold what its header announces.
    """
    num_integers = len(content) // _INTEGER.itemsize
    count = int(np.frombuffer(content, _INTEGER, count=1)[0]) if num_integers else 0
    if not 0 < count <= num_integers - 2:
        raise DamagedVideoError("it does not begin as a row of JPEGs does, or is cut off")
    offsets = np.frombuffer(content, _INTEGER, count=count + 1, offset=_INTEGER.itemsize).tolist()
    if offsets[-1] != len(content):
        raise DamagedVideoError(f"{len(content)} bytes are there, where its header announces {offsets[-1]}")
    view = memoryview(content)
    return [view[start:end] for start, end in itertools.pairwise(offsets)]


def frames_path(folder: str | os.PathLike, split: str) -> pathlib.Path:
    """The ArrayRecord file of a split of a built set that has a record for each frame of its clips, one after another.

    Reading the frames that are wanted takes a tenth of the time that reading a record of all of them takes.
    """
    return pathlib.Path(folder) / f"ma52_frames-{split}.array_record"


def write_frames(path: pathlib.Path, contents: Sequence[pathlib.Path]) -> None:
    """Writes the JPEGs in the contents of some files as records."""
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")  # JPEGs compress no further
    for content in tqdm.tqdm(contents, "writing frames", unit="clip", dynamic_ncols=True):
        for jpeg in split(content.read_bytes()):
            writer.write(bytes(jpeg))
    writer.close()
