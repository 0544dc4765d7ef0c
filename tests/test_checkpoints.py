import ast
import inspect
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

import heated
from heated.checkpoints import CODE, code_digest, fingerprint, keep, restore

# Imported by the training, but without a say in which weights come out.
NO_WEIGHTS = {
    "errors": "words only",
    "files": "reads and writes bytes as they are",
    "history": "writes down what the training gave",
}

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(-9, 9) | st.text(max_size=3)
VALUES = st.dictionaries(st.text(max_size=3), SCALARS | st.lists(SCALARS, max_size=2), min_size=1)


@given(VALUES, st.randoms(use_true_random=False))
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(made_by, random):
    keys = list(made_by)
    random.shuffle(keys)
    shuffled = {"inner": {key: made_by[key] for key in keys}}
    assert fingerprint(shuffled) == fingerprint({"inner": made_by})


@given(VALUES, st.data())
def test_a_fingerprint_changes_with_any_value(made_by, data):
    key = data.draw(st.sampled_from(sorted(made_by)))
    assert fingerprint({**made_by, key: "another value"}) != fingerprint(made_by)
    assert fingerprint({k: v for k, v in made_by.items() if k != key}) != fingerprint(made_by)


def test_a_fingerprint_tells_the_order_of_a_list_and_nearby_numbers_apart():
    prints = [{"a": [16.0, 4.0]}, {"a": [4.0, 16.0]}, {"a": [16.0, 4.0 + 1e-12]}, {"a": "16.0"}]
    assert len({fingerprint(made_by) for made_by in prints}) == len(prints)


def test_a_fingerprint_is_64_hexadecimal_digits():
    assert len(fingerprint({})) == 64
    assert int(fingerprint({}), 16) >= 0


def test_a_fingerprint_of_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"lr": float("nan")})


@pytest.fixture
def code(tmp_path, monkeypatch):
    """Writes the source of a module of the package, and gives the package's digest with it."""
    monkeypatch.setattr(heated, "__path__", [str(tmp_path), *heated.__path__])

    def digest(source):
        (tmp_path / "made_up.py").write_text(source, encoding="utf-8")
        return code_digest(["initialisation", "made_up"])

    return digest


def test_a_comment_and_the_layout_do_not_change_the_codes_digest(code):
    plain = code("x = f(1, 2)\ny = 3\n")
    assert code("# why\nx = f(\n    1,\n    2,  # two\n)\n\n\ny = 3\n") == plain


@pytest.mark.parametrize("changed", ["x = f(1, 3)\ny = 3\n", "y = 3\nx = f(1, 2)\n", "y = 3\n"])
def test_a_change_of_the_code_changes_its_digest(code, changed):
    assert code(changed) != code("x = f(1, 2)\ny = 3\n")


def test_the_codes_digest_is_of_every_module_named():
    every = code_digest()
    for module in CODE:
        assert code_digest(name for name in CODE if name != module) != every


def imported(module):
    """The modules of the package that a module imports, in either of the two forms in use."""
    tree = ast.parse(inspect.getsource(import_module(f"heated.{module}")))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "heated":
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("heated."):
            yield node.module.split(".")[1]


def closure(*modules):
    found, waiting = set(), list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += imported(module)
    return found


def test_every_module_that_decides_on_weights_is_part_of_the_codes_digest():
    assert closure("training", "models") - set(NO_WEIGHTS) <= set(CODE)


def test_no_module_is_part_of_the_codes_digest_without_being_used():
    assert set(CODE) <= closure("runs")
    assert not set(CODE) & set(NO_WEIGHTS)


RECORD = {"history": [{"epoch": 0, "loss": 0.1}], "seconds": 1.5}


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "made" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"\x00weights\xff")
    return path


def test_what_was_kept_is_restored_byte_for_byte_with_its_record(tmp_path, model):
    keep(tmp_path / "cache", "key", model, RECORD)
    target = tmp_path / "new" / "seed-0.safetensors"
    assert restore(tmp_path / "cache", "key", target) == RECORD
    assert target.read_bytes() == model.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["seed-0.safetensors"]


def test_the_kept_copy_is_not_the_models_own_file(tmp_path, model):
    keep(tmp_path / "cache", "key", model, RECORD)
    before = model.read_bytes()
    model.write_bytes(b"other")
    restore(tmp_path / "cache", "key", tmp_path / "back")
    (tmp_path / "back").write_bytes(b"spoilt")
    restore(tmp_path / "cache", "key", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == before


def test_what_was_kept_last_is_restored(tmp_path, model):
    keep(tmp_path / "cache", "key", model, RECORD)
    model.write_bytes(b"newer")
    keep(tmp_path / "cache", "key", model, {"history": []})
    assert restore(tmp_path / "cache", "key", tmp_path / "back") == {"history": []}
    assert (tmp_path / "back").read_bytes() == b"newer"


def test_what_was_never_kept_is_not_restored(tmp_path, model):
    keep(tmp_path / "cache", "key", model, RECORD)
    assert restore(tmp_path / "cache", "other", tmp_path / "back") is None
    assert not (tmp_path / "back").exists()


def test_half_an_entry_is_not_used_and_makes_room_for_a_whole_one(tmp_path, model):
    half = tmp_path / "cache" / "key"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    assert restore(tmp_path / "cache", "key", tmp_path / "back") is None
    assert not (tmp_path / "back").exists()
    keep(tmp_path / "cache", "key", model, RECORD)
    assert restore(tmp_path / "cache", "key", tmp_path / "back") == RECORD


def test_keeping_that_fails_leaves_nothing(tmp_path, model):
    with pytest.raises(ValueError, match="not JSON compliant"):
        keep(tmp_path / "cache", "key", model, {"loss": float("nan")})
    assert list((tmp_path / "cache").iterdir()) == []
