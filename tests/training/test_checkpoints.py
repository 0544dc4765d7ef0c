import ast
import inspect
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from damages import DAMAGES

import heated
from heated.common import tensors
from heated.training import checkpoints
from heated.training.checkpoints import (
    WITHOUT_EFFECT,
    Checkpoint,
    CheckpointCache,
    code_digest,
    code_modules,
    fingerprint,
)

# Modules that training imports, and that do not determine the weights.
WITHOUT_WEIGHTS = {
    "common.errors": "only messages",
    "common.history": "records the results of training",
    "common.io": "reads and writes bytes unchanged",
    "common.tensors": "reads and writes tensors unchanged",
    "common.progress": "shows numbers and changes none",
    "common.samples": "describes the data, whose digest is part of the inputs",
}


def test_a_fingerprint_depends_on_every_value_but_not_on_the_order_of_keys():
    plain = {"alphas": [16.0, 4.0], "lr": {"start": 1, "end": None}}
    changed = [{"alphas": [4.0, 16.0]}, {"alphas": [16.0, 4.0 + 1e-12]}, {"alphas": ["16.0", 4.0]}]
    changed += [{"lr": {"start": 1}}, {"lr": {"start": 2, "end": None}}, {"name": True}]
    assert len({*map(fingerprint, [plain, *(plain | each for each in changed)])}) == 7
    other_order = {"lr": {"end": None, "start": 1}, "alphas": [16.0, 4.0]}
    assert fingerprint(other_order) == fingerprint(plain)
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"lr": float("nan")})


def test_the_code_digest_depends_on_the_code_but_not_on_comments_or_layout(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "PACKAGE", tmp_path)

    def digest(source):
        (tmp_path / "module.py").write_text(source, encoding="utf-8")
        return code_digest(["module"])

    plain = digest("x = f(1, 2)\ny = 3\n")
    assert digest("# why\nx = f(\n    1,\n    2,  # two\n)\n\n\ny = 3\n") == plain
    for changed in ("x = f(1, 3)\ny = 3\n", "y = 3\nx = f(1, 2)\n", "y = 3\n"):
        assert digest(changed) != plain


def test_the_code_digest_covers_every_listed_module(monkeypatch):
    digest, parsed = code_digest(), []
    monkeypatch.setattr(checkpoints.ast, "parse", lambda text: parsed.append(text) or ast.Pass())
    assert code_digest() != digest
    folder = Path(heated.__file__).parent
    paths = [folder / f"{name.replace('.', '/')}.py" for name in code_modules()]
    assert parsed == [path.read_text(encoding="utf-8") for path in paths]


def is_module(name):
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def imported_modules(module):
    """The modules of the package that a module imports."""
    for node in ast.walk(ast.parse(inspect.getsource(import_module(f"heated.{module}")))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("heated"):
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                found = name if is_module(name) else node.module
                if not hasattr(import_module(found), "__path__"):
                    yield found.removeprefix("heated.")


def test_every_module_that_training_imports_is_part_of_the_code_digest():
    covered = set(code_modules())
    assert {"training.loop", "training.monitor", "models.backbones"} <= covered
    assert not covered & WITHOUT_EFFECT
    assert all(is_module(f"heated.{module}") for module in WITHOUT_EFFECT)
    needed = {each for module in covered for each in imported_modules(module)}
    assert "losses.embedding_norm" in needed
    assert needed - covered - WITHOUT_EFFECT <= set(WITHOUT_WEIGHTS) <= needed


EPOCHS = [*[[16.0, 0.1]] * 5, [4.0, 0.1]]


def make_cache(folder, *, inputs=None, epochs=EPOCHS, keep=(), interval_s=300.0, max_size=100.0):
    return CheckpointCache(
        folder, inputs or {"seed": 0}, epochs, frozenset(keep), interval_s, max_size
    )


def make_checkpoint(step, size=4):
    return Checkpoint({"weight": torch.full((size,), float(step))}, {"step": step})


def latest_step(cache):
    return cache.load_latest().record["step"]


def file_names(folder):
    return sorted(path.name.rpartition("-")[0] for path in folder.glob("*/*.safetensors"))


def test_a_checkpoint_is_restored_bit_for_bit_with_its_record(tmp_path):
    values = {
        "weight": torch.randn(3, 4).T,
        "half": torch.randn(5).bfloat16(),
        "count": torch.tensor(7),
        "state": torch.Generator().manual_seed(3).get_state(),
    }
    saved = Checkpoint(values, {"history": [{"loss": 0.1}], "step": 0})
    make_cache(tmp_path).save(saved, 2)
    found = make_cache(tmp_path).load_latest()
    assert found.record == saved.record
    assert set(found.tensors) == set(values)
    assert all(torch.equal(found.tensors[name], value) for name, value in values.items())


def test_the_most_advanced_checkpoint_is_loaded_also_within_an_epoch(tmp_path):
    cache = make_cache(tmp_path, keep=range(9))
    assert cache.load_latest() is None
    for epochs, mid_epoch, step in [(1, False, 1), (3, False, 3), (3, True, 4), (2, True, 2)]:
        cache.save(make_checkpoint(step), epochs, mid_epoch=mid_epoch)
    assert latest_step(cache) == 4


def test_trainings_share_a_checkpoint_exactly_if_inputs_and_epochs_so_far_are_equal(tmp_path):
    for epochs in (5, 6):
        make_cache(tmp_path, keep=range(9)).save(make_checkpoint(epochs), epochs)
    other_end = [*EPOCHS[:5], [2.0, 0.1]]
    assert latest_step(make_cache(tmp_path, epochs=other_end)) == 5
    assert latest_step(make_cache(tmp_path, epochs=EPOCHS[:5])) == 5
    assert make_cache(tmp_path, epochs=[[8.0, 0.1], *EPOCHS[1:]]).load_latest() is None
    assert make_cache(tmp_path, inputs={"seed": 1}).load_latest() is None
    make_cache(tmp_path).path(6).unlink()
    make_cache(tmp_path).save(make_checkpoint(55), 5, mid_epoch=True)  # depends on epoch 5's values
    assert latest_step(make_cache(tmp_path)) == 55
    assert latest_step(make_cache(tmp_path, epochs=other_end)) == 5


def test_the_last_two_checkpoints_are_kept_and_those_of_keep_epochs(tmp_path):
    cache = make_cache(tmp_path, keep=[2])
    for epochs in range(1, 7):
        cache.save(make_checkpoint(epochs), epochs - 1, mid_epoch=True)
        cache.save(make_checkpoint(epochs), epochs)
    assert file_names(tmp_path) == ["after-2", "after-5", "after-6"]


def test_a_damaged_checkpoint_is_deleted_and_the_previous_one_used(tmp_path, capsys):
    cache = make_cache(tmp_path)
    for damage in (b"", b"damaged", *DAMAGES):
        for epochs in (3, 4):
            cache.save(make_checkpoint(epochs), epochs)
        path = cache.path(4)
        path.write_bytes(damage(path.read_bytes()) if callable(damage) else damage)
        assert latest_step(cache) == 3
        assert not path.exists()
        printed = capsys.readouterr().err
        assert f"{path} is damaged" in printed
        assert "the one before is used" in printed
        assert printed.count("\n") == 1


def test_on_a_full_disk_training_continues_without_the_checkpoint(tmp_path, monkeypatch, capsys):
    cache = make_cache(tmp_path)
    cache.save(make_checkpoint(1), 1)

    def save_file(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensors, "save_file", save_file)
    cache.save(make_checkpoint(2), 2)
    message = capsys.readouterr().err
    assert "No space left on device" in message
    assert message.rstrip().endswith("training continues")
    assert latest_step(cache) == 1
    assert file_names(tmp_path) == ["after-1"]


def test_the_least_recently_used_checkpoints_are_deleted_above_the_size_limit(tmp_path):
    count = 2**16
    cache = make_cache(tmp_path, keep=range(9), max_size=3.5 * count * 4 / 2**20)
    for epochs in (1, 2, 3):
        cache.save(make_checkpoint(0, count), epochs)
        os.utime(cache.path(epochs), (epochs, epochs))
    assert make_cache(tmp_path, epochs=EPOCHS[:1]).load_latest() is not None  # uses the first
    cache.save(make_checkpoint(0, count), 4)
    assert file_names(tmp_path) == ["after-1", "after-3", "after-4"]
    make_cache(tmp_path, keep=range(9), max_size=1e-6).save(make_checkpoint(0, count), 5)
    assert file_names(tmp_path) == ["after-5"]  # the newest is kept, whatever its size


def test_a_checkpoint_is_due_after_the_interval(tmp_path):
    assert make_cache(tmp_path, interval_s=0.0).is_due()
    cache = make_cache(tmp_path, interval_s=1000.0)
    assert not cache.is_due()
    cache.saved_at -= 1001
    assert cache.is_due()
    cache.save(make_checkpoint(1), 1)
    assert not cache.is_due()
