"""The networks. Nothing here imports anything else of this project.

A network over one clip is a class in `MODELS`, held to this contract by tests/test_models.py:

- `Options` is a frozen `NetworkOptions`: defaults, checks, and `tiny()` for tests. Its `clip` (`ClipSpec`) is what the
  network was designed to see; `inputs` gives it by the key of the input. Its `layers` are the paths of modules and
  parameters, `(("stem",), ("blocks.0",), ..., ("heads",))`, from the input to the heads, each parameter in one of them;
  without them the learning rate is the same for all.
- A parameter named `kernel` decays; biases, norms (modules named `bn` or `...norm...`) and all else do not.
- `Network(options, rngs=rngs)` has fresh weights. It is in evaluation mode; `nnx.view(network, train=True)` trains.
- `network(inputs, keys=None)` takes {"video": uint8 [b, t, h, w, 3]}, RGB, 0..255, and returns `Outputs`. It normalises
  the pixels itself. `keys`, one random key a clip, are for dropout and drop path; None drops nothing.
- `network.features(video)` returns feature maps [b, t, h, w, c], where there are any.
- `network.heads` is a `layers.Heads`: what lies below that name belongs to a task, all else is the backbone. Where the
  classifier is linear on features that are averaged over space and time, `network.class_maps(inputs)` returns the
  logits of each location, [b, t, h, w, n].

`EmotionNet` is a network over two of them: its `inputs` has two entries, and it has no heads of its own.

A new network is a module here and an entry in `MODELS`, a table in `pretrained/`, and a config in configs/models/.
"""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from manet_jax.models.c3d import C3D
from manet_jax.models.emotion import EmotionNet
from manet_jax.models.gc_tsm import GCTSM
from manet_jax.models.i3d import I3D
from manet_jax.models.manet import MANet
from manet_jax.models.options import ClipSpec, ModelSpec, NetworkOptions, OptionError
from manet_jax.models.outputs import Outputs
from manet_jax.models.slowfast import SlowFast
from manet_jax.models.swin import Swin
from manet_jax.models.timesformer import TimeSformer
from manet_jax.models.tin import TIN
from manet_jax.models.uniformer import UniFormer
from manet_jax.models.videomae import VideoMAE

__all__ = ["MODELS", "ClipSpec", "ModelSpec", "NetworkOptions", "OptionError", "Outputs", "create", "spec_from_json"]

MODELS: dict[str, Any] = {
    "manet": MANet,
    "c3d": C3D,
    "i3d": I3D,
    "slowfast": SlowFast,
    "tin": TIN,
    "gc_tsm": GCTSM,
    "timesformer": TimeSformer,
    "videomae": VideoMAE,
    "uniformer": UniFormer,
    "swin": Swin,
    "emotion": EmotionNet,
}


def create(spec: ModelSpec, rngs: nnx.Rngs) -> Any:
    """Makes a network with fresh weights, in evaluation mode."""
    return MODELS[spec.name](spec.options, rngs=rngs)


def spec_from_json(value: Mapping[str, Any]) -> ModelSpec:
    """Reads what `ModelSpec.to_json` wrote.

    Raises:
      KeyError: there is no such network.
      TypeError, OptionError: it has no such options.
    """
    return ModelSpec(value["name"], MODELS[value["name"]].Options.from_json(value["options"]))
