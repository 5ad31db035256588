"""Damaged and unusual videos: containers, faults, shapes and times."""

import dataclasses
import pathlib
import shutil
import struct
from fractions import Fraction

import av
import numbered
import numpy as np
from helpers import cut_at_packet, set_rotation, write_clip, write_silence

NUM_FRAMES = 24
CODECS = {  # one for each container
    "mp4": "libx264",
    "mov": "libx264",
    "mkv": "libx264",
    "webm": "libvpx",
    "avi": "mpeg4",
    "flv": "flv",
    "wmv": "wmv2",
    "mpg": "mpeg2video",
    "ts": "libx264",
    "gif": "gif",
    "mxf": "mpeg2video",
}


@dataclasses.dataclass(frozen=True)
class Video:
    """A file of the corpus.

    Attributes:
      path: the file.
      refused: whether it must be refused, or read; None where either may be: a bit flipped in a picture may leave one
        that decodes.
      reason: a part of the error that a refused one must have.
      num_frames: of one that must be read.
    """

    path: pathlib.Path
    refused: bool | None = False
    reason: str = ""
    num_frames: int = NUM_FRAMES


def write_corpus(folder: pathlib.Path) -> list[Video]:
    """Writes all files of the corpus into a folder."""
    folder.mkdir(parents=True)
    good, front = folder / "good.mp4", folder / "index in front.mp4"
    write_clip(good, num_frames=NUM_FRAMES)
    _remux(good, front, {"movflags": "faststart"})
    found = [Video(good), Video(front)]
    found += [_truncated(whole, tenth) for whole in (good, front) for tenth in range(10)]
    found += [_flipped(good, seed) for seed in range(8)]
    found += [_zeroed(good, part) for part in range(4)]
    found += [_cut_at_packet(folder), *_of_other_kinds(folder), *_of_other_shapes(folder, good), *_claims(good)]
    return found + _of_containers(folder) + _of_other_times(folder)


def _remux(source: pathlib.Path, target: pathlib.Path, options: dict[str, str], pts=None) -> None:
    with av.open(str(source)) as old, av.open(str(target), "w", options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for i, packet in enumerate(packet for packet in old.demux(video=0) if packet.size):
            if pts:
                packet.pts = packet.dts = pts[i]
            packet.stream = stream
            new.mux(packet)


def _truncated(whole: pathlib.Path, tenth: int) -> Video:
    path = whole.with_name(f"{whole.stem}, {tenth}0 % of it.mp4")
    content = whole.read_bytes()
    path.write_bytes(content[: len(content) * tenth // 10])
    return Video(path, True, "" if tenth else "is empty")


def _flipped(whole: pathlib.Path, seed: int) -> Video:
    path = whole.with_name(f"flipped {seed}.mp4")
    content, rng = np.frombuffer(whole.read_bytes(), np.uint8).copy(), np.random.default_rng(seed)
    offsets = rng.choice(len(content), 1 + 4 * (seed % 4), replace=False)
    content[offsets] ^= (1 << rng.integers(8, size=len(offsets))).astype(np.uint8)
    path.write_bytes(content.tobytes())
    return Video(path, None)


def _zeroed(whole: pathlib.Path, part: int) -> Video:
    path = whole.with_name(f"zeroed {part}.mp4")
    content = bytearray(whole.read_bytes())
    start = len(content) * (2 * part + 1) // 8
    length = len(content) // 16
    content[start : start + length] = bytes(length)
    path.write_bytes(content)
    return Video(path, None)


def _cut_at_packet(folder: pathlib.Path) -> Video:
    path = folder / "cut at a packet.mp4"
    write_clip(path, num_frames=NUM_FRAMES)
    cut_at_packet(path)
    return Video(path, True, "cut off: ")


def _of_other_kinds(folder: pathlib.Path) -> list[Video]:
    (folder / "text.mp4").write_text("not a video " * 100)
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
    (folder / "a folder.mp4").mkdir()
    with av.open(str(folder / "audio only.mp4"), "w") as container:
        write_silence(container, container.add_stream("aac", rate=8000, layout="mono"))
    return [
        Video(folder / "missing.mp4", True, "missing"),
        Video(folder / "a folder.mp4", True, "folder"),
        Video(folder / "text.mp4", True, "damaged or not a video"),
        Video(folder / "noise.mp4", True, "damaged or not a video"),
        Video(folder / "audio only.mp4", True, "no video track"),
    ]


def _of_other_shapes(folder: pathlib.Path, good: pathlib.Path) -> list[Video]:
    def encode(name: str, codec: str, size=(48, 64), num_frames=NUM_FRAMES, pix_fmt="yuv420p", **options) -> Video:
        path = folder / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=30, options=options)
            stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
            for i in range(num_frames):
                image = np.full((size[1], size[0], 3), 60, np.uint8)
                image[i : i + 8, 3:11] = 220
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        return Video(path, num_frames=num_frames)

    quiet = {"x265-params": "log-level=none"}
    made = [
        encode("hevc.mp4", "libx265", (64, 64), **quiet),  # x265 ends the process at sides below 64
        encode("vp9.mp4", "libvpx-vp9"),
        encode("vp9.webm", "libvpx-vp9"),
        encode("mpeg4.avi", "mpeg4"),
        encode("one frame.mp4", "libx264", num_frames=1),
        encode("one frame.webm", "libvpx-vp9", num_frames=1),
        encode("odd sides.mp4", "libx264", (33, 51), pix_fmt="yuv444p"),
        encode("ten bits.mp4", "libx264", pix_fmt="yuv420p10le"),
        encode("flat.mp4", "libx264", (320, 16)),
        encode("tiny.mp4", "mpeg4", (2, 2)),
    ]
    shutil.copy(folder / "mpeg4.avi", folder / "an avi.mp4")
    shutil.copy(good, folder / "an mp4.dat")
    shutil.copy(good, folder / "rotated.mp4")
    set_rotation(folder / "rotated.mp4", 90)
    shutil.copy(good, folder / "naïve 名前 #1 (50%).mp4")
    steps = np.random.default_rng(0).integers(1, 2000, NUM_FRAMES)
    _remux(good, folder / "variable frame rate.mp4", {}, pts=np.cumsum(steps).tolist())
    names = ("an avi.mp4", "an mp4.dat", "rotated.mp4", "naïve 名前 #1 (50%).mp4", "variable frame rate.mp4")
    return made + [Video(folder / name) for name in names]


def _claims(good: pathlib.Path) -> list[Video]:
    """Files whose headers claim what is not there."""
    content = good.read_bytes()

    def write(name: str, atom: bytes, offset: int, value: int) -> pathlib.Path:
        path, changed = good.with_name(name), bytearray(content)
        struct.pack_into(">I", changed, content.index(atom) + offset, value)
        path.write_bytes(changed)
        return path

    return [
        Video(write("no frames.mp4", b"stsz", 12, 0), True),
        Video(write("claims samples.mp4", b"stsz", 12, 0x7FFFFFFF), None),
        Video(write("claims duration.mp4", b"mdhd", 20, 0xFFFFFFFF), None),
        Video(write("claims one long frame.mp4", b"stts", 16, 0x7FFFFFFF), None),
        Video(write("claims many frames.mp4", b"stts", 12, 0x7FFFFFFF), None),
        Video(write("claims a huge picture.mp4", b"tkhd", 80, 0xFFFF0000), None),
        Video(write("claims a huge index.mp4", b"moov", -4, 0x7FFFFFFF), None),
    ]


def _of_containers(folder: pathlib.Path) -> list[Video]:
    """Each container whole, cut off, and with a hole."""
    found = []
    for name, codec in CODECS.items():
        whole = numbered.write(folder / f"container.{name}", range(NUM_FRAMES), codec=codec)
        content = whole.read_bytes()
        found.append(Video(whole))
        cut, hole = folder / f"cut.{name}", folder / f"hole.{name}"
        cut.write_bytes(content[: int(len(content) * 0.7) + 1])
        # A program stream may end between two pictures, where nothing tells.
        found.append(Video(cut, None if name == "mpg" else True, "" if name == "mpg" else "cut off: "))
        middle = len(content) // 2
        hole.write_bytes(content[:middle] + bytes(200) + content[middle + 200 :])
        found.append(Video(hole, None))
    return found


def _of_other_times(folder: pathlib.Path) -> list[Video]:
    """Files whose frames are not one after the other from 0 at a stated rate."""
    milliseconds, numbers = Fraction(1, 1000), range(NUM_FRAMES)
    slowing = [33 * i + 5 * i * i for i in numbers]
    gaps = [133 * i for i in numbers]
    made = [
        numbered.write(folder / "slowing.mp4", numbers, times=slowing, unit=milliseconds),
        numbered.write(folder / "slowing.mkv", numbers, times=slowing, unit=milliseconds),
        numbered.write(folder / "gaps.mkv", numbers, times=gaps, unit=milliseconds),
        numbered.write(folder / "gaps.avi", numbers, times=[4 * i for i in numbers], codec="mpeg4"),
        numbered.write(folder / "pictures in order of decoding.avi", numbers),
        numbered.write(folder / "browser.webm", numbers, codec="libvpx", options={"live": "1"}),
        numbered.write(folder / "fragments.mp4", numbers, options={"movflags": "frag_keyframe+empty_moov"}),
        numbered.write(folder / "late.ts", numbers, options={"output_ts_offset": "7"}),
        numbered.write(folder / "late.mkv", numbers, options={"output_ts_offset": "7"}),
        numbered.write(folder / "camera.m2ts", numbers),
        numbered.write(folder / "disc.vob", numbers, codec="mpeg2video"),
        numbered.write(folder / "phone.3gp", numbers),
    ]
    mirrored = numbered.write(folder / "mirrored.mp4", numbers)
    numbered.set_matrix(mirrored, -1, 0, 0, 1)
    turned = numbered.write(folder / "turned and mirrored.mp4", numbers)
    numbered.set_matrix(turned, 0, 1, 1, 0)
    longer = numbered.write(folder / "before trimming.mp4", range(NUM_FRAMES + 10))
    trimmed = numbered.trim(longer, folder / "trimmed.mp4", 10)
    longer.unlink()
    return [Video(path) for path in (*made, mirrored, turned, trimmed)]
