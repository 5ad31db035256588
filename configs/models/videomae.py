"""VideoMAE on MA-52, from the authors' weights; a variant is named after the colon: `small` or `base`.

python -m manet_jax.pretrained --drop_classifier videomae.pth runs/kinetics
python -m manet_jax.main --config configs/models/videomae.py:small --workdir runs/videomae \
    --config.init_from=runs/kinetics --config.data.manual_dir=/data/MA-52

The weights are those of Kinetics' classes, or of the pre-training without classes. No recipe for MA-52 is public; this
is that of Kinetics-400 but for its crops of random areas, the rate scaled to the batch.
"""

import ml_collections

from configs import ma52

VARIANTS = {  # width, heads and epochs
    "small": (384, 6, 150.0),
    "base": (768, 12, 75.0),
}


def get_config(variant: str = "small") -> ml_collections.ConfigDict:
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise ValueError(f"configs/models/videomae.py has no variant {variant!r}; name one of {known} after a colon")
    width, num_heads, num_epochs = VARIANTS[variant]
    config = ma52.get_config()
    config.model = ml_collections.ConfigDict({"name": "videomae", "embedding": False})
    config.model.update(depth=12, width=width, num_heads=num_heads, patch_size=16, tubelet_size=2)
    config.model.update(dropout=0.0, drop_path=0.1, dtype="float32", remat=False)
    config.clip.update(num_frames=16, sampling="dense", frame_interval=4, short_side=224)
    config.label_smoothing = 0.1
    config.augmentation.update(operations=4, magnitude=7.0, erasing=0.25, repeats=2)
    config.mixing.update(mixup=0.8, cutmix=1.0)
    config.batch_size, config.num_epochs = 8, num_epochs
    config.optimizer.update(name="adamw", learning_rate=5e-4 * 8 / 256, weight_decay=0.05, layer_decay=0.75)
    config.optimizer.update(clip_norm=0.0, head_lr_multiplier=1.0)
    config.schedule.update(name="cosine", warmup_epochs=5.0)
    return config
