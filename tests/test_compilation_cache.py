import logging

import jax
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from manet_jax import compilation_cache, train

NAMES = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """`settings()` are JAX's; at first no folder is set, and the user's cache folder is `tmp_path`."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update("jax_compilation_cache_dir", None)
    reset_cache()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in NAMES:
        monkeypatch.delenv(name.upper(), raising=False)
    yield lambda: {name: getattr(jax.config, name) for name in NAMES}
    for name, value in before.items():
        jax.config.update(name, value)
    reset_cache()


def test_the_cache_lies_in_the_users_cache_folder(settings, tmp_path):
    compilation_cache.use()
    folder = tmp_path / "manet_jax" / "jax"
    assert settings() == dict(zip(NAMES, (str(folder), True, 2**30, 0.1), strict=True))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir()) == []


def test_without_a_variable_the_cache_folder_is_that_of_the_home(settings, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    compilation_cache.use()
    assert settings()["jax_compilation_cache_dir"] == str(tmp_path / "home" / ".cache" / "manet_jax" / "jax")


@pytest.mark.parametrize(
    ("name", "value"),
    [("jax_compilation_cache_dir", "own"), ("jax_compilation_cache_dir", ""), ("jax_enable_compilation_cache", False)],
)
def test_a_folder_of_the_users_own_or_none_stays(settings, tmp_path, name, value):
    jax.config.update(name, value)
    before = settings()
    compilation_cache.use()
    assert settings() == before
    assert list(tmp_path.iterdir()) == []


def test_bounds_of_the_users_own_stay(settings, monkeypatch):
    before = settings()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "1000")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "5")
    compilation_cache.use()
    assert settings() == before | {"jax_compilation_cache_dir": settings()["jax_compilation_cache_dir"]}


def test_a_folder_that_cannot_be_written_is_a_warning(settings, tmp_path, caplog):
    (tmp_path / "manet_jax").touch()
    before = settings()
    with caplog.at_level(logging.WARNING, "manet_jax"):
        compilation_cache.use()
    assert settings() == before
    assert caplog.messages == [
        f"compiled programs cannot be kept in {tmp_path}/manet_jax/jax (Not a directory), so every start compiles "
        "anew; give another folder with JAX_COMPILATION_CACHE_DIR"
    ]


def test_the_second_start_compiles_no_step(settings, config, tmp_path):
    compilation_cache.use()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    config.num_epochs = 0.1

    def kept_after_a_run(workdir):
        train.train_and_evaluate(config, tmp_path / workdir)
        return {path.name for path in (tmp_path / "manet_jax" / "jax").glob("*-cache")}

    first = kept_after_a_run("first")
    assert {"jit_train_step", "jit_eval_step", "jit_init_fn"} <= {name.partition("-")[0] for name in first}
    # What is compiled is kept, so nothing was.
    assert kept_after_a_run("second") == first
