"""Measures the frames of synthetic clips that are drawn and encoded in a second, on one core."""

import cv2

from benchmarks import measure
from tfds_ma52.synthetic import writer

_CLIPS = [writer.PlannedClip("train", number, (7 * number,), number + 1) for number in range(4)]
_WIDTHS = (96, 256)  # of README's first run, and of MA-52 once it is built


def main() -> None:
    """Runs the command."""
    arguments = measure.parser("benchmarks.drawing", __doc__, repeats=5).parse_args()
    cv2.setNumThreads(1)  # as in the processes that draw
    functions, frames = {}, {}
    for width in _WIDTHS:
        settings = {"seed": 0, "short_side": width, "frame_rate": 30}
        clips = [writer.render_clip(clip, settings) for clip in _CLIPS]
        frames[width] = sum(map(len, clips))
        functions[width, "drawing"] = lambda settings=settings: [writer.render_clip(clip, settings) for clip in _CLIPS]
        functions[width, "encoding"] = lambda clips=clips: [writer.encode(clip) for clip in clips]
    seconds = measure.in_turn(functions, arguments.repeats)
    rates = {(width, what): [frames[width] / each for each in times] for (width, what), times in seconds.items()}
    rows = [
        {"pixels wide": width}
        | {
            f"{what}, frames/s": "{median:.0f} ({low:.0f}-{high:.0f})".format(**measure.spread(rates[width, what]))
            for what in ("drawing", "encoding")
        }
        for width in _WIDTHS
    ]
    print(f"{measure.machine()}\n{measure.table(rows)}")
    named = {f"{width} / {what}": values for (width, what), values in rates.items()}
    measure.finish({"frames_per_second": named, "rows": rows}, arguments.json)


if __name__ == "__main__":
    main()
