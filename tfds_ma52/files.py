"""Files that are whole wherever they are."""

import contextlib
import io
import pathlib
import zipfile


def write_atomically(path: pathlib.Path, content: bytes | bytearray | str) -> None:
    """Writes a file under another name first: a file of its final name is whole, and the old one stays until then.

    Args:
      path: of the file.
      content: text is written as UTF-8.

    Raises:
      OSError: it cannot be written; nothing is left behind.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def zipped(name: str, text: str) -> bytes:
    """A zip archive of one file; the same text gives the same bytes at any time."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return archive.getvalue()
