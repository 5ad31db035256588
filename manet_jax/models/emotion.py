"""Emotion recognition from appearance, from micro-actions, or from both (paper, section on applications)."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from manet_jax import models
from manet_jax.models.options import ClipSpec, ModelSpec, at_least, raise_any
from manet_jax.models.outputs import Outputs, present


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmotionNetOptions:
    """Options of `EmotionNet`.

    Attributes:
      num_emotions: their number.
      micro_action: the network that recognises micro-actions, or None.
      appearance: the network that sees single frames, whose classes are the emotions, or None.
      frozen: the network of micro-actions stays as it is while the rest is trained.
    """

    num_emotions: int
    micro_action: ModelSpec | None = None
    appearance: ModelSpec | None = None
    frozen: bool = False

    def __post_init__(self):
        problems = at_least(self, num_emotions=2)
        if self.micro_action is None and self.appearance is None:
            problems.append("micro_action and appearance are both missing: give one or both")
        raise_any(problems)

    @property
    def inputs(self) -> dict[str, ClipSpec]:
        """The clip specification of each input, by its key."""
        parts = {"video": self.micro_action, "appearance": self.appearance}
        return {name: part.options.clip for name, part in parts.items() if part is not None}

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs for tasks, see `Outputs`."""
        return (*(self.micro_action.options.outputs if self.micro_action else ()), "emotion")

    @property
    def min_clips(self) -> int:
        """See `NetworkOptions.min_clips`."""
        trained = (None if self.frozen else self.micro_action, self.appearance)
        return max((part.options.min_clips for part in trained if part is not None), default=1)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "EmotionNetOptions":
        """Makes options from what JSON leaves of `dataclasses.asdict` of some."""
        read = {name: value[name] and models.spec_from_json(value[name]) for name in ("micro_action", "appearance")}
        options: dict[str, Any] = {**value, **read}
        return cls(**options)

    @classmethod
    def tiny(cls, **options) -> "EmotionNetOptions":
        """Both networks, small, for tests."""
        micro_action = ModelSpec("manet", models.MODELS["manet"].Options.tiny())
        clip = ClipSpec(num_frames=2, subset_of=4, short_side=40, crop_size=32)
        appearance = models.MODELS["manet"].Options.tiny(num_classes=4, embedding_dim=0, shift=False, clip=clip)
        tiny = cls(num_emotions=4, micro_action=micro_action, appearance=ModelSpec("manet", appearance))
        return dataclasses.replace(tiny, **options)


class EmotionNet(nnx.Module):
    """Recognises the emotion of a clip; the paper does not publish its network, this one is ours.

    From appearance: the classes of a network on single frames, which know nothing of each other. From micro-actions: a
    linear layer on the features and the probabilities of a network that recognises them. From both: the sum of the two
    logits, which is the best rule where appearance and micro-actions are independent given the emotion.
    """

    Options = EmotionNetOptions

    def __init__(self, options: EmotionNetOptions, *, rngs: nnx.Rngs):
        """Makes a model with fresh weights, which the stream `params` draws."""
        self.options = options
        self.appearance: Any = None if options.appearance is None else models.create(options.appearance, rngs)
        self.micro_action: Any = None if options.micro_action is None else models.create(options.micro_action, rngs)
        network = self.micro_action
        if network is not None:
            num_inputs = network.options.num_classes + network.heads.num_features
            kernel_init = nnx.initializers.normal(0.001)
            self.emotion = nnx.Linear(num_inputs, options.num_emotions, kernel_init=kernel_init, rngs=rngs)

    def __call__(self, inputs: dict[str, Array], keys: Key[Array, " b"] | None = None) -> Outputs:
        """Returns the outputs for clips.

        Args:
          inputs: `video` for the network of micro-actions, `appearance` for that of appearance, see `models`.
          keys: one random key for each clip; None drops nothing.
        """
        outputs, emotion = Outputs(), jnp.float32(0)
        if self.appearance is not None:
            outputs = self.appearance({"video": inputs["appearance"]}, keys)
            emotion += present(outputs.logits)
            outputs = Outputs(features=outputs.features)
        if self.micro_action is not None:
            outputs = self._recognize(inputs, keys)
            evidence = [present(outputs.features), jax.nn.sigmoid(present(outputs.logits))]
            emotion += self.emotion(jnp.concatenate(evidence, axis=-1)).astype(jnp.float32)
        return outputs._replace(emotion=emotion)

    def _recognize(self, inputs: dict[str, Array], keys: Array | None) -> Outputs:
        """The outputs of the network of micro-actions, without a gradient where it is frozen."""
        if not self.options.frozen:
            return self.micro_action(inputs, keys)
        evaluating = nnx.view(self.micro_action, train=False, raise_if_not_found=False)  # not all networks have modes
        return jax.lax.stop_gradient(evaluating(inputs))

    @property
    def class_maps(self) -> Callable[[dict[str, Array]], Float[Array, "b t h w n"]]:
        """Returns those of the actions; by appearance alone those of the emotions. Missing where that network's are."""
        if self.micro_action is not None:
            return self.micro_action.class_maps
        of_appearance = self.appearance.class_maps
        return lambda inputs: of_appearance({"video": inputs["appearance"]})
