"""transformers' VideoMAE as this project's, to compare with: where torch and transformers are installed."""

import torch
from torch import nn
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

EPSILON = 1e-6  # of all LayerNorms in the authors' code; transformers' are 1e-12 and 1e-5


class VideoMAE(nn.Module):
    """Classifies uint8 clips [b, t, h, w, 3].

    Args:
      options: `manet_jax.models.videomae.VideoMAEOptions`.
    """

    def __init__(self, options):
        super().__init__()
        config = VideoMAEConfig(
            image_size=options.clip.crop_size,
            patch_size=options.patch_size,
            num_frames=options.clip.num_frames,
            tubelet_size=options.tubelet_size,
            hidden_size=options.width,
            num_hidden_layers=options.depth,
            num_attention_heads=options.num_heads,
            intermediate_size=4 * options.width,
            layer_norm_eps=EPSILON,
            num_labels=options.num_classes,
        )
        self.network = VideoMAEForVideoClassification(config)
        self.network.fc_norm.eps = EPSILON
        for name in ("mean", "std"):
            values = torch.tensor(getattr(options.clip, name)).reshape(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, video):
        """Returns the logits."""
        pixels = (video.permute(0, 1, 4, 2, 3).float() - self.mean) / self.std
        return self.network(pixel_values=pixels).logits


def create_optimizer(model, learning_rate):
    """AdamW, which decays matrices alone."""
    groups = [
        {"params": [p for p in model.parameters() if (p.ndim > 1) == decays], "weight_decay": 0.05 * decays}
        for decays in (True, False)
    ]
    return torch.optim.AdamW(groups, learning_rate)


def train_step(model, optimizer, video, label):
    """One step on the cross-entropy; returns the loss."""
    model.train()
    loss = nn.functional.cross_entropy(model(video), label, label_smoothing=0.1)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
