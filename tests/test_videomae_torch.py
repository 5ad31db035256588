"""VideoMAE beside transformers', where PyTorch and transformers are installed."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch_reference import videomae as torch_videomae  # noqa: E402

from manet_jax.models import ClipSpec, ModelSpec  # noqa: E402
from manet_jax.models.variables import abstract_variables, merge, nest  # noqa: E402
from manet_jax.models.videomae import VideoMAEOptions  # noqa: E402
from manet_jax.pretrained import state_dict  # noqa: E402
from manet_jax.pretrained import videomae as weights  # noqa: E402
from manet_jax.pretrained.table import to_variables  # noqa: E402


def test_videomae_gives_transformers_outputs(tmp_path):
    clip = ClipSpec(num_frames=6, short_side=48, crop_size=48)
    options = VideoMAEOptions(num_classes=5, depth=3, width=128, num_heads=2, clip=clip)
    torch.manual_seed(0)
    model = torch_videomae.VideoMAE(options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    model.network.save_pretrained(tmp_path)
    state, _ = state_dict.read(tmp_path / "model.safetensors")
    found = weights.TRANSFORMERS.options_from(state)
    spec = ModelSpec("videomae", options)
    assert (found.depth, found.width, found.num_heads, found.num_classes) == (3, 128, 2, 5)
    variables = to_variables(state, spec, weights.TRANSFORMERS, "transformers'")
    video = np.random.default_rng(0).integers(0, 256, (2, 6, 48, 48, 3), np.uint8)
    network = merge(abstract_variables(spec)[0], nest(variables) | {"batch_stats": {}})
    ours = jax.jit(lambda video: network({"video": video}).logits)(video)
    with torch.no_grad():
        theirs = model(torch.tensor(video)).numpy()
    difference = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
    assert difference < 1e-5


def test_reference_trains():
    clip = ClipSpec(num_frames=4, short_side=32, crop_size=32)
    model = torch_videomae.VideoMAE(VideoMAEOptions(num_classes=3, depth=1, width=64, num_heads=1, clip=clip))
    optimizer = torch_videomae.create_optimizer(model, 1e-3)
    video = torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    losses = [torch_videomae.train_step(model, optimizer, video, torch.tensor([0, 2])) for _ in range(5)]
    assert losses[-1] < losses[0]
