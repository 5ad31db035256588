"""Video Swin on MA-52, from weights of Kinetics: the recipe of MA-52's authors.

python -m manet_jax.pretrained --drop_classifier swin_tiny.pth runs/kinetics
python -m manet_jax.main --config configs/models/swin.py:tiny --workdir runs/swin \
    --config.init_from=runs/kinetics --config.data.manual_dir=/data/MA-52

The name after a colon is the size: `tiny`, `small` or `base`. Weights of a Swin over images are inflated.

It differs in what has no field here: training crops are squares rather than of random areas, biases do not decay, the
warm-up begins at 0 rather than at a tenth, and the cosine of small and base falls to 0 rather than stop at epoch 30.
"""

import ml_collections

from configs import ma52

SIZES = {
    "tiny": {"depth": 6, "width": 96, "num_heads": 3, "drop_path": 0.1},
    "small": {"depth": 18, "width": 96, "num_heads": 3, "drop_path": 0.2},
    "base": {"depth": 18, "width": 128, "num_heads": 4, "drop_path": 0.3},
}
BATCH_SIZES = {"tiny": 8, "small": 4, "base": 2}
WEIGHT_DECAYS = {"tiny": 0.02, "small": 0.02, "base": 0.05}


def get_config(size: str = "tiny") -> ml_collections.ConfigDict:
    if size not in SIZES:
        known = ", ".join(SIZES)
        raise ValueError(f"configs/models/swin.py has no size {size!r}; name one of {known} after a colon")
    config = ma52.get_config()
    config.model = ml_collections.ConfigDict({"name": "swin", "embedding": False, **SIZES[size]})
    config.model.update(window_frames=8, window_size=7, patch_frames=2)
    config.model.update(dropout=0.5, dtype="bfloat16", remat=False)  # theirs is trained in mixed precision
    config.clip.update(num_frames=32, sampling="dense", frame_interval=2)
    config.batch_size, config.num_epochs = BATCH_SIZES[size], 40.0
    # 1e-3 for the classifier, a tenth of it for the backbone.
    config.optimizer.update(name="adamw", learning_rate=1e-4, head_lr_multiplier=10.0, head="classifier")
    config.optimizer.update(betas=(0.9, 0.999), weight_decay=WEIGHT_DECAYS[size], clip_norm=0.0)
    config.schedule.update(name="cosine", warmup_epochs=2.5)
    return config
