"""Several micro-actions a clip, and emotions: clips of your own with an annotation file.

python -m manet_jax.main --config configs/ma52_pro.py --workdir runs/pro --config.data.manual_dir=DIR
python -m manet_jax.main --config configs/ma52_pro.py:fused --workdir runs/fused --config.data.manual_dir=DIR

After the colon: micro_actions alone (as without), or emotion by appearance, micro_action or fused. docs/data.md has the
format of the annotation files. MA-52-Pro, after which this is named, is no longer offered; its format and figures are
not public, and this recipe is ours. A data set that is offered, of one label a clip, is MMA-82 (configs/mma82.py).
"""

import ml_collections

from configs import ma52

FORMS = {"micro_actions": "", "appearance": "appearance", "micro_action": "micro_action", "fused": "fused"}


def get_config(form: str = "micro_actions") -> ml_collections.ConfigDict:
    if form not in FORMS:
        raise ValueError(f"configs/ma52_pro.py has no form {form!r}; name one of {', '.join(FORMS)} after a colon")
    config = ma52.get_config()
    config.data.manual_dir = "data/ma52_pro"
    config.data.builder_config = "pro_h264_256"
    config.multilabel.loss = "asymmetric"
    config.emotion.form = FORMS[form]
    return config
