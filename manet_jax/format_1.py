"""Migrates checkpoints of format 1 (and 0, which did not record its format): metadata, and paths of variables."""

import re
from collections.abc import Mapping
from typing import Any

# Paths of variables: in this format, in format 1.
_PATHS = (
    (r"(^|\.)heads\.classifier\.linear\.", r"\1classifier."),
    (r"(^|\.)heads\.joint_embedding\.hidden\.", r"\1embedding_in."),
    (r"(^|\.)heads\.joint_embedding\.out\.", r"\1embedding_out."),
    (r"(^|\.)micro_action\.", r"\1micro_actions."),
)
_CLIP_FIELDS = {"short_side": "short_side", "crop_size": "crop_size", "crop_scales": "crop_scales"}
_CLIP_FIELDS |= {"crop_middle": "center_crop_first"}


def path(now: str) -> str:
    """The path that a variable had in format 1, such as `params.classifier.kernel`."""
    for pattern, old in _PATHS:
        now = re.sub(pattern, old, now)
    return now


def migrate(old: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a checkpoint as today's format has them."""
    config = old["config"]
    # Converted weights know of no more of a config than the network and what it sees.
    whole = "eval" in config
    fresh = [_new_path(each) for each in old.get("fresh", ())]
    origins = [{**origin, "part": _new_part(origin["part"])} for origin in old.get("initialized_from") or ()]
    kept = ("labels", "versions", "commit", "data", "best", "last", "source")
    return {
        **{name: old[name] for name in kept if name in old},
        "model": _model(old["model"], config),
        "multilabel": old.get("multilabel", False),
        "emotions": old.get("emotions", []),
        "config": _config(config) if whole else {},
        "fresh": fresh,
        "initialized_from": origins,
    }


def _new_path(old: str) -> str:
    old = re.sub(r"(^|\.)classifier\.", r"\1heads.classifier.linear.", old)
    old = re.sub(r"(^|\.)embedding_in\.", r"\1heads.joint_embedding.hidden.", old)
    old = re.sub(r"(^|\.)embedding_out\.", r"\1heads.joint_embedding.out.", old)
    return old.replace("micro_actions.", "micro_action.")


def _new_part(old: str) -> str:
    return {"micro_actions": "micro_action"}.get(old, old)


def _model(options: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    if "form" not in options:
        return _network(options, _clip(config))
    micro_action, appearance = options["micro_actions"], options["appearance"]
    video = _clip(config)
    faces = _appearance_clip(config["emotion"]) | {"subset_of": video["num_frames"]} if appearance else {}
    parts = {
        "micro_action": micro_action and _network(micro_action, video),
        "appearance": appearance and _network(appearance, faces),
    }
    kept = {name: options[name] for name in ("num_emotions", "frozen")}
    return {"name": "emotion", "options": kept | parts}


def _network(options: Mapping[str, Any], clip: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in options.items() if name != "num_segments"}
    return {"name": "manet", "options": {**kept, "clip": clip}}


def _clip(config: Mapping[str, Any]) -> dict[str, Any]:
    data = config["data"]
    clip = {new: data[name] for name, new in _CLIP_FIELDS.items() if name in data}
    return {"num_frames": config["model"].get("num_segments", 8), **clip}


def _appearance_clip(emotion: Mapping[str, Any]) -> dict[str, Any]:
    return {name: emotion[name] for name in ("num_frames", "box", "short_side", "crop_size", "crop_scales")}


def _config(old: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run with today's fields."""
    optimizer, emotion = dict(old["optimizer"]), old["emotion"]
    layer = optimizer.pop("boosted_layer")
    network = {name: value for name, value in old["model"].items() if name != "num_segments"}
    appearance = {name: emotion[name] for name in ("depth", "width", "dropout")}
    return {
        **old,
        "model": {"name": "manet", **network},
        "clip": _clip(old),
        "optimizer": optimizer
        | {"head_lr_multiplier": 1.0 if layer == "none" else 5.0, "head": "last" if layer == "none" else layer},
        "emotion": {name: emotion[name] for name in ("form", "training", "weight", "appearance_from")}
        | {
            "clip": _appearance_clip(emotion),
            "model": {"name": "manet", **appearance, "shift": False, "se": False},
        },
        "data": {name: value for name, value in old["data"].items() if name not in _CLIP_FIELDS},
    }
