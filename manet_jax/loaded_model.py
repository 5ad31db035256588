"""A trained model for notebooks and for prediction."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from manet_jax import checkpoint as checkpoint_lib
from manet_jax import inference, parallel
from manet_jax.data.views import Views
from manet_jax.inference import Prediction
from manet_jax.models import ClipSpec, Outputs
from manet_jax.models.variables import merge
from manet_jax.run_metadata import RunMetadata
from manet_jax.tasks import Task
from tfds_ma52.labels import LabelSet

# A batch of clips by the key of the network's inputs: RGB frames, 0..255.
Inputs = dict[str, UInt8[Array | np.ndarray, "_ _ _ _ 3"]]


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A trained model: `model({"video": video}) -> Outputs`.

    Attributes:
      network: in evaluation mode.
      metadata: of its run: model, labels, config, versions, evaluations, step.
    """

    network: Any
    metadata: RunMetadata

    @property
    def labels(self) -> LabelSet:
        """Its classes and their body groups."""
        return self.metadata.labels

    @property
    def members(self) -> "tuple[LoadedModel, ...]":
        """Itself alone: an ensemble of one, see `ensemble.Ensemble`."""
        return (self,)

    @property
    def weights(self) -> tuple[float, ...]:
        """That of itself in `members`."""
        return (1.0,)

    @functools.cached_property
    def tasks(self) -> tuple[Task, ...]:
        """Its tasks: of actions, of emotions, or both."""
        return self.metadata.tasks()

    @property
    def emotions(self) -> tuple[str, ...]:
        """Names of its emotions; empty where it recognises none."""
        return next((task.labels.names for task in self.tasks if task.name == "emotions"), ())

    @property
    def inputs(self) -> dict[str, ClipSpec]:
        """The clip specification of each input, by its key."""
        return self.metadata.model.options.inputs

    @property
    def views(self) -> Views:
        """The views of a video over which its run's evaluations average; a single one for converted weights."""
        section = self.metadata.config.get("eval", {})
        return Views(
            **{field.name: section[field.name] for field in dataclasses.fields(Views) if field.name in section}
        )

    def predict(self, videos: str | os.PathLike | Sequence[str | os.PathLike], **options: Any) -> list[Prediction]:
        """Predicts the actions and emotions in a video file or in several.

        Args:
          videos: the files.
          **options: the others of `inference.predict`, such as `window`, `boxes` and `views`.

        Returns:
          A `Prediction` for each video, and one for each window of a video of more than `inference.LONG` seconds.
          That of a file that cannot be read has an `error`.
        """
        several = [videos] if isinstance(videos, str | os.PathLike) else list(videos)
        return list(inference.predict(self, several, **options))

    def __call__(self, inputs: Inputs) -> Outputs:
        """Returns the network's outputs for clips: `logits`, and `embedding`, `emotion` where it has them."""
        return self._forward(inputs)

    @property
    def has_class_maps(self) -> bool:
        """Whether there are class activation maps: the classifier must be linear on pooled features."""
        return hasattr(self.network, "class_maps")

    def class_maps(self, inputs: Inputs) -> Float[Array, "b t3 h3 w3 n"]:
        """Returns the logits of each location of each frame for each action.

        For a model of emotions by appearance alone they are those of each emotion.
        """
        return self._class_maps(inputs)

    @functools.cached_property
    def _class_maps(self) -> Callable[[Inputs], Array]:
        return self._compile(lambda network, inputs: network.class_maps(inputs))

    @functools.cached_property
    def _forward(self) -> Callable[[Inputs], Outputs]:
        return self._compile(lambda network, inputs: network(inputs))

    def _compile(self, apply: Callable[[Any, Inputs], Any]) -> Callable[[Inputs], Any]:
        graphdef, variables = nnx.split(self.network)
        run = jax.jit(
            lambda variables, inputs: apply(nnx.merge(graphdef, variables), inputs),
            compiler_options=parallel.compiler_options(),
        )
        return functools.partial(run, variables)


def load_model(workdir: str | pathlib.Path, checkpoint: str = "best") -> LoadedModel:
    """Loads a model that was trained in `workdir`.

    Args:
      workdir: of the run, or of converted weights.
      checkpoint: "best" (by its primary metric on the evaluation split) or "latest".

    Raises:
      UserError: there is no such checkpoint.
    """
    saved = checkpoint_lib.read_model(workdir, checkpoint)
    return LoadedModel(merge(saved.graphdef, saved.variables), saved.metadata)
