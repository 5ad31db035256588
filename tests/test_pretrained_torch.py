"""The extra tests where PyTorch is installed: its own files, and a plain PyTorch MANet on seeds beyond the recorded."""

import os
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
from golden import inputs

torch = pytest.importorskip("torch")

from torch_reference import manet as torch_manet  # noqa: E402

import manet_jax  # noqa: E402
from manet_jax.pretrained import __main__ as command  # noqa: E402
from manet_jax.pretrained import state_dict  # noqa: E402
from manet_jax.pretrained.convert import convert, to_pytorch  # noqa: E402
from tfds_ma52.errors import UserError  # noqa: E402


def released_tensors(seed):
    return {name: torch.tensor(value) for name, value in inputs.weights(seed).items()}


def test_convert_of_mmcvs_file_gives_pytorchs_outputs(tmp_path):
    tensors = released_tensors(7)
    # mmcv keeps the best score, a NumPy number, and the config's text beside the weights.
    meta = {"epoch": 40, "config": "model = dict()", "hook_msgs": {"best_score": np.float64(0.61), "best_ckpt": "x"}}
    torch.save({"meta": meta, "state_dict": tensors}, tmp_path / "best_top1_acc_epoch_40.pth")
    assert command.main([str(tmp_path / "best_top1_acc_epoch_40.pth"), str(tmp_path / "run")]) == 0
    video = inputs.clips(7)
    ours = manet_jax.load_model(tmp_path / "run")({"video": video})
    with torch.no_grad():
        theirs = torch_manet.load(inputs.weights(7))(torch.tensor(video))
    for left, right in zip((ours.logits, ours.embedding), theirs, strict=True):
        assert np.abs(np.asarray(left) - right.numpy()).max() < 1e-5 * right.abs().max().item()

    # And back: plain PyTorch takes every tensor of ours, and none is missing.
    to_pytorch(tmp_path / "run", tmp_path / "back.safetensors")
    state, _ = state_dict.read(tmp_path / "back.safetensors")
    model = torch_manet.load(state | {n: v for n, v in inputs.weights(7).items() if n.endswith("tracked")})
    with torch.no_grad():
        again = model(torch.tensor(video))
    assert torch.equal(again[0], theirs[0])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("outer", ["state_dict", "model_state", "model", ""])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_read_of_all_forms_of_state_dicts(tmp_path, zipped, outer, prefix):
    tensors = {
        f"{prefix}layer1.0.conv1.weight": torch.arange(4.0).half(),
        f"{prefix}bn1.num_batches_tracked": torch.tensor(3),
    }
    content = {outer: tensors, "epoch": 3} if outer else tensors
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    state, notes = state_dict.read(tmp_path / "a.pth")
    assert notes == {}
    assert list(state) == ["layer1.0.conv1.weight", "bn1.num_batches_tracked"]
    assert state["layer1.0.conv1.weight"].tolist() == [0, 1, 2, 3]


def test_read_of_parameters_and_sparse_tensors(tmp_path):
    dense = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    torch.save({"a": torch.nn.Parameter(dense), "b": dense.to_sparse()}, tmp_path / "a.pth")
    state, _ = state_dict.read(tmp_path / "a.pth")
    assert state["a"].tolist() == state["b"].tolist() == dense.tolist()


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_read_with_scores_of_numpy_1_and_2(tmp_path, module):
    content = {"state_dict": {"a": torch.zeros(1)}, "meta": {"best": np.float64(0.5), "epoch": np.int64(3)}}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    raw = (tmp_path / "a.pth").read_bytes()
    written = f"c{np.float64(0).__reduce__()[0].__module__}\n".encode()
    assert written in raw
    (tmp_path / "a.pth").write_bytes(raw.replace(written, f"c{module}\n".encode()))
    assert state_dict.read(tmp_path / "a.pth")[0]["a"].tolist() == [0]


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_read_never_runs_what_a_file_holds(tmp_path, zipped):
    torch.save(
        {"state_dict": {}, "meta": Bomb(tmp_path / "ran")}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(UserError, match=r"a.pth is not a plain file of PyTorch weights: it holds a posix.mkdir"):
        state_dict.read(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "ran"), protocol=2))
    with pytest.raises(UserError, match="nothing of it was run"):
        state_dict.read(tmp_path / "b.pth")
    assert not (tmp_path / "ran").exists()


def cut(path: pathlib.Path):
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


def make_zip(path: pathlib.Path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x", "y")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "is not a plain file of PyTorch weights"),
        (lambda path: path.write_bytes(b"hello world" * 99), "is not a plain file of PyTorch weights"),
        (cut, "is not a plain file of PyTorch weights"),
        (make_zip, "is not a plain file of PyTorch weights"),
        (lambda path: torch.save([1, 2], path), "holds a list, not a dict of tensors"),
        (lambda path: torch.save({"epoch": 3}, path), "holds things that are no tensors of real numbers: epoch"),
        (lambda path: torch.save({"a": torch.zeros(2, dtype=torch.complex64)}, path), "no tensors of real numbers: a"),
        (lambda path: torch.save({"meta": {"a": np.zeros(3)}}, path), r"it holds a numpy.*; nothing of it was run"),
        (lambda path: torch.save({}, path), "its names: none at all"),
    ],
)
def test_convert_of_other_files_is_one_sentence(tmp_path, make, message):
    make(tmp_path / "a.pth")
    with pytest.raises(UserError, match=message) as error:
        convert(tmp_path / "a.pth", tmp_path / "out")
    assert "\n" not in str(error.value)


def test_reference_reproduces_the_golden_float64_run():
    from golden import make_golden

    model = torch_manet.load(inputs.weights(0)).double()
    loss, norm = torch_manet.train_step(
        model,
        torch_manet.create_optimizer(model),
        torch.tensor(inputs.clips(0)),
        torch.tensor(inputs.LABELS),
        torch.tensor(inputs.label_vectors(0)).double(),
    )
    import recorded

    assert loss == pytest.approx(recorded.EXACT["losses"][0], rel=1e-9)
    assert norm == pytest.approx(recorded.EXACT["grad_norms"][0], rel=1e-9)
    target, ranked = make_golden.predictions()
    assert make_golden.published_metrics(target, ranked)["f1_mean"] == pytest.approx(0.3462313368880278)
