"""UniFormer on MA-52, from weights of Kinetics: the authors' recipe; a size follows the colon: `small` or `base`.

python -m manet_jax.pretrained --drop_classifier uniformer_small_k400_16x4.pth runs/kinetics
python -m manet_jax.main --config configs/models/uniformer.py:small --workdir runs/uniformer \
    --config.init_from=runs/kinetics --config.data.manual_dir=/data/MA-52

The rate is scaled to the batch. Left out is the authors' jitter of colours, and their crops of random areas; warm-up
and cosine begin and end at 1e-6 there, and at 0 here.
"""

import ml_collections

from configs import ma52

SIZES = {
    "small": {"depths": (3, 4, 8, 3), "drop_path": 0.1},
    "base": {"depths": (5, 8, 20, 7), "drop_path": 0.3},
}


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    if size not in SIZES:
        raise ValueError(
            f"configs/models/uniformer.py has no size {size!r}; name one of {', '.join(SIZES)} after a colon"
        )
    config = ma52.get_config()
    config.model = ml_collections.ConfigDict({"name": "uniformer", "embedding": False, **SIZES[size]})
    config.model.update(widths=(64, 128, 320, 512), head_size=64, dropout=0.0, dtype="float32", remat=False)
    config.clip.update(num_frames=16, sampling="dense", frame_interval=4)
    config.clip.mean, config.clip.std = (114.75,) * 3, (57.375,) * 3  # .45 and .225 of 255
    config.batch_size, config.num_epochs = 8, 110.0
    config.label_smoothing = 0.1
    config.augmentation.update(operations=4, magnitude=7.0, erasing=0.25, repeats=2)
    config.mixing.update(mixup=0.8, cutmix=1.0)
    config.optimizer.update(name="adamw", weight_decay=0.05, clip_norm=0.0, head_lr_multiplier=1.0)
    config.optimizer.learning_rate = 1e-4 * 8 / 32  # of base 1.25e-4 for 40 clips, which is the same
    config.schedule.update(name="cosine", warmup_epochs=10.0)
    return config
