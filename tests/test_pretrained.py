import dataclasses
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from conftest import shrink, write_folder
from golden import inputs

import manet_jax
from configs import ma52
from manet_jax import checkpoint, evaluate, nets, pretrained, train
from tfds_ma52.errors import UserError
from tfds_ma52.labels import MA52

OPTIONS = {"num_classes": 52, "embedding_dim": 6, "depth": 14, "width": 8, "num_segments": 4, "shift_div": 4}
METADATA = {
    "config": {"data": {"short_side": 40, "crop_size": 32, "manual_dir": "/home/me/secret"}, "seed": 3},
    "labels": dataclasses.asdict(MA52),
    "versions": {},
}


def random_variables(options, seed=0):
    _, variables = nets.abstract_variables(options)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.array(rng.uniform(0.1, 1, x.shape), x.dtype), variables)


def save_checkpoint(workdir, options=OPTIONS, seed=0):
    variables = random_variables(options, seed)
    checkpoints = checkpoint.Checkpoints(workdir)
    checkpoints.save("best", 7, {"model": variables}, METADATA | {"model": options})
    checkpoints.close()
    return variables


def variables_of(workdir):
    _, variables, metadata = checkpoint.read_model(workdir, "best")
    return checkpoint.flatten(variables), metadata


def small_state(tmp_path):
    """The release's names and layouts for a small model, with its notes, as --to_pytorch writes them."""
    save_checkpoint(tmp_path / "run")
    pretrained.to_pytorch(tmp_path / "run", tmp_path / "small.safetensors")
    with safetensors.safe_open(tmp_path / "small.safetensors", "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.parametrize("changed", [{}, {"se": False, "embedding_dim": 0}, {"shift": False, "num_classes": 52}])
def test_to_pytorch_and_back_is_bit_identical(tmp_path, changed):
    variables = checkpoint.flatten(save_checkpoint(tmp_path / "run", OPTIONS | changed))
    assert pretrained.main(["--to_pytorch", str(tmp_path / "run"), str(tmp_path / "out" / "m.safetensors")]) == 0
    assert pretrained.main([str(tmp_path / "out" / "m.safetensors"), str(tmp_path / "back")]) == 0
    back, metadata = variables_of(tmp_path / "back")
    assert back.keys() == variables.keys()
    for path, value in variables.items():
        np.testing.assert_array_equal(back[path], value)
    assert metadata["model"] == OPTIONS | changed
    # Of the config the network and the frames, and no path of the machine that it was trained on.
    assert metadata["config"]["data"] == {"short_side": 40, "crop_size": 32}
    assert metadata["config"]["model"]["num_segments"] == 4
    assert "secret" not in json.dumps(metadata)
    assert metadata["labels"]["names"] == list(MA52.names)
    assert metadata["fresh"] == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m.safetensors"]
    assert (tmp_path / "out" / "m.safetensors").stat().st_mode & 0o044 == 0o044


def test_the_release_to_us_and_back_is_bit_identical(tmp_path, capsys):
    # Seed 1, and the names as DataParallel writes them.
    source = inputs.weights(1)
    safetensors.numpy.save_file({f"module.{name}": value for name, value in source.items()}, tmp_path / "m.safetensors")
    assert pretrained.main([str(tmp_path / "m.safetensors"), str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    network = "depth 50, 52 classes, squeeze-and-excitation, joint embedding; 8 frames, with temporal shift"
    for line in (
        f"303 tensors taken: {network}",
        "48 unused left out: action_p2_*",
        "53 unused left out: num_batches_tracked",
    ):
        assert line in printed
    pretrained.to_pytorch(tmp_path / "run", tmp_path / "back.safetensors")
    back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    assert back.keys() == {name for name in source if "action_p2" not in name and "tracked" not in name}
    for name, value in back.items():
        np.testing.assert_array_equal(value, source[name])

    # A few places by hand: PyTorch keeps the output first, and a 1x1 convolution's kernel in 4 dimensions.
    ours, metadata = variables_of(tmp_path / "run")
    where = "params.blocks.3"  # the first block of the second stage
    np.testing.assert_array_equal(
        ours[f"{where}.conv2.conv.kernel"][2, 0, 5, 9], source["backbone.layer2.0.conv2.conv.weight"][9, 5, 2, 0]
    )
    np.testing.assert_array_equal(
        ours[f"{where}.conv1.conv.kernel"][5, 9], source["backbone.layer2.0.conv1.conv.net.weight"][9, 5, 0, 0]
    )
    np.testing.assert_array_equal(
        ours[f"{where}.se.excite.kernel"][5, 9], source["backbone.layer2.0.conv1.conv.fcce.2.weight"][9, 5]
    )
    np.testing.assert_array_equal(
        ours["batch_stats.blocks.3.shortcut.bn.var"], source["backbone.layer2.0.downsample.bn.running_var"]
    )
    np.testing.assert_array_equal(ours["params.embedding_out.kernel"][5, 9], source["cls_head.fc_emb_t.weight"][9, 5])
    assert metadata["model"]["depth"] == 50
    assert metadata["source"]["file"] == "m.safetensors"
    assert manet_jax.load_model(tmp_path / "run").labels == MA52


def test_all_that_is_wrong_with_a_file_is_named_at_once(tmp_path, capsys):
    state, notes = small_state(tmp_path)
    state["backbone.layer1.0.conv2.conv.wieght"] = state.pop("backbone.layer1.0.conv2.conv.weight")  # renamed
    state["cls_head.fc_cls.weight"] = np.ascontiguousarray(state["cls_head.fc_cls.weight"].T)  # transposed
    del state["backbone.layer3.0.conv1.bn.running_var"]
    state["cls_head.fc_emb.bias"][2] = np.nan
    safetensors.numpy.save_file(state, tmp_path / "bad.safetensors", notes)
    assert pretrained.main([str(tmp_path / "bad.safetensors"), str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"manet_jax: {tmp_path}/bad.safetensors is not quite a MANet of this project: 5 problems",
        "  unknown: backbone.layer1.0.conv2.conv.wieght [8, 8, 3, 3]",
        "  missing: backbone.layer1.0.conv2.conv.weight [8, 8, 3, 3]",
        "  missing: backbone.layer3.0.conv1.bn.running_var [32]",
        "  shape: cls_head.fc_cls.weight is [256, 52], should be [52, 256]",
        "  values: cls_head.fc_emb.bias has some that are not finite numbers",
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", ["cls_head.fc_cls.weight", "cls_head.fc_emb.weight", "backbone.conv1.conv.weight"])
def test_a_transposed_tensor_of_the_release_is_named_alone(tmp_path, wrong, monkeypatch):
    # Sizes are read off the weights only where there is no other sign of them.
    state = {name: np.broadcast_to(np.float32(1), shape) for name, shape in inputs.SHAPES.items()}
    monkeypatch.setattr(pretrained, "read_state_dict", lambda path: (state, {}))
    state[wrong] = state[wrong].swapaxes(0, 1)
    with pytest.raises(UserError) as error:
        pretrained.convert(tmp_path / "m.pth", tmp_path / "out")
    assert str(error.value).count("\n") == 1
    assert f"shape: {wrong}" in str(error.value)


def torchvision_names(layers):
    """Names and shapes of torchvision's ResNets with bottlenecks (width 64)."""
    shapes = {"conv1.weight": (64, 3, 7, 7), "fc.weight": (1000, 2048), "fc.bias": (1000,)}

    def add_bn(name, size):
        shapes.update({f"{name}.{part}": (size,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    add_bn("bn1", 64)
    before = 64
    for stage, (blocks, size) in enumerate(zip(layers, (64, 128, 256, 512), strict=True), 1):
        for block in range(blocks):
            where = f"layer{stage}.{block}"
            for i, (kernel, out) in enumerate([((size, before, 1, 1), size), ((size, size, 3, 3), size)], 1):
                shapes[f"{where}.conv{i}.weight"] = kernel
                add_bn(f"{where}.bn{i}", out)
            shapes[f"{where}.conv3.weight"] = (4 * size, size, 1, 1)
            add_bn(f"{where}.bn3", 4 * size)
            if block == 0:
                shapes[f"{where}.downsample.0.weight"] = (4 * size, before, 1, 1)
                add_bn(f"{where}.downsample.1", 4 * size)
            before = 4 * size
    return shapes


def test_the_names_of_resnet_50_are_torchvisions():
    # 25,557,032 parameters, of which the classifier has 2,049,000; 53 BatchNorms, each with two vectors and a count.
    shapes = torchvision_names((3, 4, 6, 3))
    trained = [shape for name, shape in shapes.items() if "running" not in name and "tracked" not in name]
    assert sum(int(np.prod(shape)) for shape in trained) == 25_557_032
    assert len(shapes) == 320


@pytest.fixture
def convert_names(monkeypatch, tmp_path):
    """Converts a state dict of so many tensors that only their names and shapes can be real; returns what was saved."""

    def convert(state, label_names=""):
        saved = {}
        monkeypatch.setattr(pretrained, "read_state_dict", lambda path: (state, {}))
        monkeypatch.setattr(pretrained, "_sha256", lambda path: "0")
        monkeypatch.setattr(pretrained, "_save", lambda out, variables, metadata: saved.update(variables))
        monkeypatch.setattr(nets, "create_variables", lambda options, seed: nets.abstract_variables(options)[1])
        metadata = pretrained.convert("resnet.pth", tmp_path / "out", label_names)
        return checkpoint.flatten(saved), metadata

    return convert


@pytest.mark.parametrize(("layers", "depth"), [((3, 4, 6, 3), 50), ((3, 4, 23, 3), 101)])
def test_torchvisions_resnets_fit(convert_names, layers, depth):
    # Each tensor holds a number of its own, by which it is found again.
    shapes = torchvision_names(layers)
    number = {name: i for i, name in enumerate(shapes)}
    state = {name: np.broadcast_to(np.float32(number[name]), shape) for name, shape in shapes.items()}
    saved, metadata = convert_names(state)
    assert metadata["model"]["depth"] == depth
    assert metadata["source"]["holds"] == "a torchvision ResNet"
    assert metadata["source"]["tensors"] == 5 * (sum(layers) * 3 + 5)  # convolutions, each with a BatchNorm
    assert metadata["source"]["unused"] == {"fc (ImageNet's classes)": 2, "num_batches_tracked": sum(layers) * 3 + 5}
    kinds = {re.sub(r"\d+\.", "", path) for path in metadata["fresh"]}
    head = {f"params.{layer}.{kind}" for layer in HEAD for kind in ("kernel", "bias")}
    assert kinds == head | {"params.blocks.se.squeeze.kernel", "params.blocks.se.excite.kernel"}
    assert {path for path, leaf in saved.items() if isinstance(leaf, jax.ShapeDtypeStruct)} == set(metadata["fresh"])

    # The blocks in order, by their names there; their parts by hand.
    blocks = [f"layer{stage}.{i}" for stage, count in enumerate(layers, 1) for i in range(count)]
    places = {"stem.": "", **{f"blocks.{i}.": f"{block}." for i, block in enumerate(blocks)}}
    parts = {"conv1.conv": "conv1", "conv2.conv": "conv2", "conv3.conv": "conv3", "shortcut.conv": "downsample.0"}
    parts |= {"conv1.bn": "bn1", "conv2.bn": "bn2", "conv3.bn": "bn3", "shortcut.bn": "downsample.1"}
    stem = {"conv": "conv1", "bn": "bn1"}
    names = {"params": {"kernel": "weight", "scale": "weight", "bias": "bias"}}
    names["batch_stats"] = {"mean": "running_mean", "var": "running_var"}
    found = 0
    for place, theirs in places.items():
        for part, module in (stem if place == "stem." else parts).items():
            for tree, kinds in names.items():
                for kind, name in kinds.items():
                    path = f"{tree}.{place}{part}.{kind}"
                    if path in saved:
                        assert (np.asarray(saved[path]) == number[f"{theirs}{module}.{name}"]).all(), path
                        found += 1
    assert found == metadata["source"]["tensors"]


def test_a_resnets_fresh_classifier_is_for_the_classes_that_are_named(convert_names, tmp_path):
    (tmp_path / "names.txt").write_text("0\tnodding\n1\twaving\n2\ttiptoe\n")
    shapes = torchvision_names((3, 4, 6, 3))
    state = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}
    saved, metadata = convert_names(state, str(tmp_path / "names.txt"))
    assert saved["params.classifier.kernel"].shape == (2048, 3)
    assert metadata["labels"]["names"] == ("nodding", "waving", "tiptoe")


def test_a_resnet_of_another_depth_is_one_sentence(convert_names):
    state = {name: np.broadcast_to(np.float32(1), shape) for name, shape in torchvision_names((3, 8, 36, 3)).items()}
    with pytest.raises(UserError, match=r"third stage has 36 blocks; depths that can be converted: .*50 \(6\), 101"):
        convert_names(state)


def test_a_released_file_with_other_classes_needs_their_names(convert_names):
    state = {name: np.broadcast_to(np.float32(1), shape) for name, shape in inputs.SHAPES.items()}
    for name in ("cls_head.fc_cls.weight", "cls_head.fc_cls.bias"):
        state[name] = state[name][:10]
    with pytest.raises(UserError, match="the classifier has 10 classes, but MA-52 has 52: name a file"):
        convert_names(state)


@pytest.mark.parametrize("lost", [".fcce.", "cls_head.fc_emb"])
def test_a_released_file_that_lost_a_whole_part_is_not_taken_for_another_model(convert_names, lost):
    state = {name: np.broadcast_to(np.float32(1), shape) for name, shape in inputs.SHAPES.items() if lost not in name}
    with pytest.raises(UserError, match="is not quite the released MANet") as error:
        convert_names(state)
    missing = [name for name in inputs.SHAPES if lost in name]
    assert all(f"missing: {name} " in str(error.value) for name in missing)
    assert str(error.value).count("\n") == len(missing)


HEAD = ("classifier", "embedding_in", "embedding_out")


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data"), per_split=(("train", 8), ("val", 8)))


@pytest.fixture
def small_config(small_folder):
    config = shrink(ma52.get_config(), small_folder)
    config.num_epochs = config.eval.every_epochs = 1.0
    config.schedule.decay_epochs = ()
    return config


def test_a_run_starts_from_a_checkpoint_except_for_a_head_of_another_size(tmp_path, small_config, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    options = OPTIONS | {"num_classes": 52, "embedding_dim": 50}  # the data has 3 classes, its vectors 50 dimensions
    theirs = checkpoint.flatten(save_checkpoint(tmp_path / "source", options))
    small_config.init_from = str(tmp_path / "source")
    small_config.optimizer.learning_rate = 0.0
    small_config.num_epochs = 2.0  # one step each
    record = train._record
    monkeypatch.setattr(
        train, "_record", lambda scores, step, *rest: (stop if step == 2 else record)(scores, step, *rest)
    )
    with pytest.raises(KeyboardInterrupt):
        train.train_and_evaluate(small_config, tmp_path / "run")
    ours, metadata = variables_of(tmp_path / "run")
    for path, value in ours.items():
        if path.startswith("params."):
            taken = not path.startswith("params.classifier.")
            assert (value.shape == theirs[path].shape and bool((value == theirs[path]).all())) == taken, path
    (origin,) = metadata["initialized_from"]
    assert origin == {
        "part": "",
        "workdir": str(tmp_path / "source"),
        "step": 7,
        "source": None,
        "fresh": ["classifier"],
        "unused": ["classifier"],
    }
    # It goes on without the folder that it started from, and keeps on saying where it came from.
    (tmp_path / "source").rename(tmp_path / "gone")
    monkeypatch.setattr(train, "_record", record)
    train.train_and_evaluate(small_config, tmp_path / "run")
    resumed = manet_jax.load_model(tmp_path / "run", "latest").metadata
    assert resumed["step"] == 2
    assert resumed["initialized_from"] == metadata["initialized_from"]


def test_weights_that_a_checkpoint_has_fresh_itself_are_not_taken(tmp_path):
    theirs = save_checkpoint(tmp_path / "source")
    fresh = ["params.classifier.bias", "params.blocks.1.se.excite.kernel"]
    checkpoints = checkpoint.Checkpoints(tmp_path / "imagenet")
    checkpoints.save("best", 0, {"model": theirs}, METADATA | {"model": OPTIONS, "fresh": fresh})
    checkpoints.close()
    ours = random_variables(OPTIONS, seed=1)
    result, origin = checkpoint.initialize(ours, tmp_path / "imagenet", MA52)
    theirs, ours = checkpoint.flatten(theirs), checkpoint.flatten(ours)
    for path, value in checkpoint.flatten(result).items():
        np.testing.assert_array_equal(value, (ours if path in fresh else theirs)[path])
    assert origin["fresh"] == ["blocks.se.excite", "classifier"]
    assert origin["unused"] == []


def test_the_classifier_of_other_classes_is_not_taken_even_if_their_number_is_the_same(tmp_path):
    theirs = checkpoint.flatten(save_checkpoint(tmp_path / "source"))
    ours = random_variables(OPTIONS, seed=1)
    others = dataclasses.replace(MA52, names=MA52.names[::-1])
    result, origin = checkpoint.initialize(ours, tmp_path / "source", others)
    for path, value in checkpoint.flatten(result).items():
        mine = path.startswith("params.classifier.")
        np.testing.assert_array_equal(value, checkpoint.flatten(ours)[path] if mine else theirs[path])
    assert origin["fresh"] == origin["unused"] == ["classifier"]
    # Downloads of MA-52 spell a few names differently.
    spelt = dataclasses.replace(MA52, names=("Shaking  body", *MA52.names[1:]))
    _, origin = checkpoint.initialize(ours, tmp_path / "source", spelt)
    assert origin["fresh"] == []


def test_variables_that_were_never_trained_are_said_to_be(tmp_path, caplog):
    checkpoints = checkpoint.Checkpoints(tmp_path / "imagenet")
    metadata = METADATA | {"model": OPTIONS, "fresh": ["params.classifier.bias"]}
    checkpoints.save("best", 0, {"model": random_variables(OPTIONS)}, metadata)
    checkpoints.close()
    manet_jax.load_model(tmp_path / "imagenet")
    assert "imagenet has 1 variables that were never trained, only drawn" in caplog.text
    pretrained.to_pytorch(tmp_path / "imagenet", tmp_path / "m.safetensors")
    assert pretrained.convert(tmp_path / "m.safetensors", tmp_path / "back")["fresh"] == ["params.classifier.bias"]


@pytest.mark.parametrize("changed", [{"depth": 50}, {"width": 16}])
def test_a_network_of_another_size_cannot_be_started_from(tmp_path, changed):
    save_checkpoint(tmp_path / "source")
    with pytest.raises(UserError, match=r"network of another size; set config.model to its {'depth': 14, 'width': 8}"):
        checkpoint.initialize(nets.abstract_variables(OPTIONS | changed)[1], tmp_path / "source", MA52)


def test_wrong_places_to_start_from(tmp_path, small_config):
    small_config.init_from = str(tmp_path / "none")
    small_config.data.manual_dir = str(tmp_path / "no data")  # the start is checked before the data
    with pytest.raises(UserError, match=r"config.init_from: .*none/checkpoints/best holds no checkpoint: name the"):
        train.train_and_evaluate(small_config, tmp_path / "run")
    (tmp_path / "resnet.pth").write_bytes(b"")
    small_config.init_from = str(tmp_path / "resnet.pth")
    with pytest.raises(
        UserError, match=r"config.init_from: .*resnet.pth is a file; convert it with python -m manet_jax.pretrained"
    ):
        train.train_and_evaluate(small_config, tmp_path / "run")


def test_converted_weights_are_evaluated_and_never_trained_over(tmp_path, small_config):
    options = OPTIONS | {"num_classes": 3}
    names = tmp_path / "names.txt"
    names.write_text("0\tnodding\n1\twaving\n2\ttiptoe\n")
    save_checkpoint(tmp_path / "run", options)
    pretrained.to_pytorch(tmp_path / "run", tmp_path / "m.safetensors")
    pretrained.convert(tmp_path / "m.safetensors", tmp_path / "converted", str(names))
    with pytest.raises(UserError, match=r"do not know where data lie: add --config configs/ma52.py"):
        evaluate.evaluate_checkpoint(None, tmp_path / "converted", "best")
    values = evaluate.evaluate_checkpoint(small_config, tmp_path / "converted", "best").scores
    assert values["step"] == 0
    assert 0 <= values["action_top1"] <= 1
    with pytest.raises(UserError, match=r"converted; train in another folder, .* --config.init_from="):
        train.train_and_evaluate(small_config, tmp_path / "converted")
    with pytest.raises(UserError, match="holds a checkpoint already; name another folder"):
        pretrained.convert(tmp_path / "m.safetensors", tmp_path / "converted", str(names))


NAMES = {"names": ["a", "b"], "group_names": ["a", "b"], "groups": [0, 1]}


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d / "none.pth", r"there is no file .*none.pth"),
        (lambda d: write(d / "a.safetensors", b"hello"), r"a.safetensors is not a whole .safetensors file \("),
        (lambda d: write(d / "a.safetensors", b""), r"a.safetensors is not a whole .safetensors file \("),
        (lambda d: d, r"is a folder: name a file, or add --to_pytorch"),
    ],
)
def test_files_that_cannot_be_read_are_one_sentence(tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        pretrained.convert(make(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("state", "metadata", "message"),
    [
        (
            {"encoder.weight": np.ones(2, np.float32)},
            {},
            "holds neither the released MANet .* its names: encoder.weight",
        ),
        (
            {"conv1.weight": np.ones(2, np.float32), "module.conv1.weight": np.ones(2, np.float32)},
            {},
            "both with and without 'module.'",
        ),
        ({"backbone.a": np.ones(2, np.float32)}, {"manet_jax": "{"}, "is not a whole .safetensors file"),
        ({"backbone.a": np.ones(2, np.float32)}, {"manet_jax": '{"model": 1}'}, "notes in its metadata are not those"),
        (
            {"backbone.a": np.ones(2, np.float32)},
            {"manet_jax": json.dumps({"model": {"depht": 50}, "labels": NAMES, "config": {}, "fresh": []})},
            "describe a model that this version cannot make",
        ),
    ],
)
def test_files_with_other_content_are_one_sentence(tmp_path, state, metadata, message):
    safetensors.numpy.save_file(state, tmp_path / "a.safetensors", metadata)
    with pytest.raises(UserError, match=message):
        pretrained.convert(tmp_path / "a.safetensors", tmp_path / "out")


def test_half_precision_weights_become_float32(tmp_path):
    state, notes = small_state(tmp_path)
    for dtype in (np.float16, jnp.bfloat16):
        name = f"{np.dtype(dtype).name}"
        safetensors.numpy.save_file(
            {k: v.astype(dtype) for k, v in state.items()}, tmp_path / f"{name}.safetensors", notes
        )
        pretrained.convert(tmp_path / f"{name}.safetensors", tmp_path / name)
        ours, _ = variables_of(tmp_path / name)
        kernel = ours["params.classifier.kernel"]
        assert kernel.dtype == np.float32
        np.testing.assert_array_equal(kernel.T, state["cls_head.fc_cls.weight"].astype(dtype).astype(np.float32))


def test_without_torch_a_pth_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "m.pth").write_bytes(b"anything")
    assert pretrained.main([str(tmp_path / "m.pth"), str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install -e '.[convert]' (or pip install torch)" in line


def test_only_safetensors_are_written(tmp_path):
    save_checkpoint(tmp_path / "run")
    with pytest.raises(UserError, match=r"m.pth: only .safetensors files are written"):
        pretrained.to_pytorch(tmp_path / "run", tmp_path / "m.pth")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"m.safetensors cannot be written"):
        pretrained.to_pytorch(tmp_path / "run", tmp_path / "file" / "m.safetensors")
    (tmp_path / "mine.safetensors").write_text("precious")
    with pytest.raises(UserError, match=r"mine.safetensors exists already"):
        pretrained.to_pytorch(tmp_path / "run", tmp_path / "mine.safetensors")
    assert (tmp_path / "mine.safetensors").read_text() == "precious"
    with pytest.raises(UserError, match="the name of what to write is empty"):
        pretrained.to_pytorch(tmp_path / "run", "")
    assert not list(tmp_path.rglob("*.partial"))
    with pytest.raises(UserError, match="holds no checkpoint"):
        pretrained.to_pytorch(tmp_path / "run", tmp_path / "m.safetensors", "latest")


def test_checkpoints_that_cannot_be_written_are_one_sentence(tmp_path):
    state, notes = small_state(tmp_path)
    safetensors.numpy.save_file(state, tmp_path / "m.safetensors", notes)
    for name in ("", "run/checkpoints/best/7/model/_METADATA"):
        with pytest.raises(UserError, match=r"empty|exists already"):
            pretrained.convert(tmp_path / "m.safetensors", name and tmp_path / name)
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "checkpoints").write_text("")
    with pytest.raises(UserError, match=r"blocked cannot be written \(.*\); name another folder"):
        pretrained.convert(tmp_path / "m.safetensors", tmp_path / "blocked")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--to_pytorch", "--label_names=x"], "--label_names has no use with --to_pytorch"),
        (["--checkpoint=latest"], "--checkpoint is for --to_pytorch only"),
        (["--checkpoint=oldest"], "invalid choice"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        pretrained.main(["a", "b", *flags])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
