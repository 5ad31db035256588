"""I3D on MA-52, from weights of Kinetics: the recipe of MA-52's authors.

python -m manet_jax.pretrained --drop_classifier i3d.pth runs/kinetics
python -m manet_jax.main --config configs/models/i3d.py --workdir runs/i3d \
    --config.init_from=runs/kinetics --config.data.manual_dir=/data/MA-52

Weights of images (runs/imagenet, of a torchvision ResNet-50) are inflated.
"""

import ml_collections

from configs import ma52


def get_config() -> ml_collections.ConfigDict:
    config = ma52.get_config()
    config.model = ml_collections.ConfigDict({"name": "i3d", "embedding": False, "depth": 50, "width": 64})
    config.model.update(dropout=0.5, dtype="float32", remat=False)
    config.clip.update(num_frames=32, sampling="dense", frame_interval=2, crop_scales=(1.0, 0.8))
    config.batch_size, config.num_epochs = 8, 100.0
    config.optimizer.update(learning_rate=0.01, clip_norm=40.0, head_lr_multiplier=1.0)
    config.schedule.decay_epochs = (40.0, 80.0)
    return config
