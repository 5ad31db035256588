"""Networks beside those of transformers and torchvision, where PyTorch and these are installed."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch_reference import published  # noqa: E402

from manet_jax import pretrained  # noqa: E402
from manet_jax.models import MODELS, ClipSpec, ModelSpec  # noqa: E402
from manet_jax.models.variables import abstract_variables, merge, nest  # noqa: E402
from manet_jax.pretrained import state_dict  # noqa: E402
from manet_jax.pretrained.table import recognise, to_variables  # noqa: E402

VIT = {"depth": 3, "width": 128, "num_heads": 2}


@pytest.mark.parametrize(
    ("name", "package", "options"),
    [
        ("timesformer", "transformers", {**VIT, "table_frames": 6, "table_size": 48}),
        ("videomae", "transformers", VIT),
        ("swin", "torchvision", {"depth": 2, "width": 32, "num_heads": 2, "window_frames": 2}),
    ],
)
def test_network_gives_the_outputs_of_another_package(tmp_path, name, package, options):
    pytest.importorskip(package)
    clip = ClipSpec(num_frames=6, short_side=48, crop_size=48)
    options = MODELS[name].Options(num_classes=5, clip=clip, **options)
    torch.manual_seed(0)
    model = getattr(published, name)(options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    torch.save(model.network.state_dict(), tmp_path / "weights.pth")
    state, _ = state_dict.read(tmp_path / "weights.pth")
    table = recognise(state, pretrained.TABLES, "the file")
    assert table.title.startswith(package)
    found = table.options_from(state)
    for field in ("depth", "width", "num_heads", "num_classes"):
        assert getattr(found, field) == getattr(options, field), field
    spec = ModelSpec(name, options)
    variables = nest(to_variables(state, spec, table, package)) | {"batch_stats": {}}
    graphdef, _ = abstract_variables(spec)
    video = np.random.default_rng(0).integers(0, 256, (2, 6, 48, 48, 3), np.uint8)
    ours = jax.jit(lambda variables, video: merge(graphdef, variables)({"video": video}).logits)(variables, video)
    with torch.no_grad():
        theirs = model(torch.tensor(video))[0].numpy()
    assert np.abs(np.asarray(ours) - theirs).max() < 1e-5 * np.abs(theirs).max()
