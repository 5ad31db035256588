"""MANet in plain PyTorch, with the released checkpoint's names: an independent reference where torch is installed."""

import torch
from torch import nn

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class ConvBN(nn.Module):
    def __init__(self, conv, features):
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(features)

    def forward(self, x):
        return self.bn(self.conv(x))


def convolution(in_features, features, kernel_size, stride=1):
    return nn.Conv2d(in_features, features, kernel_size, stride, kernel_size // 2, bias=False)


class ExciteShiftConv(nn.Module):
    """Gates each frame's channels, moves a quarter of them along time, then applies a 1x1 convolution."""

    def __init__(self, in_features, features, num_frames=8, shift_div=8):
        super().__init__()
        self.net = convolution(in_features, features, 1)
        self.fcce = nn.Sequential(
            nn.Linear(in_features, in_features // 4, bias=False),
            nn.ReLU(),
            nn.Linear(in_features // 4, in_features, bias=False),
            nn.Sigmoid(),
        )
        self.num_frames, self.fold = num_frames, in_features // shift_div

    def forward(self, x):
        x = x * self.fcce(x.mean((2, 3)))[:, :, None, None]
        clips = x.unflatten(0, (-1, self.num_frames))
        shifted = clips.clone()
        shifted[:, :-1, : self.fold], shifted[:, -1, : self.fold] = clips[:, 1:, : self.fold], 0
        back = slice(self.fold, 2 * self.fold)
        shifted[:, 1:, back], shifted[:, 0, back] = clips[:, :-1, back], 0
        return self.net(shifted.flatten(0, 1))


class Block(nn.Module):
    def __init__(self, in_features, features, stride):
        super().__init__()
        self.conv1 = ConvBN(ExciteShiftConv(in_features, features), features)
        self.conv2 = ConvBN(convolution(features, features, 3, stride), features)
        self.conv3 = ConvBN(convolution(features, 4 * features, 1), 4 * features)
        self.downsample = None
        if stride > 1 or in_features != 4 * features:
            self.downsample = ConvBN(convolution(in_features, 4 * features, 1, stride), 4 * features)

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        return (self.conv3(self.conv2(self.conv1(x).relu()).relu()) + shortcut).relu()


class Backbone(nn.Module):
    def __init__(self, stages, width):
        super().__init__()
        self.conv1 = ConvBN(convolution(3, width, 7, 2), width)
        self.pool = nn.MaxPool2d(3, 2, 1)
        in_features = width
        for stage, num_blocks in enumerate(stages):
            features = width * 2**stage
            blocks = []
            for block in range(num_blocks):
                blocks.append(Block(in_features, features, 2 if stage and not block else 1))
                in_features = 4 * features
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stages, self.num_features = [f"layer{stage + 1}" for stage in range(len(stages))], in_features

    def forward(self, x):
        x = self.pool(self.conv1(x).relu())
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return x


class Head(nn.Module):
    def __init__(self, num_features, num_classes, embedding_dim):
        super().__init__()
        self.fc_cls = nn.Linear(num_features, num_classes)
        self.fc_emb = nn.Linear(num_features, embedding_dim)
        self.fc_emb_t = nn.Linear(embedding_dim, embedding_dim)


class MANet(nn.Module):
    def __init__(self, num_classes=52, embedding_dim=300, stages=(3, 4, 6, 3), width=64):
        super().__init__()
        self.backbone = Backbone(stages, width)
        self.cls_head = Head(self.backbone.num_features, num_classes, embedding_dim)

    def forward(self, video):
        """uint8 [b, t, h, w, 3] -> logits [b, n], embedding [b, e]; without dropout."""
        dtype = self.cls_head.fc_cls.weight.dtype
        mean, std = (torch.tensor(values, dtype=dtype, device=video.device) for values in (MEAN, STD))
        x = (video.to(dtype) - mean) / std
        x = x.flatten(0, 1).permute(0, 3, 1, 2)
        pooled = self.backbone(x).mean((2, 3)).unflatten(0, video.shape[:2])
        head = self.cls_head
        embedding = head.fc_emb_t(head.fc_emb(pooled).tanh())
        return head.fc_cls(pooled).mean(1), embedding.mean(1)


def load(state):
    """A model with a released checkpoint's tensors; those that no computation uses are dropped."""
    model = MANet()
    model.load_state_dict({name: torch.tensor(value) for name, value in state.items() if "action_p2" not in name})
    return model.eval()


def create_optimizer(model, learning_rate=0.00125):
    """SGD with the released parameter groups.

    Biases: 2x the rate, no decay. BatchNorm: no decay. The last linear layer: 5x, its bias 10x.
    """
    groups = {}  # few of them: PyTorch updates the parameters of a group together
    for name, parameter in model.named_parameters():
        factor, decay = 1.0, 1e-4
        if name.endswith("bias") or ".bn." in name:
            factor, decay = (1.0 if ".bn." in name else 2.0), 0.0
        if name.startswith("cls_head.fc_emb_t"):
            factor *= 5
        groups.setdefault((factor, decay), []).append(parameter)
    options = [
        {"params": parameters, "lr": factor * learning_rate, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]
    return torch.optim.SGD(options, lr=learning_rate, momentum=0.9)


def train_step(model, optimizer, video, label, label_vectors, embedding_weight=50.0, clip_norm=20.0):
    """One training step, BatchNorm in training mode; returns the loss and the gradient's norm before clipping."""
    model.train()
    logits, embedding = model(video)
    loss = nn.functional.cross_entropy(logits, label)
    if embedding is not None:
        loss = loss + embedding_weight * nn.functional.mse_loss(embedding, label_vectors[label])
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return loss.item(), norm.item()
