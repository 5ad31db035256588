"""The overview of several videos' pages: one HTML file with a row for each of them."""

import collections
import html
import os
import pathlib
import string
import urllib.parse
from collections.abc import Sequence

from manet_jax.report import figures
from manet_jax.report.player.video_page import VideoPage, policy, write_file
from tfds_ma52.errors import UserError

_FOLDER = pathlib.Path(__file__).parent
_MOST_FREQUENT = 3


def write_index(pages: Sequence[tuple[VideoPage, pathlib.Path]], path: pathlib.Path) -> None:
    """Writes the overview: the name, duration, number of segments and most frequent actions of each video.

    Args:
      pages: what they show, and their files; in the order of the rows.
      path: of the HTML file; its folder is made where it does not exist.

    Raises:
      UserError: there are no pages, or the overview cannot be written.
    """
    if not pages:
        raise UserError("there is no page to list: give at least one video", field="pages")
    style = (_FOLDER / "player.css").read_text("utf-8")
    rows = "\n".join(_row(data, page, path) for data, page in pages)
    fields = {"policy": policy(style), "style": style, "rows": rows, "summary": html.escape(_summary(pages))}
    write_file(path, string.Template((_FOLDER / "index.html").read_text("utf-8")).substitute(fields))


def most_frequent(data: VideoPage) -> list[tuple[str, int]]:
    """The actions with most segments of at least the threshold, with their number; of equal ones the lower id first."""
    counts = collections.Counter(sorted(segment.class_id for segment in data.shown()))
    return [(data.labels.names[class_id], count) for class_id, count in counts.most_common(_MOST_FREQUENT)]


def _summary(pages: Sequence[tuple[VideoPage, pathlib.Path]]) -> str:
    count, seconds = len(pages), sum(data.duration for data, _ in pages)
    found = sum(len(data.shown()) for data, _ in pages)
    thresholds = sorted({data.threshold for data, _ in pages})
    least = f"{thresholds[0]:.2f}" if len(thresholds) == 1 else f"{thresholds[0]:.2f} to {thresholds[-1]:.2f}"
    return (
        f"{count} video{'s' * (count > 1)}, {figures.clock(seconds)} in all; {found} segment{'s' * (found != 1)} "
        f"with a score of at least {least}."
    )


def _row(data: VideoPage, page: pathlib.Path, index: pathlib.Path) -> str:
    relative = os.path.relpath(page.resolve(), index.parent.resolve())
    address = urllib.parse.quote(os.fsencode(pathlib.Path(relative).as_posix()))
    count = len(data.shown())
    frequent = ", ".join(f"{name} ({number})" for name, number in most_frequent(data)) or "none"
    cells = [f'<th scope="row"><a href="{html.escape(address)}">{html.escape(data.heading)}</a></th>']
    numbers = {"Duration": figures.clock(data.duration), "Segments": count}
    numbers["Per minute"] = f"{60 * count / data.duration:.1f}"
    # Where the page is narrow, each value has its name before it.
    cells += [f'<td class="number" data-name="{name}">{number}</td>' for name, number in numbers.items()]
    return f'<tr>{"".join(cells)}<td data-name="Most frequent">{html.escape(frequent)}</td></tr>'
