"""The video files that a set was built from, so that a later run notices when they are others."""

import hashlib
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_BLOCK = 4096  # bytes read at the start, middle and end of a file whose time alone has changed

# Of each file, by its path in the data set's folder: size, time of change in nanoseconds, and a digest of three blocks;
# None for a file that was missing.
Sources = dict[str, Sequence[Any] | None]


def describe(root: pathlib.Path, paths: Iterable[pathlib.Path]) -> Sources:
    """Describes files in a folder."""
    return {_name(root, path): _describe(path) for path in dict.fromkeys(paths)}


def difference(root: pathlib.Path, paths: Iterable[pathlib.Path], recorded: Mapping[str, Any]) -> str:
    """How a folder's files differ from those that a set was built from, in words; "" where they do not.

    A file that is not there any more is no difference: a built set does not need it. A file of the same size and
    another time is compared by its content, for copies of a data set have other times.
    """
    for path in dict.fromkeys(paths):
        name = _name(root, path)
        if name not in recorded:
            first = next(iter(recorded), "none")
            return f"{name} is none of its videos, such as {first}" if path.is_file() else f"{path} is missing"
        if not path.is_file():
            continue
        if recorded[name] is None:
            return f"{name} was missing then"
        size, time, digest = recorded[name]
        status = path.stat()
        if status.st_size != size or (status.st_mtime_ns != time and _digest(path) != digest):
            return f"{name} has been replaced"
    return ""


def _name(root: pathlib.Path, path: pathlib.Path) -> str:
    return os.path.relpath(path, root)


def _describe(path: pathlib.Path) -> Sequence[Any] | None:
    if not path.is_file():
        return None
    status = path.stat()
    return status.st_size, status.st_mtime_ns, _digest(path)


def _digest(path: pathlib.Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha1()
    with path.open("rb") as file:
        for offset in (0, size // 2, max(0, size - _BLOCK)):
            file.seek(offset)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]
