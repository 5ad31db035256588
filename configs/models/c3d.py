"""C3D on MA-52, from weights of Sports-1M: mmaction2's recipe for UCF-101, its rate scaled to the batch.

python -m manet_jax.pretrained c3d_sports1m.pth runs/sports1m
python -m manet_jax.main --config configs/models/c3d.py --workdir runs/c3d \
    --config.init_from=runs/sports1m --config.data.manual_dir=/data/MA-52
"""

import ml_collections

from configs import ma52


def get_config() -> ml_collections.ConfigDict:
    config = ma52.get_config()
    config.model = ml_collections.ConfigDict({"name": "c3d", "embedding": False, "width": 64})
    config.model.update(dropout=0.5, dtype="float32", remat=False)
    config.clip.update(num_frames=16, sampling="dense", short_side=128, crop_size=112)
    config.clip.crop_scales = (0.875,)  # 112 of 128 pixels
    config.clip.mean, config.clip.std = (104.0, 117.0, 128.0), (1.0, 1.0, 1.0)
    config.batch_size, config.num_epochs = 30, 45.0
    config.optimizer.update(learning_rate=0.000125, weight_decay=5e-4, clip_norm=40.0, head_lr_multiplier=1.0)
    config.schedule.decay_epochs = (20.0, 40.0)
    return config
