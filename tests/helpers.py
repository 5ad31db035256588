"""Clips, folders and poses that several test modules use."""

import dataclasses
import pathlib

import av
import numpy as np
import pytest

from manet_jax import inference
from manet_jax.data import decoding, windows
from manet_jax.data.views import SINGLE_VIEW
from manet_jax.models import MODELS, NetworkOptions
from manet_jax.studies.small_runs import FIELDS
from tfds_ma52 import video
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52_NAMES
from tfds_ma52.synthetic import motions, skeleton

ROOT = pathlib.Path(__file__).parent.parent
BACKBONES = [name for name in MODELS if issubclass(MODELS[name].Options, NetworkOptions)]


def slow_but(*quick, networks=BACKBONES):
    """Parametrises a test over networks, of which all but some compile too long for every run of the tests."""
    marks = {name: () if name in quick else pytest.mark.slow for name in networks}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks[name]) for name in networks])


def write_clip(path, *, num_frames=20, height=64, width=48, seed=0, audio=False, title=""):
    """Writes a clip of a bright square that moves over a coloured ground."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    ground, (y, x), (dy, dx) = rng.integers(0, 120, 3), rng.uniform(0.2, 0.6, 2), rng.uniform(-0.2, 0.2, 2)
    with av.open(str(path), "w", format="mp4") as container:
        if title:
            container.metadata["title"] = title
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        sound = container.add_stream("aac", rate=8000, layout="mono") if audio else None
        for i in range(num_frames):
            image = np.broadcast_to(ground, (height, width, 3)).astype(np.uint8)
            top, left = int((y + dy * i / num_frames) * height), int((x + dx * i / num_frames) * width)
            image[top : top + height // 5, left : left + width // 5] = 230
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
        if sound:
            write_silence(container, sound)


def write_silence(container, stream, num_samples=4096):
    for start in range(0, num_samples, 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def set_rotation(path, degrees):
    """Writes the display matrix of an mp4's video track, as phones do."""
    fixed = 1 << 16
    matrix = {90: (0, fixed, -fixed, 0), 180: (-fixed, 0, 0, -fixed), 270: (0, -fixed, fixed, 0)}[degrees]
    a, b, c, d = (value.to_bytes(4, "big", signed=True) for value in matrix)
    content, identity = path.read_bytes(), fixed.to_bytes(4, "big") + bytes(12) + fixed.to_bytes(4, "big")
    start = content.index(identity, content.index(b"tkhd"))
    path.write_bytes(content[:start] + a + b + bytes(4) + c + d + content[start + 20 :])


def cut_at_packet(path, keep=12):
    """Drops a clip's last packets, but leaves an index in front that announces them; returns the size before."""
    with (
        av.open(str(path)) as source,
        av.open(str(path) + ".new", "w", format="mp4", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        end, packets = 0, [packet for packet in source.demux(video=0) if packet.size]
        sizes = [packet.size for packet in packets]
        for packet in packets:
            packet.stream = stream
            target.mux(packet)
        end = sum(sizes[:keep])
    content = (path.parent / (path.name + ".new")).read_bytes()
    path.write_bytes(content[: content.index(b"mdat") + 4 + end])
    return len(content)


def write_folder(
    root, *, per_split=(("train", 12), ("val", 5)), layout="videos", names=("nodding", "waving", "tiptoe")
):
    """Writes a small data set in one of MA-52's layouts, with CRLF lists.

    layout "videos": clips in videos_<split>, lists beside them; "annotations": clips in <split>, lists in annotations/.
    """
    folder = "videos_{}" if layout == "videos" else "{}"
    lists = root if layout == "videos" else root / "annotations"
    lists.mkdir(parents=True, exist_ok=True)
    for number, (split, count) in enumerate(per_split):
        lines = []
        for i in range(count):
            name = f"{number * 100 + i % 4:04d}_01_{i:04d}.mp4"
            write_clip(root / folder.format(split) / name, seed=number * 1000 + i, num_frames=12 + i)
            lines.append(f"{name} {0 if split == 'test' else i % len(names)}\r\n")
        (lists / f"{split}_list_videos.txt").write_bytes("".join(lines).encode())
    label_lines = "".join(f"{i}\t{name}\r\n" for i, name in enumerate(names))
    (lists / "label_name.txt").write_bytes(label_lines.encode())
    return root


def shrink(config, manual_dir):
    """Makes a config small enough for a test; 8 clips a batch, one for each device."""
    appearance = {"clip.short_side": 40, "clip.crop_size": 32, "model.depth": 8, "model.width": 8}
    fields = FIELDS | {f"emotion.{name}": value for name, value in appearance.items()}
    fields |= {"data.manual_dir": str(manual_dir), "num_epochs": 2.0, "eval.every_epochs": 1.0}
    fields |= {"schedule.decay_epochs": (1.0,), "checkpoint_every_steps": 1}
    config.update_from_flattened_dict(fields)
    return config


def set_network(config, name, **options):
    """Makes a config that of a small network, which sees the clips that it is made for."""
    tiny = dataclasses.asdict(MODELS[name].Options.tiny(**options))
    clip = tiny.pop("clip")
    decided = ("num_classes", "embedding_dim", "num_groups")  # by the data, and whether there is such a head
    config.model = {"name": name, "embedding": False, **{k: v for k, v in tiny.items() if k not in decided}}
    config.clip.update({field: clip[field] for field in config.clip})
    return config


def stored(content, decode=decoding.decode_h264):
    """A video as a built data set has it."""
    return decoding.StoredVideo(content, len(list(video.read_frames(content))), decode)


def read_video(source, inputs, window=2.0, stride=1.0, num_threads=1):
    """Yields the clip of a short video, or the windows of a long one, as prediction reads them in a single view."""
    return windows.read_windows(
        source,
        [windows.EvalInputs(inputs, SINGLE_VIEW)],
        windows.SlidingWindows(window, stride),
        whole_until=inference.LONG,
        num_threads=num_threads,
    )


def outcome(function):
    """The result of a function, or the text of the user's error that it raises."""
    try:
        return function(), ""
    except UserError as error:
        return None, str(error)


def id_of(name):
    """The id of one of MA-52's classes."""
    return MA52_NAMES.index(name)


def pose(class_id, seed, **changes):
    """The points of a drawn person who does a micro-action; `changes` are to the draws of the motion."""
    rng = np.random.default_rng(seed)
    body, variation = skeleton.draw_body(rng), motions.draw_variation(rng)
    variation = dataclasses.replace(variation, **changes)
    return skeleton.pose_trajectory(class_id, body, variation)


def stack(points, names=None):
    """Points by name as an array [t, point, 3]."""
    return np.stack([points[name] for name in names or points], axis=1)


def travel(points):
    """The largest distance of a point [t, 3] from its start."""
    return np.linalg.norm(points - points[0], axis=-1).max()
