"""Networks of the packages transformers and torchvision, with the inputs and outputs of manet.py's.

Each function takes the options of this project's network.
"""

import torch
from torch import nn

VIDEOMAE_EPSILON = 1e-6  # of all LayerNorms in the authors' code; transformers' are 1e-12 and 1e-5


class OnPixels(nn.Module):
    """A network as one of clips of uint8 pixels.

    Args:
      network: over normalised clips; returns logits, or what has them.
      clip: `manet_jax.models.ClipSpec`, for the pixels' mean and std.
      axes: the order in which the network takes those of [b, t, h, w, c].
    """

    def __init__(self, network, clip, axes):
        super().__init__()
        self.network, self.axes = network, axes
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(clip, name)), persistent=False)

    def forward(self, video):
        """uint8 [b, t, h, w, 3] -> logits [b, n], and None where MANet has an embedding."""
        outputs = self.network(((video.float() - self.mean) / self.std).permute(self.axes))
        return getattr(outputs, "logits", outputs), None


def timesformer(options):
    """That of transformers, which drops nothing."""
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    config = TimesformerConfig(num_frames=options.clip.num_frames, **_vit(options))
    return OnPixels(TimesformerForVideoClassification(config), options.clip, (0, 1, 4, 2, 3))


def videomae(options):
    """That of transformers, with the authors' LayerNorms; it drops nothing."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    config = VideoMAEConfig(
        num_frames=options.clip.num_frames,
        tubelet_size=options.tubelet_size,
        layer_norm_eps=VIDEOMAE_EPSILON,
        **_vit(options),
    )
    network = VideoMAEForVideoClassification(config)
    network.fc_norm.eps = VIDEOMAE_EPSILON
    return OnPixels(network, options.clip, (0, 1, 4, 2, 3))


def _vit(options):
    return {
        "image_size": options.clip.crop_size,
        "patch_size": options.patch_size,
        "hidden_size": options.width,
        "num_hidden_layers": options.depth,
        "num_attention_heads": options.num_heads,
        "intermediate_size": 4 * options.width,
        "num_labels": options.num_classes,
    }


def swin(options):
    """That of torchvision."""
    from torchvision.models.video.swin_transformer import SwinTransformer3d

    network = SwinTransformer3d(
        patch_size=[options.patch_frames, 4, 4],
        embed_dim=options.width,
        depths=list(options.depths),
        num_heads=[options.num_heads * 2**stage for stage in range(4)],
        window_size=list(options.window),
        stochastic_depth_prob=options.drop_path,
        num_classes=options.num_classes,
    )
    return OnPixels(network, options.clip, (0, 4, 1, 2, 3))
