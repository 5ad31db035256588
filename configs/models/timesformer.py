"""TimeSformer on MA-52, from weights of Kinetics: mmaction2's recipe, its rate scaled to the batch.

python -m manet_jax.pretrained --drop_classifier timesformer.pth runs/kinetics
python -m manet_jax.main --config configs/models/timesformer.py --workdir runs/timesformer \
    --config.init_from=runs/kinetics --config.data.manual_dir=/data/MA-52

The name after a colon is that of the weights' pixels: `mmaction2` (also an ImageNet ViT's), or `authors` (also
transformers').
"""

import ml_collections

from configs import ma52

PIXELS = {"mmaction2": (127.5, 127.5), "authors": (114.75, 57.375)}  # mean and std of each channel


def get_config(weights: str = "mmaction2") -> ml_collections.ConfigDict:
    if weights not in PIXELS:
        known = ", ".join(PIXELS)
        raise ValueError(
            f"configs/models/timesformer.py has no pixels of {weights!r}; name one of {known} after a colon"
        )
    config = ma52.get_config()
    config.model = ml_collections.ConfigDict({"name": "timesformer", "embedding": False})
    config.model.update(depth=12, width=768, num_heads=12, patch_size=16, table_frames=8, table_size=224)
    config.model.update(dropout=0.0, drop_path=0.1, dtype="float32", remat=False)
    config.clip.update(num_frames=8, sampling="dense", frame_interval=32)  # longer than MA-52's clips: spread over them
    config.clip.crop_scales = (0.875, 0.79, 0.7)  # 224 of a short side from 256 to 320
    config.clip.mean, config.clip.std = ((value,) * 3 for value in PIXELS[weights])
    config.batch_size, config.num_epochs = 8, 15.0
    config.optimizer.update(learning_rate=0.000625, nesterov=True, clip_norm=40.0, head_lr_multiplier=1.0)
    config.schedule.decay_epochs = (5.0, 10.0)
    return config
