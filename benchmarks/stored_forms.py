"""Measures what storing a clip costs: bytes, pixels, and the logits of the recorded model, for each form.

The clips are the recorded test patterns and the first ones of `--manual_dir`s; for each, evaluation's frames of the
original file are compared with those of the stored forms. Run it from the repository's root: it needs `tests/`.
"""

import pathlib
import sys
from collections.abc import Iterator
from unittest import mock

import numpy as np

from benchmarks import measure
from manet_jax.data import clips, decoding
from manet_jax.models import ClipSpec
from tfds_ma52 import encoding, jpegs, video
from tfds_ma52.clip_frames import ClipFrames
from tfds_ma52.transcode import transcode

sys.path.insert(0, "tests")
import recorded
from golden.inputs import GOLDEN

_INPUTS = {"video": ClipSpec(num_frames=8, short_side=256, crop_size=224)}
_QUALITIES = (75, 85, 90, 95)


def main() -> None:
    """Runs the command."""
    parser = measure.parser("benchmarks.stored_forms", __doc__, repeats=1)
    parser.add_argument(
        "--manual_dir", type=pathlib.Path, action="append", default=[], help="folders in MA-52's layout"
    )
    parser.add_argument("--clips", type=int, default=2, help="how many of each folder")
    arguments = parser.parse_args()
    paths = {"test patterns": sorted((GOLDEN / "video").glob("*.mp4"))}
    for folder in arguments.manual_dir:
        paths[str(folder)] = sorted((folder / "train").glob("*.mp4"))[: arguments.clips]
    spec, variables = recorded.released_model()
    graphdef, _ = recorded.abstract_variables(spec)

    def logits(images: np.ndarray) -> np.ndarray:
        return np.asarray(recorded.apply(graphdef, variables, images[None])[0].logits[0])

    rows = []
    for source, files in paths.items():
        measured: dict[str, list[list[float]]] = {}
        for path in files:
            content = path.read_bytes()
            count = sum(1 for _ in video.read_frames(content))
            old = clips.eval_clip(decoding.StoredVideo(content, count, decoding.decode_original), _INPUTS)["video"]
            before = logits(old)
            for form, size, stored in _forms(path):
                new = clips.eval_clip(stored, _INPUTS)["video"]
                psnr = 10 * np.log10(255**2 / np.mean((old.astype(float) - new) ** 2))
                after = logits(new)
                change = np.sqrt(np.mean((after - before) ** 2)) / before.std()
                same = before.argmax() == after.argmax()
                measured.setdefault(form, []).append([size / 1e3, psnr, change, same])
        for form, values in measured.items():
            size, psnr, change, _ = np.mean(values, axis=0)
            worst, same = np.max(values, axis=0)[2], int(np.sum(values, axis=0)[3])
            row = {"clips": source, "form": form, "kB": f"{size:.0f}", "PSNR, dB": f"{psnr:.1f}"}
            row |= {"change of the logits / spread": f"{change:.3f}", "worst": f"{worst:.3f}"}
            rows.append(row | {"same class": f"{same} of {len(values)}"})
    print(measure.table(rows))
    measure.finish({"rows": rows}, arguments.json)


def _forms(path: pathlib.Path) -> Iterator[tuple[str, int, decoding.StoredVideo]]:
    """A clip as each form stores it: name, bytes, video."""
    content, info = transcode(ClipFrames(path), 256, "h264")
    yield "H.264, CRF 20", len(content), decoding.StoredVideo(content, info.num_frames, decoding.decode_h264)
    for quality in _QUALITIES:
        with mock.patch.object(encoding, "JPEG_QUALITY", quality):
            content, info = transcode(ClipFrames(path), 256, "jpeg")
        stored = decoding.StoredVideo(jpegs.split(content), info.num_frames, decoding.decode_jpegs)
        yield f"JPEG {quality}", len(content), stored


if __name__ == "__main__":
    main()
