import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from checkpoints import read_checkpoint, save_checkpoint, tiny_manet, torchvision_names
from golden import inputs
from helpers import shrink

import manet_jax
from configs import ma52
from manet_jax import evaluate, train
from manet_jax.models import MODELS, ModelSpec
from manet_jax.models.emotion import EmotionNetOptions
from manet_jax.models.variables import flatten
from manet_jax.pretrained import __main__ as command
from manet_jax.pretrained import state_dict
from manet_jax.pretrained.convert import convert, to_pytorch
from manet_jax.run_metadata import FORMAT
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52

NAMES = "0\tnodding\n1\twaving\n2\ttiptoe\n"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with a checkpoint of a small network, `run`, and its file as --to_pytorch writes it."""
    folder = tmp_path_factory.mktemp("small")
    save_checkpoint(folder / "run", tiny_manet(depth=14))
    to_pytorch(folder / "run", folder / "small.safetensors")
    return folder


def read_small(small):
    """The release's names and layouts for a small network, with its notes."""
    with safetensors.safe_open(small / "small.safetensors", "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def draw(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(0.1, 1, shape).astype(np.float32) for name, shape in shapes.items()}


def tiny(name, **options):
    """A small network on frames, for MA-52's classes."""
    return ModelSpec(name, MODELS[name].Options.tiny(num_classes=52, **options))


@pytest.mark.parametrize(
    "spec",
    [
        tiny_manet(),
        tiny_manet(se=False, embedding_dim=0),
        tiny_manet(shift=False, shift_div=4),
        tiny_manet(shift=False, se=False),
        tiny("tin"),
        tiny("gc_tsm"),
    ],
    ids=lambda spec: spec.name,
)
def test_convert_of_to_pytorch_is_bit_identical(tmp_path, spec):
    variables = flatten(save_checkpoint(tmp_path / "run", spec))
    assert command.main(["--to_pytorch", str(tmp_path / "run"), str(tmp_path / "out" / "m.safetensors")]) == 0
    assert command.main([str(tmp_path / "out" / "m.safetensors"), str(tmp_path / "back")]) == 0
    back, metadata = read_checkpoint(tmp_path / "back")
    assert back.keys() == variables.keys()
    for path, value in variables.items():
        np.testing.assert_array_equal(back[path], value)
    # The network and what it sees, and no path of the machine that it was trained on.
    assert metadata.model == spec
    assert metadata.config == {}
    assert "secret" not in json.dumps(metadata.to_json())
    assert metadata.labels == MA52
    assert metadata.fresh == ()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m.safetensors"]
    assert (tmp_path / "out" / "m.safetensors").stat().st_mode & 0o044 == 0o044


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (tiny_manet(shift=False, se=False), {"backbone.layer1.0.conv1.conv.weight", "cls_head.fc_emb.bias"}),
        (tiny_manet(se=False, embedding_dim=0), {"backbone.layer1.0.conv1.conv.net.weight", "cls_head.fc_cls.bias"}),
        (tiny("tin"), {"backbone.layer1.0.conv1.conv.net1.weight_net.conv.weight"}),
        (tiny("gc_tsm"), {"module.base_model.layer1.0.eft3.bn1.running_var", "module.new_fc.weight"}),
    ],
)
def test_to_pytorch_writes_a_familys_own_names(tmp_path, spec, names):
    save_checkpoint(tmp_path / "run", spec)
    count = to_pytorch(tmp_path / "run", tmp_path / "m.safetensors")
    written = safetensors.numpy.load_file(tmp_path / "m.safetensors")
    assert len(written) == count
    assert names <= written.keys()
    assert len({name.partition(".")[0] for name in written} & {"module", "backbone"}) == 1


def test_convert_of_the_release_and_back_is_bit_identical(tmp_path, capsys):
    # Seed 1, and the names as DataParallel writes them.
    source = inputs.weights(1)
    safetensors.numpy.save_file({f"module.{name}": value for name, value in source.items()}, tmp_path / "m.safetensors")
    assert command.main([str(tmp_path / "m.safetensors"), str(tmp_path / "run")]) == 0
    options = (
        "num_classes 52, embedding_dim 300, num_groups 0, dropout 0.5, dtype float32, remat False, depth 50, width 64, "
        "shift True, shift_div 8, se True"
    )
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/run: the released MANet or a TSM",
        f"  303 tensors taken: manet, {options}",
        "  assumed: 8 frames of 224 x 224 pixels",
        "  48 unused left out: action_p2_*",
        "  53 unused left out: num_batches_tracked",
        f"  use it with load_model, --mode=evaluate --workdir {tmp_path}/run or --config.init_from={tmp_path}/run",
    ]
    to_pytorch(tmp_path / "run", tmp_path / "back.safetensors")
    back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    assert back.keys() == {name for name in source if "action_p2" not in name and "tracked" not in name}
    for name, value in back.items():
        np.testing.assert_array_equal(value, source[name])

    # A few by hand: PyTorch keeps the output first, and a 1x1 convolution's kernel in 4 dimensions.
    ours, metadata = read_checkpoint(tmp_path / "run")
    block = "params.blocks.3"  # the first block of the second stage
    np.testing.assert_array_equal(
        ours[f"{block}.conv2.conv.kernel"][2, 0, 5, 9], source["backbone.layer2.0.conv2.conv.weight"][9, 5, 2, 0]
    )
    np.testing.assert_array_equal(
        ours[f"{block}.conv1.conv.kernel"][5, 9], source["backbone.layer2.0.conv1.conv.net.weight"][9, 5, 0, 0]
    )
    np.testing.assert_array_equal(
        ours[f"{block}.se.excite.kernel"][5, 9], source["backbone.layer2.0.conv1.conv.fcce.2.weight"][9, 5]
    )
    np.testing.assert_array_equal(
        ours["batch_stats.blocks.3.shortcut.bn.var"], source["backbone.layer2.0.downsample.bn.running_var"]
    )
    np.testing.assert_array_equal(
        ours["params.heads.joint_embedding.out.kernel"][5, 9], source["cls_head.fc_emb_t.weight"][9, 5]
    )
    assert metadata.model.options.depth == 50
    assert metadata.source["file"] == "m.safetensors"
    assert manet_jax.load_model(tmp_path / "run").labels == MA52


def test_convert_reports_all_that_is_wrong_at_once(tmp_path, small, capsys):
    state, notes = read_small(small)
    state["backbone.layer1.0.conv2.conv.wieght"] = state.pop("backbone.layer1.0.conv2.conv.weight")  # renamed
    state["cls_head.fc_cls.weight"] = np.ascontiguousarray(state["cls_head.fc_cls.weight"].T)  # transposed
    del state["backbone.layer3.0.conv1.bn.running_var"]
    state["cls_head.fc_emb.bias"][2] = np.nan
    safetensors.numpy.save_file(state, tmp_path / "bad.safetensors", notes)
    assert command.main([str(tmp_path / "bad.safetensors"), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"manet_jax: {tmp_path}/bad.safetensors is not quite a network of this project: 5 problems",
        "  unknown: backbone.layer1.0.conv2.conv.wieght [8, 8, 3, 3]",
        "  missing: backbone.layer1.0.conv2.conv.weight [8, 8, 3, 3]",
        "  missing: backbone.layer3.0.conv1.bn.running_var [32]",
        "  shape: cls_head.fc_cls.weight is [256, 52], should be [52, 256]",
        "  values: cls_head.fc_emb.bias has some that are not finite numbers",
    ]
    assert not (tmp_path / "out").exists()


@pytest.fixture
def convert_state(monkeypatch, tmp_path):
    """Converts a state dict of so many tensors that only their names and shapes can be real."""

    def run(state):
        monkeypatch.setattr(state_dict, "read", lambda path: (state, {}))
        return convert(tmp_path / "m.pth", tmp_path / "out")

    yield run
    assert not (tmp_path / "out").exists()


def released():
    return {name: np.broadcast_to(np.float32(1), shape) for name, shape in inputs.SHAPES.items()}


@pytest.mark.parametrize("wrong", ["cls_head.fc_cls.weight", "cls_head.fc_emb.weight", "backbone.conv1.conv.weight"])
def test_convert_reports_a_transposed_tensor_alone(convert_state, wrong):
    # Sizes are read off the weights only where there is no other sign of them.
    state = released()
    state[wrong] = state[wrong].swapaxes(0, 1)
    with pytest.raises(UserError) as error:
        convert_state(state)
    assert str(error.value).count("\n") == 1
    assert f"shape: {wrong}" in str(error.value)


def test_convert_recognises_a_release_that_lost_its_gates(convert_state):
    missing = [name for name in inputs.SHAPES if ".fcce." in name]
    with pytest.raises(UserError, match="is not quite the released MANet") as error:
        convert_state({name: value for name, value in released().items() if ".fcce." not in name})
    assert all(f"missing: {name} " in str(error.value) for name in missing)
    assert str(error.value).count("\n") == len(missing)


def test_convert_of_other_classes_needs_their_names(convert_state):
    state = released()
    for name in ("cls_head.fc_cls.weight", "cls_head.fc_cls.bias"):
        state[name] = state[name][:10]
    with pytest.raises(UserError) as error:
        convert_state(state)
    assert str(error.value) == (
        "the classifier has 10 classes, but MA-52 has 52: give a file with an '<id><TAB><name>' line for each of them "
        "with --label_names, or leave the classifier out with --drop_classifier, to train for other classes"
    )


def test_convert_drops_the_classifier_of_other_classes(tmp_path, small, capsys):
    state, _ = read_small(small)
    state |= {name: np.ones((10, *state[name].shape[1:]), np.float32) for name in state if ".fc_cls." in name}
    safetensors.numpy.save_file(state, tmp_path / "kinetics.safetensors")
    arguments = ["--drop_classifier", str(tmp_path / "kinetics.safetensors"), str(tmp_path / "out")]
    assert command.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  2 unused left out: the classifier" in lines
    assert f"  2 variables are fresh, random: train from it with --config.init_from={tmp_path}/out" in lines
    ours, metadata = read_checkpoint(tmp_path / "out")
    classifier = {f"params.heads.classifier.linear.{name}" for name in ("kernel", "bias")}
    assert set(metadata.fresh) == classifier
    assert metadata.labels == MA52
    assert ours["params.heads.classifier.linear.kernel"].shape[1] == 52
    theirs, _ = read_checkpoint(small / "run")
    for path in theirs.keys() - classifier:
        np.testing.assert_array_equal(ours[path], theirs[path])


def test_convert_of_another_depth_is_one_sentence(convert_state):
    shapes = torchvision_names((3, 8, 36, 3))
    with pytest.raises(UserError) as error:
        convert_state({name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()})
    assert str(error.value).endswith(
        "m.pth: its third stage has 36 blocks; depths that can be converted: 14 (1), 50 (6), 101 (23)"
    )


def test_convert_of_a_resnet_draws_what_it_lacks(tmp_path, capsys):
    (tmp_path / "names.txt").write_text(NAMES)
    source = draw(torchvision_names((1, 1, 1, 1), width=8))
    safetensors.numpy.save_file(source, tmp_path / "resnet.safetensors")
    out = str(tmp_path / "imagenet")
    arguments = ["--label_names", str(tmp_path / "names.txt")]
    assert command.main([str(tmp_path / "resnet.safetensors"), out, *arguments]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  85 tensors taken: manet, num_classes 3, embedding_dim 300, num_groups 0, dropout 0.5, dtype float32, "
        "remat False, depth 14, width 8, shift True, shift_div 8, se True",
        "  assumed: 8 frames of 224 x 224 pixels",
        "  2 unused left out: fc (ImageNet's classes)",
        "  17 unused left out: num_batches_tracked",
        f"  14 variables are fresh, random: train from it with --config.init_from={out}",
    ]
    ours, metadata = read_checkpoint(out)
    assert metadata.labels.names == ("nodding", "waving", "tiptoe")
    assert metadata.source["holds"] == "a torchvision ResNet"
    assert metadata.source["tensors"] == len(ours) - len(metadata.fresh) == 85
    assert metadata.source["unused"] == {"fc (ImageNet's classes)": 2, "num_batches_tracked": 17}
    np.testing.assert_array_equal(ours["params.stem.conv.kernel"], source["conv1.weight"].transpose(2, 3, 1, 0))
    assert ours["params.heads.classifier.linear.kernel"].shape == (256, 3)
    assert np.std(ours["params.heads.classifier.linear.kernel"]) == pytest.approx(0.001, rel=0.1)
    assert {path for path in ours if ".heads." in path or ".se." in path} == set(metadata.fresh)


def test_convert_keeps_half_precision_as_float32(tmp_path, small):
    state, notes = read_small(small)
    for dtype in (np.float16, jnp.bfloat16):
        name = f"{np.dtype(dtype).name}"
        halved = {key: value.astype(dtype) for key, value in state.items()}
        safetensors.numpy.save_file(halved, tmp_path / f"{name}.safetensors", notes)
        convert(tmp_path / f"{name}.safetensors", tmp_path / name)
        ours, _ = read_checkpoint(tmp_path / name)
        kernel = ours["params.heads.classifier.linear.kernel"]
        assert kernel.dtype == np.float32
        np.testing.assert_array_equal(kernel.T, halved["cls_head.fc_cls.weight"].astype(np.float32))


def test_convert_keeps_what_was_never_trained(tmp_path, caplog):
    save_checkpoint(tmp_path / "imagenet", fresh=("params.heads.classifier.linear.bias",))
    manet_jax.load_model(tmp_path / "imagenet")
    assert "imagenet has 1 variables that were never trained, only drawn" in caplog.text
    to_pytorch(tmp_path / "imagenet", tmp_path / "m.safetensors")
    assert convert(tmp_path / "m.safetensors", tmp_path / "back").fresh == ("params.heads.classifier.linear.bias",)


ONES = {"backbone.conv1.bn.weight": np.ones(2, np.float32)}
LABELS = {"names": ["a", "b"], "group_names": ["a", "b"], "groups": [0, 1]}
OPTIONS = {**json.loads(json.dumps(dataclasses.asdict(tiny_manet().options))), "depht": 50}
EMOTION = json.loads(json.dumps(ModelSpec("emotion", EmotionNetOptions.tiny()).to_json()))


@pytest.mark.parametrize(
    ("state", "notes", "message"),
    [
        (
            {"encoder.weight": np.ones(2, np.float32)},
            None,
            "holds neither the released MANet .* its names: encoder.weight$",
        ),
        (
            ONES,
            {"model": 1},
            "the notes in its metadata are not those that --to_pytorch writes, or describe a model that",
        ),
        (ONES, {"format": FORMAT, "model": 1}, "are not those that --to_pytorch writes, or describe a model that"),
        (
            ONES,
            {"format": FORMAT, "model": {"name": "manet", "options": OPTIONS}, "labels": LABELS, "fresh": []},
            r"describe a model that this version cannot make \(.*depht",
        ),
        (
            ONES,
            {"format": FORMAT, "model": {"name": "manett", "options": OPTIONS}, "labels": LABELS, "fresh": []},
            r"describe a model that this version cannot make \('manett'\)",
        ),
        (
            ONES,
            {"format": FORMAT, "model": EMOTION, "labels": LABELS, "fresh": []},
            "its notes describe a network 'emotion', but its tensors are those of the released MANet",
        ),
        (
            ONES,
            {"model": {"depht": 50}, "labels": LABELS, "config": {}, "fresh": []},
            "describe a model that this version cannot make",
        ),
    ],
)
def test_convert_of_other_content_is_one_sentence(tmp_path, unchecked, state, notes, message):
    metadata = {"manet_jax": json.dumps(notes)} if notes else None
    safetensors.numpy.save_file(state, tmp_path / "a.safetensors", metadata)
    with pytest.raises(UserError, match=message) as error:
        convert(tmp_path / "a.safetensors", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_convert_that_cannot_write_is_one_sentence(tmp_path, small):
    run = shutil.copytree(small / "run", tmp_path / "run")
    for out, message in (
        ("", "^the name of the output is empty; give a path$"),
        (next(run.rglob("_METADATA")), "_METADATA exists already; give another name, or remove it first$"),
    ):
        with pytest.raises(UserError, match=message):
            convert(small / "small.safetensors", out)
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "checkpoints").write_text("")
    with pytest.raises(UserError, match=r"blocked cannot be written \(.*\); give another folder$"):
        convert(small / "small.safetensors", tmp_path / "blocked")


def test_to_pytorch_writes_safetensors_alone(tmp_path, small):
    with pytest.raises(UserError, match=r"m.pth: only .safetensors files are written; give it that ending$"):
        to_pytorch(small / "run", tmp_path / "m.pth")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"m.safetensors cannot be written"):
        to_pytorch(small / "run", tmp_path / "file" / "m.safetensors")
    (tmp_path / "mine.safetensors").write_text("precious")
    with pytest.raises(UserError, match=r"mine.safetensors exists already; give another name, or remove it first$"):
        to_pytorch(small / "run", tmp_path / "mine.safetensors")
    assert (tmp_path / "mine.safetensors").read_text() == "precious"
    with pytest.raises(UserError, match=r"^the name of the output is empty; give a path$"):
        to_pytorch(small / "run", "")
    assert not list(tmp_path.rglob("*.partial"))
    with pytest.raises(UserError, match="holds no checkpoint"):
        to_pytorch(small / "run", tmp_path / "m.safetensors", "latest")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--to_pytorch", "--label_names=x"], "--label_names has no use with --to_pytorch: a workdir has its classes"),
        (["--to_pytorch", "--drop_classifier"], "--drop_classifier has no use with --to_pytorch or --label_names"),
        (["--label_names=x", "--drop_classifier"], "--drop_classifier has no use with --to_pytorch or --label_names"),
        (["--checkpoint=latest"], "--checkpoint is for --to_pytorch only"),
        (["--checkpoint=oldest"], "invalid choice"),
    ],
)
def test_command_refuses_flags_that_it_would_ignore(capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        command.main(["a", "b", *flags])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_converted_weights_are_evaluated_and_not_trained_over(tmp_path, folder):
    config = shrink(ma52.get_config(), folder)
    names = tmp_path / "names.txt"
    names.write_text(NAMES)
    save_checkpoint(tmp_path / "run", tiny_manet(num_classes=3))
    to_pytorch(tmp_path / "run", tmp_path / "m.safetensors")
    convert(tmp_path / "m.safetensors", tmp_path / "converted", str(names))
    with pytest.raises(
        UserError,
        match=r"converted holds converted weights, which have no location of data: add --config configs/ma52.py",
    ):
        evaluate.evaluate_checkpoint(tmp_path / "converted")
    values = evaluate.evaluate_checkpoint(tmp_path / "converted", config=config).metrics
    assert values["step"] == 0
    assert 0 <= values["action_top1"] <= 1
    with pytest.raises(UserError, match=r"converted; train in another folder, from them with --config.init_from="):
        train.train_and_evaluate(config, tmp_path / "converted")
    with pytest.raises(UserError, match=r"holds a checkpoint already; give another folder$"):
        convert(tmp_path / "m.safetensors", tmp_path / "converted", str(names))
