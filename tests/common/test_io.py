import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from heated.common.io import (
    project_root,
    read_arrays,
    read_json,
    remove,
    required,
    sha256,
    whole,
    write_arrays,
    write_csv,
    write_json,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- whole or absent -------------------------------------------------------------------------


def test_a_file_appears_only_when_the_block_ends(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    with whole(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent  # the same file system: a rename is one act
    assert path.read_text() == "new"
    assert names(path.parent) == ["file"]


def write_half(path, *, of_folder):
    """An error with half of a folder or of a file written."""
    with whole(path) as temporary:
        if of_folder:
            temporary.mkdir()
        (temporary / "half" if of_folder else temporary).write_text("half")
        raise ZeroDivisionError


def test_an_error_leaves_the_former_file_or_folder_and_nothing_else(tmp_path):
    (tmp_path / "folder").mkdir()
    for old in (tmp_path / "file", tmp_path / "folder" / "old"):
        old.write_text("old")
    for name in ("file", "folder"):
        with pytest.raises(ZeroDivisionError):
            write_half(tmp_path / name, of_folder=name == "folder")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path / "folder") == ["old"]
    assert names(tmp_path) == ["file", "folder"]


def test_a_folder_replaces_the_one_that_stood_there(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("old")
    with whole(path) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new")
    assert names(path) == ["new"]
    assert names(tmp_path) == ["folder"]


def test_a_killed_process_leaves_nothing_under_the_name(tmp_path):
    path = tmp_path / "file"
    code = (
        "import os, signal, sys; from pathlib import Path; from heated.common.io import whole\n"
        "with whole(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert not path.exists()
    assert names(tmp_path) != []  # it had begun
    beside = tmp_path / f".file.{os.getppid()}.part"  # of one that is alive
    beside.write_text("half")
    write_text(path, "whole")
    assert names(tmp_path) == sorted([beside.name, "file"])


def test_remove_takes_a_file_a_folder_and_what_is_not_there(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    for name in ("file", "folder", "nothing"):
        remove(tmp_path / name)
    assert names(tmp_path) == []


def test_required_gives_what_is_there_and_else_names_the_stage(tmp_path):
    assert required(tmp_path, "split") == tmp_path
    with pytest.raises(FileNotFoundError, match=r"gone is missing: the stage 'split' makes it"):
        required(tmp_path / "gone", "split")


# --- where the project lies ------------------------------------------------------------------


def test_the_root_is_dvcs_where_dvc_runs_a_stage_and_else_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert project_root() == tmp_path.resolve()
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.chdir(tmp_path)
    assert project_root() == Path.cwd()
    assert project_root().is_absolute()


# --- formats ---------------------------------------------------------------------------------


def test_sha256_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(path) == expected
    path.write_bytes(bytes(range(256)) * 5000)
    assert sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_json_comes_back_as_it_went(tmp_path):
    path, value = tmp_path / "file.json", {"recall": [0.1, 1.0, None], "name": "Größe", "n": 3}
    write_json(path, value)
    assert read_json(path) == value
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "Größe" in text
    assert text.endswith("}\n")


def test_json_has_no_nan_and_the_former_file_stays(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("{}")
    for value in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(path, {"loss": value})
    assert path.read_text() == "{}"
    assert names(tmp_path) == ["file.json"]


def test_text_keeps_its_line_ends_and_letters(tmp_path):
    path = tmp_path / "file"
    write_text(path, "a\nb\r\nß\n")
    assert path.read_bytes() == "a\nb\r\nß\n".encode()


def test_csv_has_every_key_in_the_order_they_come_up_and_numbers_to_the_last_bit(tmp_path):
    path, value = tmp_path / "file.csv", 0.1 + 0.2
    write_csv(path, [{"epoch": 0, "loss": 1.5}, {"epoch": 1, "recall": 0.5, "loss": 0.1}])
    assert path.read_bytes() == b"epoch,loss,recall\n0,1.5,\n1,0.1,0.5\n"
    write_csv(path, [{"name": 'a, "b"', "value": value}])
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["name"] == 'a, "b"'
    assert float(row["value"]) == value


def test_arrays_come_back_with_value_and_type(tmp_path):
    path = tmp_path / "arrays.npz"
    arrays = {
        "labels": np.array([1, 2, 3]),
        "train": np.array([True, False]),
        "names": np.array(["a", "ß"]),
        "embeddings": np.ones((2, 3), dtype=np.float32),
    }
    write_arrays(path, **arrays)
    back = read_arrays(path)
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)
    assert names(tmp_path) == ["arrays.npz"]


def test_no_pickle_is_written_or_read(tmp_path):
    path, things = tmp_path / "arrays.npz", np.array([{}], dtype=object)
    with pytest.raises(ValueError, match="allow_pickle"):
        write_arrays(path, things=things)
    assert names(tmp_path) == []
    np.savez(path, things=things)
    with pytest.raises(ValueError, match="allow_pickle"):
        read_arrays(path)
