"""TimeSformer of the package transformers, with the inputs and outputs of manet.py's; it drops nothing."""

import torch
from torch import nn
from transformers import TimesformerConfig, TimesformerForVideoClassification


class TimeSformer(nn.Module):
    def __init__(self, options):
        super().__init__()
        config = TimesformerConfig(
            image_size=options.clip.crop_size,
            patch_size=options.patch_size,
            num_frames=options.clip.num_frames,
            hidden_size=options.width,
            num_hidden_layers=options.depth,
            num_attention_heads=options.num_heads,
            intermediate_size=4 * options.width,
            num_labels=options.num_classes,
        )
        self.network = TimesformerForVideoClassification(config)
        self.mean, self.std = options.clip.mean, options.clip.std

    def forward(self, video):
        """uint8 [b, t, h, w, 3] -> logits [b, n], and None where MANet has an embedding."""
        mean, std = (torch.tensor(values, device=video.device) for values in (self.mean, self.std))
        x = (video.float() - mean) / std
        return self.network(x.permute(0, 1, 4, 2, 3)).logits, None
