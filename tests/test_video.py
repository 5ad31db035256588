"""Files from outside: frames by their time stamps, upright, and none missing without a word."""

import io
import pathlib
import struct
from fractions import Fraction

import av
import corpus
import numpy as np
import pytest
from av.stream import Disposition
from helpers import read_video, write_silence
from numbered import HEIGHT, WIDTH, number_of, picture, set_matrix, trim, write
from saved_models import save, small

import tfds_ma52.__main__
from configs import ma52
from manet_jax import predict
from manet_jax.models import ClipSpec
from tfds_ma52 import transcode, video
from tfds_ma52.clip_frames import ClipFrames
from tfds_ma52.video import DamagedVideoError

INPUTS = {"video": ClipSpec(num_frames=8, short_side=HEIGHT, crop_size=HEIGHT)}


def numbers(frames):
    return [number_of(frame.picture.image()) for frame in frames]


def stored_numbers(path, span=None):
    """The numbers in what the build stores of a file."""
    content, info = transcode.transcode(ClipFrames(path, span), 256)
    with av.open(io.BytesIO(content)) as container:
        found = [number_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert info.num_frames == len(found)
    return found


def predicted(path, window=2.0, stride=1.0):
    """What prediction sees of a file: the first error, or spans and the clips' number of pictures."""
    return list(read_video(ClipFrames(path), INPUTS, window, stride, num_threads=1))


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),  # clockwise by 90 degrees, as phones held upright write it
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), lambda image: np.rot90(image)),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),  # mirrored, as some front cameras write it
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda image: image[::-1, ::-1].transpose(1, 0, 2)),
    ],
)
@pytest.mark.parametrize("seconds", [1, 11])
def test_frames_are_turned_and_mirrored_as_the_header_asks(tmp_path, matrix, upright, seconds):
    """In short and in long videos, in the build and in prediction."""
    path = write(tmp_path / "a.mp4", [3] * 4 * seconds, rate=4)
    (lying, *_) = (frame.picture.image() for frame in video.read_frames(path))
    set_matrix(path, *matrix)
    expected = np.ascontiguousarray(upright(lying))
    np.testing.assert_array_equal(next(video.read_frames(path)).picture.image(), expected)
    assert transcode.transcode(ClipFrames(path), 256)[1].height == expected.shape[0]
    spec = {"video": ClipSpec(num_frames=2, short_side=min(expected.shape[:2]), crop_size=HEIGHT)}
    loaded = next(read_video(ClipFrames(path), spec, 2.0, 1.0, num_threads=1))
    assert loaded.windowed == (seconds > 10)
    top, left = ((side - HEIGHT) // 2 for side in expected.shape[:2])
    np.testing.assert_array_equal(loaded.clips[0][0]["video"][0], expected[top : top + HEIGHT, left : left + HEIGHT])


def test_a_span_is_cut_by_time_stamps_where_the_rate_varies(tmp_path):
    """Ten seconds at 30 frames/s, then twenty at 5: frames show their second."""
    times = [round(i * 1000 / 30) for i in range(300)] + [10_000 + i * 200 for i in range(100)]
    path = write(tmp_path / "a.mp4", [time // 1000 for time in times], times=times, unit=Fraction(1, 1000))
    assert stored_numbers(path, (15.0, 17.0)) == [15] * 5 + [16] * 5
    assert numbers(video.frames_between(video.read_frames(path), 9.0, 11.0)) == [9] * 30 + [10] * 5
    loaded = predicted(path)
    assert [each.span for each in loaded[:28]] == [(i, i + 2) for i in range(28)]
    assert loaded[28].span[1] == pytest.approx(29.8 + 1 / 30, abs=0.01)  # the header's duration of the last frame
    # Frames of 8 parts of the window from 15 to 17 s: of ten frames numbers 0, 1, 3, 4, 5, 6, 8, 9.
    window = loaded[15].clips[0][0]["video"]
    assert window.shape == (8, HEIGHT, HEIGHT, 3)
    bars = window[:, int(HEIGHT * 0.75), HEIGHT // 2 - 24]  # the second bar: 15 has it, 16 has not
    assert (bars.mean(-1) > 125).tolist() == [True] * 4 + [False] * 4


@pytest.mark.parametrize(("name", "codec", "unit"), [("a.avi", "mpeg4", 30), ("a.mkv", "libx264", 1000)])
def test_a_video_with_dropped_frames_keeps_its_length(tmp_path, name, codec, unit):
    """150 frames in forty seconds, where the header announces 30 a second."""
    ticks = [8 * i for i in range(150)]
    times = [round(tick * unit / 30) for tick in ticks]
    path = write(tmp_path / name, [t // 30 for t in ticks], times=times, unit=Fraction(1, unit), codec=codec)
    *_, last = video.read_frames(path)
    assert last.start == pytest.approx(149 * 8 / 30, abs=1e-3)
    # Frames are shown for 8/30 s; the middle of the 15th, at 3.87 s, is the last before second 4.
    assert numbers(video.frames_between(video.read_frames(path), 2.0, 4.0)) == [t // 30 for t in ticks[7:15]]
    loaded = predicted(path)
    assert len(loaded) == 39
    assert loaded[-1].span[1] == pytest.approx(39.77, abs=0.3)


def test_a_span_within_one_long_frame_shows_it(tmp_path):
    """A picture that stands still for twenty seconds."""
    path = write(tmp_path / "a.mp4", [1, 2, 3], times=[0, 1000, 21_000], unit=Fraction(1, 1000))
    frames = lambda start, end: numbers(video.frames_between(video.read_frames(path), start, end))  # noqa: E731
    assert frames(5.0, 7.0) == [2]
    assert frames(10.0, 12.0) == [2]
    assert frames(0.0, 2.0) == [1]
    assert all(not each.error for each in predicted(path))
    with pytest.raises(DamagedVideoError, match=r"^the file has no frame from second 50.00 on$"):
        frames(50.0, 52.0)


@pytest.mark.parametrize("seconds", [1, 15])
def test_a_clip_trimmed_without_encoding_is_read_from_its_first_shown_frame(tmp_path, seconds):
    rate = 30 if seconds == 1 else 4
    path = trim(write(tmp_path / "a.mp4", range(rate * seconds), rate=rate), tmp_path / "cut.mp4", 10)
    expected = list(range(10, rate * seconds))
    assert numbers(video.read_frames(path)) == expected == stored_numbers(path)
    assert transcode.inspect(ClipFrames(path)).num_frames == len(expected)
    (first, *_) = video.read_frames(path)
    assert first.start == 0
    loaded = predicted(path)
    assert not any(each.error for each in loaded)
    assert loaded[-1].span[1] == pytest.approx(len(expected) / rate)


@pytest.mark.parametrize(
    ("name", "codec", "options", "known"),
    [
        ("browser.webm", "libvpx", {"live": "1"}, False),  # as a browser's recorder writes it
        ("camera.ts", "libx264", {}, False),
        ("camera.m2ts", "libx264", {}, False),
        ("camera.mpg", "mpeg2video", {}, False),
        ("fragments.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}, True),
        ("loop.gif", "gif", {}, True),
        ("late.nut", "libx264", {"output_ts_offset": "5"}, False),
    ],
)
def test_files_without_a_stated_duration_or_with_a_late_start_are_read(tmp_path, name, codec, options, known):
    path = write(tmp_path / name, range(30), codec=codec, options=options)
    frames = list(video.read_frames(path))
    assert [number_of(frame.picture.image()) for frame in frames] == list(range(30))
    np.testing.assert_allclose([frame.start for frame in frames], np.arange(30) / 30, atol=0.01)
    assert transcode.inspect(ClipFrames(path)).announces_length == known
    (loaded,) = predicted(path)
    assert (loaded.error, loaded.announces_length) == ("", known)
    assert loaded.span[1] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("suffix", corpus.CODECS)
def test_a_file_that_ends_early_is_reported_in_every_container(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", range(30), codec=corpus.CODECS[suffix])
    content = path.read_bytes()
    assert len(list(video.read_frames(path))) == 30
    for share in (0.3, 0.5, 0.7, 0.85):
        path.write_bytes(content[: int(len(content) * share) + 1])
        found, errors = [], set()
        for read in (transcode.inspect, lambda clip: transcode.transcode(clip, 256)[1]):
            try:
                found.append(read(ClipFrames(path)))
            except DamagedVideoError as error:
                errors.add(str(error))
        loaded = predicted(path)[-1]
        if suffix == "mpg" and not errors:  # cut between two pictures, where nothing tells
            assert [each.announces_length for each in (*found, loaded)] == [False] * 3
        else:
            (error,) = errors | {loaded.error}
            assert error.startswith("the file is cut off: ") or "damaged or not a video" in error


def test_where_nothing_announces_a_length_it_is_said(tmp_path):
    path = write(tmp_path / "a.ts", range(30))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 188 // 2 * 188])
    info = transcode.inspect(ClipFrames(path))
    assert 5 < info.num_frames < 30
    assert not info.announces_length


def test_h264_in_avi_rises_in_time(tmp_path):
    """AVI has no times of pictures: those of packets are in another order than the pictures."""
    path = write(tmp_path / "a.avi", range(20))
    frames = list(video.read_frames(path))
    assert [number_of(frame.picture.image()) for frame in frames] == list(range(20))
    starts = np.array([frame.start for frame in frames])
    assert (np.diff(starts) > 0).all()
    np.testing.assert_allclose(starts, np.arange(20) / 30, atol=0.08)


def test_frames_get_the_size_of_the_first(tmp_path):
    """As browsers' recordings change their size with the connection."""
    small, large = write(tmp_path / "1.ts", range(4)), tmp_path / "2.ts"
    with av.open(str(large), "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 2 * WIDTH, 2 * HEIGHT, "yuv420p"
        for i in range(4, 8):
            frame = av.VideoFrame.from_ndarray(picture(i, (2 * WIDTH, 2 * HEIGHT)), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (tmp_path / "both.ts").write_bytes(small.read_bytes() + large.read_bytes())
    frames = list(video.read_frames(tmp_path / "both.ts"))
    assert {frame.picture.image().shape for frame in frames} == {(HEIGHT, WIDTH, 3)}
    assert numbers(frames) == list(range(8))
    assert (np.diff([frame.start for frame in frames]) > 0).all()  # times start anew in the second


def test_a_cover_picture_is_not_the_video(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = WIDTH, HEIGHT, "rgb24", Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(picture(1), format="rgb24")))
        container.mux(cover.encode())
        write_silence(container, sound)
    with pytest.raises(DamagedVideoError, match=r"^the file has no video track$"):
        list(video.read_frames(tmp_path / "a.mp4"))


def test_sound_may_be_longer_than_the_pictures(tmp_path):
    """In FLV, whose header gives the longer duration; and pictures may start later than the sound."""
    write(tmp_path / "a.mp4", range(12))
    with av.open(str(tmp_path / "a.mp4")) as old, av.open(str(tmp_path / "a.flv"), "w") as new:
        pictures = new.add_stream_from_template(old.streams.video[0])
        sound = new.add_stream("aac", rate=8000, layout="mono")
        for packet in old.demux(video=0):
            if packet.size:
                second = int(1 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + second, packet.dts + second, pictures
                new.mux(packet)
        write_silence(new, sound, num_samples=24_000)
    frames = list(video.read_frames(tmp_path / "a.flv"))
    assert numbers(frames) == list(range(12))
    assert frames[-1].end == pytest.approx(0.4, abs=0.002)
    assert video.announces_length(tmp_path / "a.flv")


def test_an_empty_packet_lets_the_frame_before_stand(tmp_path):
    """As Theora repeats frames; NUT can hold such packets, too."""
    write(tmp_path / "a.nut", range(12), codec="mpeg4")
    with av.open(str(tmp_path / "a.nut")) as old, av.open(str(tmp_path / "b.nut"), "w") as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        for i, packet in enumerate(packet for packet in old.demux(video=0) if packet.size):
            kept = packet if i != 5 else av.Packet(b"")
            kept.pts, kept.dts, kept.time_base, kept.stream = packet.pts, packet.dts, packet.time_base, copy
            new.mux(kept)
    starts = [frame.start for frame in video.read_frames(tmp_path / "b.nut")]
    np.testing.assert_allclose(starts, np.delete(np.arange(12), 5) / 30, atol=1e-3)


@pytest.mark.parametrize("offset", [10_000, 2**33 / 90_000 - 1.6])
def test_a_transport_stream_continues_where_its_times_fall_back(tmp_path, offset):
    """A recording joined with one that started hours earlier; and times that start anew after 26 hours."""
    late = write(tmp_path / "late.ts", range(20), options={"output_ts_offset": str(offset)}).read_bytes()
    early = write(tmp_path / "early.ts", range(20, 40)).read_bytes()
    (tmp_path / "both.ts").write_bytes(late + early)
    frames = list(video.read_frames(tmp_path / "both.ts"))
    assert numbers(frames) == list(range(40))
    np.testing.assert_allclose([frame.start for frame in frames], np.arange(40) / 30, atol=0.01)


@pytest.mark.parametrize("name", ["12:30.mp4", "file:a.mp4"])
def test_a_file_with_a_colon_is_no_protocol(tmp_path, monkeypatch, name):
    write(tmp_path / "a.mp4", range(3)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert numbers(video.read_frames(pathlib.Path(name))) == [0, 1, 2]


def test_ten_seconds_are_short_whatever_rounding_makes_of_them(tmp_path):
    path = write(tmp_path / "a.ts", [1] * 600, rate=60)
    *_, last = video.read_frames(path)
    assert 10 < last.end < 10.000001
    (loaded,) = predicted(path)
    assert not loaded.windowed


def test_a_duration_that_a_header_claims_is_at_most_a_day(tmp_path):
    content = write(tmp_path / "a.mkv", range(3)).read_bytes()
    at = content.index(b"\x44\x89\x88") + 3  # the element of the duration
    (tmp_path / "a.mkv").write_bytes(content[:at] + struct.pack(">d", 1e12) + content[at + 8 :])  # milliseconds
    assert video.estimate_duration(tmp_path / "a.mkv") == 24 * 3600


def test_a_frame_days_after_the_first_is_refused(tmp_path):
    path = write(tmp_path / "a.mkv", [1, 2], times=[0, 100_000], unit=Fraction(1))
    with pytest.raises(DamagedVideoError, match=r"^the file announces a frame 28 hours after its first$"):
        list(video.read_frames(path))


def test_build_and_prediction_name_the_files_that_could_not_be_checked(tmp_path, capsys):
    names = ["a.ts", "b.ts", "c.ts", "d.ts"]
    assert video.unchecked(names[:1]) == "files that do not say how long they are may be cut off unnoticed: a.ts"
    assert video.unchecked(names).endswith(": a.ts, b.ts, c.ts and 1 more")

    for split in ("train", "val"):
        write((tmp_path / split).with_suffix(".ts"), range(12))
        (tmp_path / split).mkdir()
        (tmp_path / f"{split}.ts").rename(tmp_path / split / "x.ts")
        (tmp_path / f"{split}_list_videos.txt").write_text("x.ts 0\n")
    assert tfds_ma52.__main__.main(["--manual_dir", str(tmp_path), "--num_processes", "1"]) == 0
    expected = video.unchecked([f"{tmp_path}/train/x.ts", f"{tmp_path}/val/x.ts"])
    assert capsys.readouterr().out.splitlines()[-1] == f"  {expected}"

    workdir = save(tmp_path / "run", small(ma52.get_config()))
    assert predict.main(["--workdir", str(workdir), str(tmp_path / "val" / "x.ts")]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == f"manet_jax: {video.unchecked([f'{tmp_path}/val/x.ts'])}"
