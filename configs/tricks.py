"""What each trick for rare classes is worth, in small, on generated clips; an arm is named after the colon.

python -m manet_jax.studies.ablation --config configs/tricks.py --seeds 3 --workdir runs/tricks

All else is as in the ablation's MANet, and so is the backbone that all arms start from. Training on train and val is no
arm: the generated set has no other split to evaluate on.
"""

import ml_collections

from configs import ablation

# Each trick alone, with the value of its paper where that has one, and 1 for the weights of further losses.
TRICKS = {
    "square_root": {"class_balance": {"sampling": 0.5}},  # Kang et al. 2020, as `balanced`
    "balanced": {"class_balance": {"sampling": 0.0}},
    "effective_number": {"class_balance": {"effective_number": 0.999}},  # one of four of Cui et al. 2019
    "logit_adjustment": {"class_balance": {"logit_adjustment": 1.0}},  # Menon et al. 2021
    "focal": {"class_balance": {"focal": 2.0}},  # Lin et al. 2017
    "soft_f1": {"class_balance": {"soft_f1": 1.0}},
    "group_head": {"body_groups": {"head": 1.0}},
    "group_consistency": {"body_groups": {"consistency": 1.0}},
    "group_smoothing": {"body_groups": {"label_smoothing": 0.1}},
}
# Two of them would meet the imbalance of the drawn clips, which the logit adjustment meets, once more.
TOGETHER = [name for name in TRICKS if name not in ("balanced", "effective_number")]
ARMS = ("baseline", *TRICKS, "all")
REFERENCE = "baseline"
BACKBONE = ablation.BACKBONE


def get_config(arm: str = "baseline") -> ml_collections.ConfigDict:
    if arm == BACKBONE:
        return ablation.get_config(BACKBONE)
    if arm not in ARMS:
        raise ValueError(
            f"configs/tricks.py has no arm {arm!r}; name one of {', '.join([*ARMS, BACKBONE])} after a colon"
        )
    config = ablation.get_config("manet")
    for name in TOGETHER if arm == "all" else TRICKS.keys() & {arm}:
        config.update(TRICKS[name])
    return config
