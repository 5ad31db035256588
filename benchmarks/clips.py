"""Clips of MA-52's kind for the benchmarks, where there are none: 1080 x 1296 pixels, 45 to 75 frames, about 1 MB."""

import pathlib

import av
import cv2
import numpy as np
import tqdm

NUM_CLASSES = 4
_HEIGHT, _WIDTH = 1296, 1080
_SPLITS = {"train": 16, "val": 2}


def write_clips(root: pathlib.Path) -> None:
    """Writes a folder in MA-52's layout, unless it is there: textures that move a little, with a camera's noise."""
    if (root / "label_name.txt").exists():
        return
    todo = [split for split, count in _SPLITS.items() for _ in range(count)]
    for number, split in enumerate(tqdm.tqdm(todo, desc="writing clips", unit="clip")):
        (root / split).mkdir(parents=True, exist_ok=True)
        _write_clip(root / split / f"{number:04d}.mp4", np.random.default_rng(number))
    for split, count in _SPLITS.items():
        numbers = range(count) if split == "train" else range(_SPLITS["train"], len(todo))
        lines = [f"{number:04d}.mp4 {number % NUM_CLASSES}\n" for number in numbers]
        (root / f"{split}_list_videos.txt").write_text("".join(lines))
    (root / "label_name.txt").write_text("".join(f"{i}\t{name}\n" for i, name in enumerate(_names())))


def _names() -> list[str]:
    return ["nodding", "waving", "tiptoe", "touching nose"][:NUM_CLASSES]


def _write_clip(path: pathlib.Path, rng: np.random.Generator) -> None:
    coarse = rng.integers(0, 256, (14, 12, 3)).astype(np.uint8)
    ground = cv2.resize(coarse, (_WIDTH + 64, _HEIGHT + 64), interpolation=cv2.INTER_CUBIC)
    grain = [_noise(rng) for _ in range(5)]
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "21", "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = _HEIGHT, _WIDTH, "yuv420p"
        for t in range(rng.integers(45, 76)):
            y, x = (int(32 + 30 * np.sin(t / 9 + phase)) for phase in (0, 1))
            image = ground[y : y + _HEIGHT, x : x + _WIDTH].astype(np.float32) + grain[rng.integers(5)]
            image = np.clip(image, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def _noise(rng: np.random.Generator) -> np.ndarray:
    # Fine noise alone: nothing of it should be left at a quarter of the size, where MA-52's clips are small too.
    noise = rng.normal(0, 3.2, (_HEIGHT, _WIDTH, 1)).astype(np.float32)
    return noise - cv2.blur(noise, (9, 9))[..., None]
