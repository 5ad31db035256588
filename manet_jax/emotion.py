"""Emotion recognition from appearance, from micro-actions, or from both (paper, section on applications)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, UInt8

from manet_jax.models import BatchNormContext, MANet

FORMS = ("appearance", "micro_action", "fused")
_EVALUATING = BatchNormContext()


class Outputs(NamedTuple):
    """What a model says of clips; None where it says nothing.

    Attributes:
      logits: of the micro-actions.
      embedding: the joint embedding.
      emotion: logits of the emotions.
    """

    logits: Float[Array, "b n"] | None
    embedding: Float[Array, "b e"] | None
    emotion: Float[Array, "b k"] | None


class EmotionNet(nnx.Module):
    """Recognises the emotion of a clip; the paper does not publish its network, this one is ours.

    "appearance" is a network without temporal shift on single frames: what it says of a clip is the mean over frames
    that know nothing of each other. "micro_action" is MANet and a linear layer on its pooled features and its
    micro-action scores. "fused" has both and adds their logits, which is the best rule where appearance and
    micro-actions are independent given the emotion.
    """

    def __init__(
        self,
        *,
        form: str,
        num_emotions: int,
        micro_actions: dict[str, Any] | None,
        appearance: dict[str, Any] | None,
        frozen: bool,
        rngs: nnx.Rngs,
    ):
        """Makes a model with fresh weights.

        Args:
          form: one of FORMS.
          num_emotions: their number.
          micro_actions: options of the `MANet` that recognises micro-actions; None in the form "appearance".
          appearance: options of the `MANet` that sees the appearance, whose classes are the emotions; None in the form
            "micro_action".
          frozen: the network of micro-actions stays as it is while the rest is trained.
          rngs: the stream `params` makes the weights.
        """
        self.form = form
        self.frozen = frozen
        self.appearance = MANet(**appearance, rngs=rngs) if form != "micro_action" else None
        self.micro_actions = MANet(**micro_actions, rngs=rngs) if form != "appearance" else None
        if self.micro_actions is not None:
            num_classes, num_features = self.micro_actions.classifier.out_features, self.micro_actions.num_features
            self.emotion = nnx.Linear(
                num_classes + num_features, num_emotions, kernel_init=nnx.initializers.normal(0.001), rngs=rngs
            )

    def __call__(
        self,
        video: UInt8[Array, "b t h w 3"] | None,
        appearance: UInt8[Array, "b t2 h2 w2 3"] | None,
        context: BatchNormContext = _EVALUATING,
        dropout_keys: Key[Array, " b"] | None = None,
    ) -> Outputs:
        """Returns what the model says of clips.

        Args:
          video: RGB frames, 0..255, for the network of micro-actions.
          appearance: those for the network of appearance.
          context: how BatchNorm behaves.
          dropout_keys: one random key for each clip; None drops nothing.
        """
        logits = embedding = None
        emotion = []
        if self.appearance is not None:
            emotion.append(self.appearance(appearance, context, dropout_keys)[0])
        if self.micro_actions is not None:
            logits, embedding, features = self._recognize(video, context, dropout_keys)
            seen = jnp.concatenate([features, jax.nn.sigmoid(logits)], axis=-1)
            emotion.append(self.emotion(seen).astype(jnp.float32))
        return Outputs(logits, embedding, sum(emotion))

    def _recognize(
        self, video: Array, context: BatchNormContext, dropout_keys: Array | None
    ) -> tuple[Float[Array, "b n"], Float[Array, "b e"] | None, Float[Array, "b c"]]:
        """The micro-actions, and the features that they were recognised from."""
        if self.frozen:
            context, dropout_keys = _EVALUATING, None
        pooled = self.micro_actions.pooled_features(video, context)
        logits, embedding = self.micro_actions.heads(pooled, dropout_keys)
        result = (logits, embedding, pooled.mean(1).astype(jnp.float32))
        return jax.lax.stop_gradient(result) if self.frozen else result


def forward(
    model: nnx.Module,
    batch: dict[str, Array],
    context: BatchNormContext = _EVALUATING,
    dropout_keys: Key[Array, " b"] | None = None,
) -> Outputs:
    """Applies a `MANet` or an `EmotionNet` to a batch's `video` and `appearance`."""
    if isinstance(model, EmotionNet):
        return model(batch.get("video"), batch.get("appearance"), context, dropout_keys)
    return Outputs(*model(batch["video"], context, dropout_keys), None)
