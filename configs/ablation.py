"""The paper's ablation in small, on generated clips; an arm is named after the colon.

python -m manet_jax.studies.ablation --workdir runs/ablation      the backbone, all arms, several seeds, tables, plots
python -m manet_jax.main --config configs/ablation.py:backbone --workdir runs/ablation/backbone
python -m manet_jax.main --config configs/ablation.py:manet --config.init_from=runs/ablation/backbone \
    --workdir runs/ablation/manet_0
"""

import ml_collections

from configs import ma52_synthetic
from configs.models.manet import VARIANTS

# With and without each of the shift, squeeze-and-excitation and the joint embedding. All else is equal: data, weights
# to start from, schedule, learning rate, number of steps.
_MODELS = {
    "tsn": VARIANTS["tsn"],
    "tsn_se": {"shift": False, "embedding": False},
    "tsn_embedding": {"shift": False, "se": False},
    "tsn_se_embedding": {"shift": False},
    "tsm": VARIANTS["tsm"],
    "tsm_se": VARIANTS["tsm_se"],
    "tsm_embedding": {"se": False},
    "manet": VARIANTS["manet"],
}
ARMS = {
    "single_frame": {"model": VARIANTS["tsn"], "clip": {"num_frames": 1}},
    **{name: {"model": options} for name, options in _MODELS.items()},
}
BACKBONE = "backbone"  # from which all arms start, as the paper's do from ImageNet


def get_config(arm: str = "manet") -> ml_collections.ConfigDict:
    if arm not in ARMS and arm != BACKBONE:
        raise ValueError(
            f"configs/ablation.py has no arm {arm!r}; name one of {', '.join([*ARMS, BACKBONE])} after a colon"
        )
    config = ma52_synthetic.get_config()
    config.update(ARMS["single_frame" if arm == BACKBONE else arm])
    config.data.synthetic.size = 0.2
    config.eval.batch_size = 32
    if arm == BACKBONE:
        # Single frames of other people, and three times as many clips.
        config.data.manual_dir = "data/ma52_synthetic_backbone"
        config.data.synthetic.update(size=0.3, seed=1)
        config.batch_size, config.num_epochs, config.eval.every_epochs = 32, 12.0, 12.0
        return config
    config.data.manual_dir = "data/ma52_synthetic_ablation"
    config.ema_decay = 0.99  # 100 steps
    config.num_epochs = config.eval.every_epochs = 4.0
    config.schedule.warmup_epochs = 0.4
    return config
