"""GC-TSM on MA-52: the authors' recipe for Something-Something, from ImageNet, its rate scaled to one device's 8 clips.

python -m manet_jax.pretrained resnet50.pth runs/imagenet
python -m manet_jax.main --config configs/models/gc_tsm.py --workdir runs/gc_tsm \
    --config.init_from=runs/imagenet --config.data.manual_dir=/data/MA-52

Differs: the authors train the gates at 5 times the rate of the convolutions, which this optimiser cannot; here all but
the classifier's bias (twice) have one rate. MMA-82's own settings for GC-TSM are not published.
"""

import ml_collections

from configs import ma52


def get_config() -> ml_collections.ConfigDict:
    config = ma52.get_config()
    config.model = ml_collections.ConfigDict({"name": "gc_tsm", "embedding": False})
    config.model.update(depth=50, width=64, dropout=0.5, dtype="float32", remat=False)
    config.model.shift_div = 8  # 1 / shift_div of the channels move in each direction of time
    config.batch_size, config.num_epochs = 8, 50.0  # at least two clips on each device, see docs/models.md
    config.optimizer.update(learning_rate=0.0025, clip_norm=20.0, head_lr_multiplier=1.0)
    config.schedule.decay_epochs = (20.0, 40.0)
    return config
