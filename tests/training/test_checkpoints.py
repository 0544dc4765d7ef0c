import ast
import inspect
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import heated
from heated.training import checkpoints
from heated.training.checkpoints import (
    WITHOUT_EFFECT,
    Checkpoints,
    code_digest,
    code_modules,
    fingerprint,
)

# Imported by the training, but without a say in which weights come out.
NO_WEIGHTS = {
    "common.errors": "words only",
    "common.io": "reads and writes bytes as they are",
    "common.history": "writes down what the training gave",
    "common.samples": "says which data there are, and their digest is part of the name",
}

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(-9, 9) | st.text(max_size=3)
VALUES = st.dictionaries(st.text(max_size=3), SCALARS | st.lists(SCALARS, max_size=2), min_size=1)


@given(VALUES, st.data())
def test_a_fingerprint_changes_with_any_value_and_not_with_the_order_of_keys(made_by, data):
    shuffled = {key: made_by[key] for key in data.draw(st.permutations(list(made_by)))}
    assert fingerprint({"inner": shuffled}) == fingerprint({"inner": made_by})
    key = data.draw(st.sampled_from(sorted(made_by)))
    assert fingerprint({**made_by, key: "another value"}) != fingerprint(made_by)
    assert fingerprint({k: v for k, v in made_by.items() if k != key}) != fingerprint(made_by)


def test_a_fingerprint_is_64_digits_and_tells_the_order_of_a_list_and_nearby_numbers_apart():
    values = [{"a": [16.0, 4.0]}, {"a": [4.0, 16.0]}, {"a": [16.0, 4.0 + 1e-12]}, {"a": "16.0"}]
    prints = {fingerprint(made_by) for made_by in values}
    assert len(prints) == len(values)
    assert {len(f"{int(each, 16):064x}") for each in prints} == {64}
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"lr": float("nan")})


def test_the_codes_digest_changes_with_the_code_and_not_with_comments_and_layout(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoints, "PACKAGE", tmp_path)

    def digest(source):
        (tmp_path / "made_up.py").write_text(source, encoding="utf-8")
        return code_digest(["made_up"])

    plain = digest("x = f(1, 2)\ny = 3\n")
    assert digest("# why\nx = f(\n    1,\n    2,  # two\n)\n\n\ny = 3\n") == plain
    for changed in ("x = f(1, 3)\ny = 3\n", "y = 3\nx = f(1, 2)\n", "y = 3\n"):
        assert digest(changed) != plain


def test_the_codes_digest_is_of_every_module_named(monkeypatch):
    every, read = code_digest(), []
    monkeypatch.setattr(checkpoints.ast, "parse", lambda text: read.append(text) or ast.Pass())
    assert code_digest() != every
    paths = [
        Path(heated.__file__).parent / f"{name.replace('.', '/')}.py" for name in code_modules()
    ]
    assert read == [path.read_text(encoding="utf-8") for path in paths]


def imported(module):
    """The modules of the package that a module imports."""
    for node in ast.walk(ast.parse(inspect.getsource(import_module(f"heated.{module}")))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("heated"):
            names = [f"{node.module}.{name.name}" for name in node.names]
            for name in names:
                found = name if is_module(name) else node.module
                if not hasattr(import_module(found), "__path__"):
                    yield found.removeprefix("heated.")


def is_module(name):
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_every_module_that_training_imports_is_part_of_the_codes_digest():
    covered = set(code_modules())
    assert {"training.loop", "training.monitor", "models.backbones"} <= covered
    assert not covered & WITHOUT_EFFECT
    assert all(is_module(f"heated.{module}") for module in WITHOUT_EFFECT)
    needed = {each for module in covered for each in imported(module)}
    assert "losses.embedding_norm" in needed
    assert needed - covered - WITHOUT_EFFECT <= set(NO_WEIGHTS)
    assert set(NO_WEIGHTS) <= needed


# --- putting away ----------------------------------------------------------------------------

EPOCHS = [[16.0, 0.1], [16.0, 0.1], [16.0, 0.1], [16.0, 0.1], [16.0, 0.1], [4.0, 0.1]]


def kept(folder, *, beginning=None, epochs=EPOCHS, landmarks=(), every=300.0, budget=100.0):
    return Checkpoints(
        folder, beginning or {"seed": 0}, epochs, frozenset(landmarks), every=every, budget=budget
    )


def tensors(value):
    return {"weight": torch.full((4,), float(value)), "step": torch.tensor(value)}


def names(folder):
    return sorted(path.name.rpartition("-")[0] for path in folder.glob("*/*.safetensors"))


def test_what_was_put_away_comes_back_bit_for_bit_with_its_record(tmp_path):
    values = {
        "weight": torch.randn(3, 4).T,
        "half": torch.randn(5).bfloat16(),
        "count": torch.tensor(7),
        "state": torch.Generator().manual_seed(3).get_state(),
    }
    kept(tmp_path).keep(values, {"history": [{"loss": 0.1}], "step": 0}, 2)
    found = kept(tmp_path).latest()
    assert found.record == {"history": [{"loss": 0.1}], "step": 0}
    assert set(found.tensors) == set(values)
    assert all(torch.equal(found.tensors[name], value) for name, value in values.items())


def test_the_latest_is_the_farthest_also_within_an_epoch(tmp_path):
    checkpoints = kept(tmp_path, landmarks=range(9))
    assert checkpoints.latest() is None
    for epochs, within, value in [(1, False, 1), (3, False, 3), (3, True, 4), (2, True, 2)]:
        checkpoints.keep(tensors(value), {}, epochs, within=within)
    assert checkpoints.latest().tensors["step"] == 4


def test_a_checkpoint_is_found_by_whoever_begins_alike_and_by_nobody_else(tmp_path):
    for epochs in (5, 6):
        kept(tmp_path, landmarks=range(9)).keep(tensors(epochs), {}, epochs)
    other_end = [*EPOCHS[:5], [2.0, 0.1]]
    assert kept(tmp_path, epochs=other_end).latest().tensors["step"] == 5
    assert kept(tmp_path, epochs=EPOCHS[:5]).latest().tensors["step"] == 5
    assert kept(tmp_path, epochs=[[8.0, 0.1], *EPOCHS[1:]]).latest() is None
    assert kept(tmp_path, beginning={"seed": 1}).latest() is None
    kept(tmp_path).path(6).unlink()
    kept(tmp_path).keep(tensors(55), {}, 5, within=True)  # found by who sets the same in the epoch
    assert kept(tmp_path).latest().tensors["step"] == 55
    assert kept(tmp_path, epochs=other_end).latest().tensors["step"] == 5


def test_the_last_two_stay_and_the_landmarks(tmp_path):
    checkpoints = kept(tmp_path, landmarks=[2])
    for epochs in range(1, 7):
        checkpoints.keep(tensors(epochs), {}, epochs - 1, within=True)
        checkpoints.keep(tensors(epochs), {}, epochs)
    assert names(tmp_path) == ["after-2", "after-5", "after-6"]


@pytest.mark.parametrize("damage", [b"", b"torn", None])
def test_a_torn_checkpoint_is_removed_and_the_one_before_it_used(tmp_path, damage, capsys):
    checkpoints = kept(tmp_path)
    for epochs in (3, 4):
        checkpoints.keep(tensors(epochs), {}, epochs)
    path = checkpoints.path(4)
    path.write_bytes(path.read_bytes()[:-3] if damage is None else damage)
    assert checkpoints.latest().tensors["step"] == 3
    assert not path.exists()
    assert "cannot be read" in capsys.readouterr().err


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(tmp_path, monkeypatch, capsys):
    checkpoints = kept(tmp_path)
    checkpoints.keep(tensors(1), {}, 1)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(heated.training.checkpoints, "save_file", full)
    checkpoints.keep(tensors(2), {}, 2)
    assert "No space left on device; training goes on" in capsys.readouterr().err
    assert checkpoints.latest().tensors["step"] == 1
    assert names(tmp_path) == ["after-1"]


def test_the_ones_not_used_for_longest_go_when_the_budget_is_spent(tmp_path):
    size = len(torch.zeros(2**16)) * 4 / 2**20  # MiB
    values = {"weight": torch.zeros(2**16)}
    checkpoints = kept(tmp_path, landmarks=range(9), budget=3.5 * size)
    for epochs in (1, 2, 3):
        checkpoints.keep(values, {}, epochs)
        os.utime(checkpoints.path(epochs), (epochs, epochs))
    assert kept(tmp_path, epochs=EPOCHS[:1]).latest() is not None  # the first is used again
    checkpoints.keep(values, {}, 4)
    assert names(tmp_path) == ["after-1", "after-3", "after-4"]
    kept(tmp_path, landmarks=range(9), budget=1e-6).keep(values, {}, 5)
    assert names(tmp_path) == ["after-5"]  # the newest stays, whatever its size


def test_one_is_due_after_so_many_seconds(tmp_path):
    checkpoints = kept(tmp_path, every=0.0)
    assert checkpoints.due()
    checkpoints = kept(tmp_path, every=1000.0)
    assert not checkpoints.due()
    checkpoints.saved -= 1001
    assert checkpoints.due()
    checkpoints.keep(tensors(1), {}, 1)
    assert not checkpoints.due()
