import io

import av
import decord
import numpy as np
import pytest
from helpers import stored, write_clip

from manet_jax.data import decoding
from tfds_ma52.encoding import encode_h264
from tfds_ma52.video import DamagedVideoError

DECODERS = (decoding.decode_h264, decoding.decode_original)


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("width", [16, 24, 32, 48, 64, 96, 100, 144, 308])
def test_frames_of_any_width_as_another_decoder(tmp_path, width, decode):
    write_clip(tmp_path / "a.mp4", num_frames=5, height=64, width=width)
    with av.open(str(tmp_path / "a.mp4")) as container:
        expected = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    video = stored((tmp_path / "a.mp4").read_bytes(), decode)
    assert video.num_frames == 5
    frames = video.frames(np.array([4, 0, 0, 2]))
    np.testing.assert_allclose(frames.astype(int), expected[[4, 0, 0, 2]], atol=2)


@pytest.mark.parametrize("decode", DECODERS)
def test_decoders_are_right_among_many_key_frames(decode):
    """Scene cuts: decord, left to find its way from key frame to key frame, returns others."""
    # A fade, and noise above it that makes the encoder see a new scene now and then.
    frames = np.empty((32, 64, 48, 3), np.uint8)
    frames[:] = 120 + 4 * np.arange(32)[:, None, None, None]
    frames[:, :32] = np.random.default_rng(0).integers(0, 255, (32, 4, 6, 1)).repeat(8, 1).repeat(8, 2)
    content = encode_h264(frames, preset="veryfast")[0]  # which looks for scenes
    with av.open(io.BytesIO(content)) as container:
        shown = list(container.decode(video=0))
    assert 2 < len(decord.VideoReader(io.BytesIO(content)).get_key_indices()) < 32
    indices = np.arange(2, 32, 4)
    expected = np.stack([shown[i].to_ndarray(format="rgb24") for i in indices])
    np.testing.assert_array_equal(decode(content, indices), expected)


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("content", [b"", b"not a video" * 50])
def test_decoders_refuse_what_is_no_video(content, decode):
    with pytest.raises(DamagedVideoError):
        decode(content, np.arange(1))


@pytest.mark.parametrize("decode", DECODERS)
def test_decoders_refuse_a_frame_after_the_end(tmp_path, decode):
    write_clip(tmp_path / "a.mp4", num_frames=5)
    with pytest.raises(DamagedVideoError, match=r"StopIteration|it ends before frame 5"):
        decode((tmp_path / "a.mp4").read_bytes(), np.array([0, 5]))
