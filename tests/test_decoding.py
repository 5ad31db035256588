import av
import numpy as np
import pytest
from helpers import write_clip

from manet_jax.data import decoding


@pytest.mark.parametrize("width", [16, 24, 32, 48, 64, 96, 100, 144, 308])
def test_decode_frames_of_any_width_as_another_decoder(tmp_path, width):
    write_clip(tmp_path / "a.mp4", num_frames=5, height=64, width=width)
    with av.open(str(tmp_path / "a.mp4")) as container:
        expected = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    video = decoding.open_video((tmp_path / "a.mp4").read_bytes())
    assert len(video) == 5
    frames = decoding.decode_frames(video, np.array([4, 0, 0, 2]))
    np.testing.assert_allclose(frames.astype(int), expected[[4, 0, 0, 2]], atol=2)


@pytest.mark.parametrize("content", [b"", b"not a video" * 50])
def test_open_video_refuses_what_is_none(content):
    with pytest.raises(decoding.UnreadableVideoError):
        decoding.open_video(content)
