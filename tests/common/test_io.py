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
    atomic_write,
    project_root,
    read_arrays,
    read_json,
    remove,
    require_output,
    sha256,
    write_arrays,
    write_csv,
    write_json,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_when_the_block_ends(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent  # the same file system: renaming is atomic
    assert path.read_text() == "new"
    assert names(path.parent) == ["file"]


def test_a_folder_replaces_the_old_one_and_an_error_leaves_the_old_file_or_folder(tmp_path):
    def write(name, content, *, fail=False):
        with atomic_write(tmp_path / name) as temporary:
            if name == "folder":
                temporary.mkdir()
            (temporary / content if name == "folder" else temporary).write_text(content)
            assert not fail

    for name in ("file", "folder"):
        write(name, "old")
        write(name, "new")
        with pytest.raises(AssertionError):
            write(name, "half", fail=True)
    assert (tmp_path / "file").read_text() == "new"
    assert names(tmp_path / "folder") == ["new"]
    assert names(tmp_path) == ["file", "folder"]


def test_a_killed_process_leaves_nothing_under_the_name(tmp_path):
    path = tmp_path / "file"
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path; from heated.common.io import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert not path.exists()
    assert names(tmp_path) != []  # it had begun
    running = tmp_path / f".file.{os.getppid()}.part"  # of a process that is alive
    running.write_text("half")
    write_text(path, "whole")
    assert names(tmp_path) == sorted([running.name, "file"])


def test_remove_deletes_files_and_folders_and_a_missing_output_is_named_with_its_stage(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    assert require_output(tmp_path / "file", "split") == tmp_path / "file"
    for name in ("file", "folder", "nothing"):
        remove(tmp_path / name)
    assert names(tmp_path) == []
    with pytest.raises(FileNotFoundError, match=r"file is missing: the stage 'split' makes it"):
        require_output(tmp_path / "file", "split")


def test_the_root_is_dvcs_in_a_stage_and_else_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert project_root() == tmp_path.resolve()
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.chdir(tmp_path)
    assert project_root() == Path.cwd()


def test_json_round_trips_and_nan_leaves_the_old_file(tmp_path):
    path, value = tmp_path / "file.json", {"recall": [0.1, 1.0, None], "name": "Größe", "n": 3}
    write_json(path, value)
    text = path.read_text(encoding="utf-8")
    assert read_json(path) == json.loads(text) == value
    assert "Größe" in text
    assert text.endswith("}\n")
    for number in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(path, {"loss": number})
    assert path.read_text(encoding="utf-8") == text
    assert names(tmp_path) == ["file.json"]


def test_text_keeps_line_ends_and_csv_has_every_key_and_numbers_to_the_last_bit(tmp_path):
    path, value, text = tmp_path / "file", 0.1 + 0.2, "a\nb\r\nß\n"
    write_text(path, text)
    assert path.read_bytes() == text.encode()
    assert sha256(path) == hashlib.sha256(text.encode()).hexdigest()
    write_csv(path, [{"epoch": 0, "loss": 1.5}, {"epoch": 1, "recall": 0.5, "loss": 0.1}])
    assert path.read_bytes() == b"epoch,loss,recall\n0,1.5,\n1,0.1,0.5\n"
    write_csv(path, [{"name": 'a, "b"', "value": value}])
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["name"] == 'a, "b"'
    assert float(row["value"]) == value


def test_arrays_round_trip_with_value_and_type_and_without_pickle(tmp_path):
    path, objects = tmp_path / "arrays.npz", np.array([{}], dtype=object)
    values = ([1, 2, 3], [True, False], ["a", "ß"], np.ones((2, 3), dtype=np.float32))
    arrays = {f"array_{i}": np.array(value) for i, value in enumerate(values)}
    write_arrays(path, **arrays)
    restored = read_arrays(path)
    assert set(restored) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(restored[name], array, strict=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        write_arrays(tmp_path / "objects.npz", objects=objects)
    assert names(tmp_path) == ["arrays.npz"]
    np.savez(path, objects=objects)
    with pytest.raises(ValueError, match="allow_pickle"):
        read_arrays(path)
