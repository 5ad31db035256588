"""Converts weights from PyTorch, and back.

python -m manet_jax.pretrained manet.pth runs/released     the released MANet, to evaluate or fine-tune
python -m manet_jax.pretrained resnet50.pth runs/imagenet  torchvision's ResNet-50 or -101, to start training from
python -m manet_jax.pretrained --drop_classifier timesformer.pth runs/kinetics
                                                           a network of Kinetics' classes, to start training from
python -m manet_jax.pretrained --to_pytorch runs/first first.safetensors
"""

import argparse
import dataclasses
import sys

from manet_jax import compilation_cache
from manet_jax.checkpoint import CHECKPOINTS
from manet_jax.pretrained.convert import convert, to_pytorch
from manet_jax.run_metadata import RunMetadata
from tfds_ma52.command import run_command


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m manet_jax.pretrained",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="a .pth or .safetensors file; with --to_pytorch a workdir")
    parser.add_argument("out", help="a new workdir; with --to_pytorch a .safetensors file")
    parser.add_argument("--to_pytorch", action="store_true", help="write a workdir's model with PyTorch's names")
    parser.add_argument("--checkpoint", choices=CHECKPOINTS, help="which to write (default: best)")
    parser.add_argument("--label_names", default="", help="the classes, if not MA-52's: '<id><TAB><name>' a line")
    parser.add_argument("--drop_classifier", action="store_true", help="leave it out, to train for other classes")
    arguments = parser.parse_args(argv)
    if arguments.to_pytorch and arguments.label_names:
        parser.error("--label_names has no use with --to_pytorch: a workdir has its classes")
    if arguments.drop_classifier and (arguments.to_pytorch or arguments.label_names):
        parser.error("--drop_classifier has no use with --to_pytorch or --label_names: it is for a file to train from")
    if arguments.checkpoint and not arguments.to_pytorch:
        parser.error("--checkpoint is for --to_pytorch only")
    return run_command("manet_jax", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    compilation_cache.use()
    if arguments.to_pytorch:
        count = to_pytorch(arguments.source, arguments.out, arguments.checkpoint or "best")
        print(
            f"{arguments.out}: {count} tensors with the names of the network's PyTorch files, but for those never used"
        )
    else:
        metadata = convert(
            arguments.source, arguments.out, arguments.label_names, drop_classifier=arguments.drop_classifier
        )
        print(_summary(arguments.out, metadata))
    return 0


def _summary(out: str, metadata: RunMetadata) -> str:
    source, options = metadata.source or {}, dataclasses.asdict(metadata.model.options)
    clip = options.pop("clip")
    network = ", ".join(f"{name} {value}" for name, value in options.items())
    lines = [
        f"{out}: {source['holds']}",
        f"{source['tensors']} tensors taken: {metadata.model.name}, {network}",
        f"assumed: {clip['num_frames']} frames of {clip['crop_size']} x {clip['crop_size']} pixels",
        *(f"{count} unused left out: {title}" for title, count in source["unused"].items()),
    ]
    if metadata.fresh:
        lines.append(f"{len(metadata.fresh)} variables are fresh, random: train from it with --config.init_from={out}")
    else:
        lines.append(f"use it with load_model, --mode=evaluate --workdir {out} or --config.init_from={out}")
    return "\n  ".join(lines)


if __name__ == "__main__":
    sys.exit(main())
