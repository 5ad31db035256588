"""The weight tables of VideoMAE: the authors' (versions 1 and 2), mmaction2's and transformers'.

The table of positions is in no file, or as a buffer that is computed: see `models.videomae.positions`.
"""

import re

from manet_jax.models.videomae import VideoMAEOptions
from manet_jax.pretrained.table import Modules, State, WeightTable, heads

_HEAD_SIZE = 64  # in every published network; transformers' conversion notes 16 heads of 24 for the small one

_AUTHORS: Modules = {
    "patches.projection": ("patch_embed.proj", "OITHW"),
    "blocks.*.norm1": ("blocks.*.norm1", "same"),
    "blocks.*.attention.qkv": ("blocks.*.attn.qkv", "OI"),
    "blocks.*.attention.out": ("blocks.*.attn.proj", "OI"),
    "blocks.*.norm2": ("blocks.*.norm2", "same"),
    "blocks.*.mlp.fc1": ("blocks.*.mlp.fc1", "OI"),
    "blocks.*.mlp.fc2": ("blocks.*.mlp.fc2", "OI"),
}
_MMACTION2: Modules = {
    **_AUTHORS,
    "patches.projection": ("patch_embed.projection", "OITHW"),
    "blocks.*.mlp.fc1": ("blocks.*.mlp.layers.0.0", "OI"),
    "blocks.*.mlp.fc2": ("blocks.*.mlp.layers.1", "OI"),
}
_TRANSFORMERS: Modules = {
    "patches.projection": ("embeddings.patch_embeddings.projection", "OITHW"),
    "blocks.*.norm1": ("encoder.layer.*.layernorm_before", "same"),
    "blocks.*.attention.qkv": ("encoder.layer.*.attention.attention.{query,key,value}", "OI"),
    "blocks.*.attention.out": ("encoder.layer.*.attention.output.dense", "OI"),
    "blocks.*.norm2": ("encoder.layer.*.layernorm_after", "same"),
    "blocks.*.mlp.fc1": ("encoder.layer.*.intermediate.dense", "OI"),
    "blocks.*.mlp.fc2": ("encoder.layer.*.output.dense", "OI"),
}
_AUTHORS_BIASES = ("blocks.*.attn.q_bias", "blocks.*.attn.v_bias")  # mmaction2's too
_SELF_ATTENTION = "encoder.layer.*.attention.attention"  # in transformers' names
_TRANSFORMERS_BIASES = (f"{_SELF_ATTENTION}.q_bias", f"{_SELF_ATTENTION}.v_bias")
# Of pre-training: the decoder, and the encoder's last norm, in whose place fine-tuning starts another.
_DECODER = r"^(decoder\.|encoder_to_decoder\.|mask_token$)"


def _table(
    title: str,
    *,
    prefix: str,
    encoder: Modules,
    biases: tuple[str, str],
    norm: str | None,
    classifier: str | None,
    joint_embedding: tuple[str | None, str | None] = (None, None),
    unused: dict[str, str] | None = None,
    sign: str | None = None,
) -> WeightTable:
    """A table.

    Args:
      title: of the family.
      prefix: in front of the encoder's names.
      encoder: names of its modules.
      biases: names of those of the queries and of the values.
      norm: the name of the one before the heads.
      classifier: its name.
      joint_embedding: names of its two layers.
      unused: see `WeightTable`.
      sign: a name that such files have and other families' do not; by default a bias of the queries.
    """
    modules: Modules = {
        **{ours: (f"{prefix}{theirs}", layout) for ours, (theirs, layout) in encoder.items()},
        "norm": (norm, "same"),
        **heads(classifier, *joint_embedding),
    }
    of_queries, of_values = (f"{prefix}{name}" for name in biases)
    sign = sign or of_queries
    sign_pattern, block_pattern = (re.escape(name).replace(r"\*", r"(\d+)") for name in (sign, of_queries))

    def options_from(state: State) -> VideoMAEOptions:
        def shape(name: str | None, default: tuple[int, ...]) -> tuple[int, ...]:
            found = state[name].shape if name in state else ()
            return found if len(found) == len(default) else default

        numbers = {name: int(found[1]) for name in state if (found := re.fullmatch(block_pattern, name))}
        width = shape(next(iter(numbers), None), (384,))[0]
        projection = f"{modules['patches.projection'][0]}.weight"
        *_, tubelet_size, patch_size, _ = shape(projection, (width, 3, 2, 16, 16))
        return VideoMAEOptions(
            num_classes=shape(f"{classifier}.bias", (52,))[0],
            embedding_dim=shape(f"{joint_embedding[1]}.bias", (0,))[0],
            depth=max(numbers.values(), default=11) + 1,
            width=width,
            num_heads=max(1, width // _HEAD_SIZE),
            patch_size=patch_size,
            tubelet_size=tubelet_size,
        )

    return WeightTable(
        title=title,
        network="videomae",
        modules=modules,
        parameters={
            "blocks.*.attention.q_bias": (of_queries, "same"),
            "blocks.*.attention.v_bias": (of_values, "same"),
        },
        unused=unused or {},
        example=sign.replace("*", "0"),
        # Twice, as names of other families may begin alike.
        recognise=lambda state: 2 * len(state) if any(re.fullmatch(sign_pattern, name) for name in state) else 0,
        options_from=options_from,
    )


AUTHORS = _table(
    "the authors' VideoMAE",
    prefix="",
    encoder=_AUTHORS,
    biases=_AUTHORS_BIASES,
    norm="fc_norm",
    classifier="head",
    joint_embedding=("fc_emb", "fc_emb_t"),
)

PRETRAINED = _table(
    "the authors' pre-trained VideoMAE",
    prefix="encoder.",
    encoder=_AUTHORS,
    biases=_AUTHORS_BIASES,
    norm=None,
    classifier=None,
    unused={"the decoder": _DECODER, "the encoder's last norm": r"^encoder\.norm\."},
)

MMACTION2 = _table(
    "mmaction2's VideoMAE",
    prefix="backbone.",
    encoder=_MMACTION2,
    biases=_AUTHORS_BIASES,
    norm="backbone.fc_norm",
    classifier="cls_head.fc_cls",
    unused={"the table of positions, which is computed": r"^backbone\.pos_embed$"},
)

# transformers 5 renames the biases in its own files: those of the second table are what torch.save writes.
TRANSFORMERS, TRANSFORMERS_IN_MEMORY = (
    _table(title, prefix="videomae.", encoder=_TRANSFORMERS, biases=biases, norm="fc_norm", classifier="classifier")
    for title, biases in (
        ("transformers' VideoMAE", _TRANSFORMERS_BIASES),
        ("transformers' VideoMAE in memory", (f"{_SELF_ATTENTION}.query.bias", f"{_SELF_ATTENTION}.value.bias")),
    )
)

# Of the files with a decoder, which have the names above too.
TRANSFORMERS_PRETRAINED = _table(
    "transformers' pre-trained VideoMAE",
    prefix="videomae.",
    encoder=_TRANSFORMERS,
    biases=_TRANSFORMERS_BIASES,
    norm=None,
    classifier=None,
    unused={"the decoder": _DECODER, "the encoder's last norm": r"^videomae\.layernorm\."},
    sign="decoder.decoder_layers.*.attention.attention.q_bias",
)

TABLES = [AUTHORS, PRETRAINED, MMACTION2, TRANSFORMERS_PRETRAINED, TRANSFORMERS, TRANSFORMERS_IN_MEMORY]
