import os
import pathlib
import signal
import subprocess
import sys
import time
import weakref

import av
import numpy as np
import pytest
from helpers import cut_at_packet, set_rotation, write_clip, write_silence

from tfds_ma52 import transcode, video
from tfds_ma52.clip_frames import ClipFrames
from tfds_ma52.encoding import VideoInfo
from tfds_ma52.video import DamagedVideoError, Frame


def decode(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_transcode_keeps_frames_and_drops_sound(tmp_path):
    write_clip(tmp_path / "in.mp4", num_frames=17, height=120, width=80, audio=True)
    content, info = transcode.transcode(ClipFrames(tmp_path / "in.mp4"), short_side=40)
    assert info == VideoInfo(num_frames=17, height=60, width=40)
    (tmp_path / "out.mp4").write_bytes(content)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert not container.streams.audio
        assert container.streams.video[0].codec.name == "h264"
        assert not container.streams.video[0].codec_context.has_b_frames
    frames, originals = decode(tmp_path / "out.mp4"), decode(tmp_path / "in.mp4")
    assert frames.shape == (17, 60, 40, 3)
    assert np.abs(frames.mean((1, 2)) - originals.mean((1, 2))).max() < 3  # same pictures in the same order


def test_transcode_keeps_small_sizes_but_for_even_sides(tmp_path):
    write_clip(tmp_path / "in.mp4", height=64, width=48)
    assert transcode.transcode(ClipFrames(tmp_path / "in.mp4"), short_side=256)[1] == VideoInfo(20, 64, 48)
    assert transcode.even_size((1296, 1080), 256) == (308, 256)
    assert transcode.even_size((33, 51), 256) == (32, 52)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_transcode_applies_the_rotation(tmp_path, degrees):
    path = tmp_path / "in.mp4"
    write_clip(path, num_frames=3, height=64, width=48)
    upright = decode(path)
    set_rotation(path, degrees)
    with av.open(str(path)) as container:
        turn = next(container.decode(video=0)).rotation  # counter-clockwise, as FFmpeg reports it
    assert turn % 180 == degrees % 180
    expected = np.rot90(upright, turn // 90, axes=(1, 2))
    np.testing.assert_array_equal(np.stack([f.picture.image() for f in video.read_frames(path)]), expected)
    assert transcode.transcode(ClipFrames(path), 256)[1] == VideoInfo(3, *expected.shape[1:3])


def damaged_video(path, damage):
    """Makes a damaged file; returns the expected error."""
    if damage == "missing":
        return "the file is missing"
    if damage == "audio only":
        with av.open(str(path), "w", format="mp4") as container:
            write_silence(container, container.add_stream("aac", rate=8000, layout="mono"))
        return "the file has no video track"
    write_clip(path, num_frames=30)
    content = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
        return "the file is empty"
    if damage == "text":
        path.write_text("not a video " * 100)
        return "the file is damaged or not a video (Invalid data found when processing input)"
    if damage == "no index":  # the index of these files is at their end
        path.write_bytes(content[: len(content) // 2])
        announced = int.from_bytes(content[content.index(b"mdat") - 4 :][:4], "big") + content.index(b"mdat") - 4
        return f"the file is cut off: {len(content) // 2} of its {announced} bytes are there"
    if damage == "zeroed":
        start = content.index(b"mdat") + 600
        path.write_bytes(content[:start] + bytes(500) + content[start + 500 :])
        return "the file is damaged or not a video (Invalid data found when processing input)"
    assert damage == "cut at a packet"
    whole = cut_at_packet(path)
    return f"the file is cut off: {path.stat().st_size} of its {whole} bytes are there"


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "audio only", "no index", "zeroed", "cut at a packet"])
def test_transcode_and_inspect_report_damage(tmp_path, damage):
    path = tmp_path / "in.mp4"
    message = damaged_video(path, damage)
    for read in (transcode.inspect, lambda clip: transcode.transcode(clip, 32)):
        with pytest.raises(DamagedVideoError) as error:
            read(ClipFrames(path))
        assert str(error.value) == message


def test_inspect_ignores_odd_metadata(tmp_path):
    write_clip(tmp_path / "a.mp4", num_frames=3, title="caf\u00e9")
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(content.replace("caf\u00e9".encode(), b"caf\xe9\xe9"))
    assert transcode.inspect(ClipFrames(tmp_path / "a.mp4")).num_frames == 3


def test_prepare_videos_reports_an_odd_file_and_continues(tmp_path):
    (tmp_path / ("n" * 300)).parent.mkdir(exist_ok=True)
    write_clip(tmp_path / "a.mp4", num_frames=3)
    paths = [(tmp_path / ("n" * 300 + ".mp4"), tmp_path / "out" / "0"), (tmp_path / "a.mp4", tmp_path / "out" / "1")]
    jobs = [(ClipFrames(source), target) for source, target in paths]
    odd, fine = transcode.prepare_videos(jobs, form="original", short_side=32, num_processes=1)
    assert odd.startswith("the file cannot be read (OSError")
    assert fine == VideoInfo(3, 64, 48)


def test_process_pool_workers_end_with_a_killed_parent(tmp_path):
    code = (
        "import os, time\nfrom tfds_ma52.pool import process_pool\n"
        "if __name__ == '__main__':\n"
        "    pool = process_pool(1)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    (tmp_path / "script.py").write_text(code)
    process = subprocess.Popen([sys.executable, str(tmp_path / "script.py")], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    assert _is_running(worker)
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while _is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    if _is_running(worker):
        os.kill(worker, signal.SIGKILL)
        pytest.fail("the worker outlived its parent")


def test_prepare_videos_stops_in_the_middle_of_a_video(tmp_path):
    write_clip(tmp_path / "in.mp4", num_frames=120, height=256, width=256)
    code = (
        "import pathlib, sys\nfrom tfds_ma52 import transcode\nfrom tfds_ma52.clip_frames import ClipFrames\n"
        "if __name__ == '__main__':\n"
        "    root = pathlib.Path(sys.argv[1])\n"
        "    spans = [(i / 100, 2 + i / 100) for i in range(200)]\n"
        "    jobs = [(ClipFrames(root / 'in.mp4', span), root / 'out' / str(i)) for i, span in enumerate(spans)]\n"
        "    transcode.prepare_videos(jobs, form='h264', short_side=256, num_processes=1)\n"
    )
    (tmp_path / "script.py").write_text(code)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / "1.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate()[1]
    assert 2 <= len(list((tmp_path / "out").glob("*.json"))) < 50


def _is_running(process):
    try:
        return ") Z " not in pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


def test_prepare_videos_resumes_on_two_processes(tmp_path, capfd):
    for i in range(3):
        write_clip(tmp_path / f"{i}.mp4", num_frames=5 + i, seed=i)
    (tmp_path / "1.mp4").write_bytes(b"")
    jobs = [(ClipFrames(tmp_path / f"{i}.mp4"), tmp_path / "out" / str(i)) for i in range(3)]
    expected = [VideoInfo(5, 42, 32), "the file is empty", VideoInfo(7, 42, 32)]
    assert transcode.prepare_videos(jobs, form="h264", short_side=32, num_processes=2) == expected
    assert "transcoding clips: 100%" in capfd.readouterr().err

    times = {i: (tmp_path / "out" / f"{i}.content").stat().st_mtime_ns for i in (0, 2)}
    write_clip(tmp_path / "2.mp4", num_frames=9)  # changed since
    expected[2] = VideoInfo(9, 42, 32)
    assert transcode.prepare_videos(jobs, form="h264", short_side=32, num_processes=1) == expected
    again = {i: (tmp_path / "out" / f"{i}.content").stat().st_mtime_ns for i in (0, 2)}
    assert again[0] == times[0]
    assert again[2] > times[2]


@pytest.mark.parametrize("broken", [False, True])
def test_parts_of_a_video_are_those_that_are_read_alone(tmp_path, broken):
    path = tmp_path / "in.mp4"
    write_clip(path, num_frames=60)  # 2 s
    if broken:
        content = path.read_bytes()
        start = content.index(b"mdat")
        end = start - 4 + int.from_bytes(content[start - 4 : start], "big")
        path.write_bytes(content[: end - 100] + bytes(100) + content[end:])  # of the last pictures
    spans = [(1.5, 2.0), (0.0, 0.5), (0.25, 0.75), (0.25, 0.3), (0.51, 0.515), (1.0, 1.9), (2.5, 3.0)]
    clips = [ClipFrames(path, span) for span in spans]
    jobs = [(clip, tmp_path / str(i)) for i, clip in enumerate(clips)]
    infos = transcode.prepare_videos(jobs, form="jpeg", short_side=32, num_processes=1)
    alone = [read_alone(clip) for clip in clips]
    for (_, target), info, expected in zip(jobs, infos, alone, strict=True):
        assert info == expected[-1]
        if len(expected) == 2:
            assert transcode.content_path(target).read_bytes() == expected[0]
    faults = sum(len(expected) == 1 for expected in alone)
    assert 1 + broken <= faults < len(spans)  # the last one lies behind the end


def test_tape_keeps_no_frame_that_lies_before_a_part():
    """Where a run resumes near the end of a long video, these would fill the memory."""
    pictures = []

    def frames():
        for i in range(100):
            picture = np.full((2, 2, 3), i, np.uint8)
            pictures.append(weakref.ref(picture))
            yield Frame(float(i), i + 1.0, picture)

    tape = transcode.Tape(frames())
    assert [frame.start for frame in tape.between(90.0, 92.0)] == [90, 91]
    assert [i for i, picture in enumerate(pictures) if picture() is not None] in ([90, 91, 92], [89, 90, 91, 92])
    assert [frame.start for frame in tape.between(91.0, 94.0)] == [91, 92, 93]


def read_alone(clip):
    try:
        return transcode.transcode(clip, 32, "jpeg")
    except DamagedVideoError as error:
        return (str(error),)
