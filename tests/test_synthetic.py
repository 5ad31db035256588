import sys

import numpy as np
import pytest
from PIL import Image

from tfds_ma52.labels import MA52_NAMES
from tfds_ma52.synthetic.__main__ import main


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("--size=0", "size"),
        ("--size=nan", "size"),
        ("--short_side=63", "short_side"),
        ("--short_side=8", "short_side"),
        ("--seed=-1", "seed"),
        ("--processes=-1", "processes"),
    ],
)
def test_command_refuses_bad_options(option, word, tmp_path, capsys):
    assert main([str(tmp_path / "set"), option]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"tfds_ma52.synthetic: {word}")
    assert error.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_command_refuses_unknown_options_and_files(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), "--size=many"])
    assert stop.value.code == 2
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert main([str(tmp_path / "file" / "below")]) == 2
    assert "cannot be read or written" in capsys.readouterr().err


@pytest.mark.slow
def test_preview_writes_gifs_and_a_contact_sheet(tmp_path, capsys):
    assert main([str(tmp_path / "preview"), "--preview", "--short_side=32"]) == 0
    gifs = sorted((tmp_path / "preview" / "gifs").iterdir())
    assert [gif.stem for gif in gifs] == [f"{i:02d}_{name.replace(' ', '_')}" for i, name in enumerate(MA52_NAMES)]
    with Image.open(gifs[9]) as gif:
        assert gif.n_frames > 20
        assert gif.size == (32, 38)
    with Image.open(tmp_path / "preview" / "contact_sheet.jpg") as sheet:
        assert sheet.size[0] > 1000
        assert np.asarray(sheet).std() > 20
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "file"), "--preview"]) == 2
    assert "cannot write there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--short_side=0", "short_side is 0; give an even number from 32 to 2160."),
        ("--seed=-1", "seed is -1; give 0 or more."),
        ("--size=0.5", "--preview takes no --size: it draws one clip of each class"),
        ("--test", "--preview takes no --test: it draws one clip of each class"),
    ],
)
def test_preview_refuses_bad_options(option, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        sys.exit(main([str(tmp_path / "preview"), "--preview", option]))
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "preview").exists()
