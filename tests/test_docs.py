"""The examples in README and docs: Python is run, commands are parsed by the programs that they start."""

import ast
import re
import shlex
import shutil
import sys

import numpy as np
import pytest
from helpers import ROOT, shrink, write_clip, write_folder
from saved_models import save

from configs import ma52, ma52_pro
from manet_jax import configuration, export
from manet_jax.label_vectors import load_label_vectors
from tfds_ma52.labels import LabelSet

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"^```{language}[^\n]*\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page):
    """The commands of a page's shell blocks, continued lines joined, without comments."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [part for line in lines if line for part in split_and(line)]


def split_and(words):
    ends = [i for i, word in enumerate(words) if word == "&&"]
    return [words[i:j] for i, j in zip([0, *(end + 1 for end in ends)], [*ends, len(words)], strict=True)]


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """A folder with the runs and files of the examples, at small size."""
    root = tmp_path_factory.mktemp("examples")
    labels = LabelSet(("nodding", "waving", "tiptoe"), ("head", "hand", "leg"), (0, 1, 2))
    data = write_folder(root / "data", per_split=(("train", 4), ("val", 4)), names=labels.names)
    (data / "label_name.txt").write_text("0\tnodding\thead\n1\twaving\thand\n2\ttiptoe\tleg\n")
    config = shrink(ma52.get_config(), data)
    config.data.builder_config = "original"
    config.clip.num_frames = 8
    vectors = load_label_vectors("", labels.names)
    save(root / "runs/ma52", config, labels, vectors=vectors)
    shutil.copytree(root / "runs/ma52", root / "runs/timesformer")
    fused = shrink(ma52_pro.get_config("fused"), data)
    fused.clip.num_frames = 8
    save(root / "runs/fused", fused, labels, emotions=("fear", "joy"), multilabel=True)
    write_clip(root / "clip.mp4")
    export.export_model(root / "runs/ma52", root / "exported")
    return root


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_examples_run(page, examples, monkeypatch):
    monkeypatch.chdir(examples)
    video = np.zeros((2, 8, 32, 32, 3), np.uint8)
    scope = {"video": video, "appearance": video[:, :2], "detect": lambda image: (1, 2, 30, 40)}
    for block in blocks(page, "python"):
        exec(compile(ast.parse(block), str(page), "exec"), scope)


def test_config_examples_are_sound():
    count = 0
    for page in PAGES:
        for words in commands(page):
            if "manet_jax.main" not in words or "--config" not in words or "..." in words:
                continue
            file, _, argument = words[words.index("--config") + 1].partition(":")
            scope = {}
            exec(compile((ROOT / file).read_text(), file, "exec"), scope)
            config = scope["get_config"](*[argument] if argument else [])
            for word in words:
                if word.startswith("--config."):
                    field, _, value = word.removeprefix("--config.").partition("=")
                    is_text = isinstance(dict(configuration.flatten(config.to_dict()))[field], str)
                    config.update_from_flattened_dict({field: value if is_text else ast.literal_eval(value)})
            configuration.parse(config)
            count += 1
    assert count >= 10


def test_fields_in_docs_exist():
    fields = dict(configuration.flatten(ma52.get_config().to_dict()))
    for page in PAGES:
        for field, _ in re.findall(r"--config\.([a-z_.]+)=(\S*)", page.read_text()):
            assert field in fields or field == "field", (page.name, field)  # a field of that name stands for any


def test_commands_in_docs_exist(run_command):
    """Each module that a page starts has every flag that the page gives it."""
    flags = {}
    for page in PAGES:
        for words in commands(page):
            if words[:2] == ["python", "-m"]:
                found = {word.partition("=")[0] for word in words if word.startswith("--")}
                flags.setdefault(words[2], set()).update(f for f in found if not f.startswith("--config."))
    assert {"manet_jax.main", "manet_jax.predict", "tfds_ma52", "manet_jax.pretrained"} <= flags.keys()
    for module, wanted in flags.items():
        if module in ("pytest", "manet_jax.main"):  # whose help lists flags in another form
            continue
        done = run_command([sys.executable, "-m", module, "--help"])
        assert done.returncode == 0, (module, done.stderr)
        assert not [flag for flag in wanted if flag not in done.stdout], (module, wanted)
