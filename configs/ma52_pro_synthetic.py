"""Emotion by appearance, by micro-actions and by both on generated clips, in minutes on a laptop.

python -m manet_jax.main --config configs/ma52_pro_synthetic.py:fused --workdir runs/pro_fused
python -m manet_jax.studies.emotion --workdir runs/emotion      all forms, several seeds, table and plot
"""

import ml_collections

from configs import ma52_pro, ma52_synthetic


def get_config(form: str = "micro_actions") -> ml_collections.ConfigDict:
    config = ma52_synthetic.get_config("sgd")
    pro = ma52_pro.get_config(form)
    config.emotion, config.multilabel = pro.emotion, pro.multilabel
    config.multilabel.loss = "plain"  # the classes are about as frequent as each other

    config.data.manual_dir = "data/ma52_pro_synthetic"
    config.data.builder_config = "pro_original"
    config.data.synthetic.pro = True
    config.data.synthetic.frame_rate = 30
    config.eval.every_epochs = 10.0
    config.data.synthetic.short_side = 144  # so that a face is some twenty pixels high

    # Around the head, at twice the resolution of the rest.
    config.emotion.clip.box = (0.12, 0.34, 0.38, 0.66)
    config.emotion.clip.num_frames = 4
    config.emotion.clip.short_side = 68
    config.emotion.clip.crop_size = 64
    config.emotion.model.depth = 14
    config.emotion.model.width = 16
    config.emotion.model.dropout = 0.0
    config.optimizer.learning_rate = 0.02
    return config
