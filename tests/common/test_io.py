import csv
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path
from random import Random

import mutations
import numpy as np
import pytest
from layouts import full_disk

from heated.common.errors import InputError
from heated.common.history import read_history
from heated.common.io import (
    atomic_write,
    expand_home,
    project_path,
    project_root,
    read_arrays,
    read_embeddings,
    read_json,
    read_record,
    remove,
    rename_in_errors,
    require_output,
    sha256,
    write_arrays,
    write_csv,
    write_json,
    write_record,
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


def test_a_name_with_characters_of_patterns_and_addresses_is_only_a_name(tmp_path):
    (tmp_path / ".a.99999999.part").write_text("of another file")
    (tmp_path / ".*.my notes.part").write_text("of the user")
    for name in ("*", "a?", "[a]", "100% #1 ?x=y&z", "a b"):
        write_text(tmp_path / name, "whole")
        assert (tmp_path / name).read_text() == "whole"
    assert (tmp_path / ".a.99999999.part").exists()
    assert (tmp_path / ".*.my notes.part").exists()


WRITES = {
    "a.json": lambda path: write_json(path, ["x" * 99_999]),
    "a.csv": lambda path: write_csv(path, [{"x": "y" * 99_999}]),
    "a.npz": lambda path: write_arrays(path, x=np.ones(99_999)),
}


@pytest.mark.parametrize("name", WRITES)
def test_on_a_full_disk_the_error_names_the_file_and_the_old_one_stays(tmp_path, name):
    path = tmp_path / "my 100% [folder]" / name
    write_text(path, "old")
    with full_disk(1000), pytest.raises(OSError, match=r"\[Errno \d+\]") as caught:
        WRITES[name](path)
    assert str(path) in str(caught.value)
    assert ".part" not in str(caught.value)
    assert path.read_text() == "old"
    assert names(path.parent) == [name]
    folder = tmp_path / "folder"
    raises = pytest.raises(OSError, match=r"\[Errno")
    with full_disk(1000), raises as caught, atomic_write(folder) as temporary:
        WRITES[name](temporary / name)
    assert f"'{folder / name}'" in str(caught.value)
    assert not folder.exists()


def test_errors_name_the_users_path_in_place_of_a_temporary_one(tmp_path):
    for error in (
        InputError("a.part/x is damaged"),
        OSError("a.part/x"),
        OSError(5, "y", "a.part"),
    ):
        with pytest.raises(type(error)) as caught, rename_in_errors(Path("a.part"), Path("mine")):
            raise error
        assert "mine" in str(caught.value)
        assert "part" not in str(caught.value)


write_object = partial(write_json, value={"a": [1, 2]})
write_settings = partial(write_record, record={"a": [1, 2], "b": {"0": None}})
DAMAGED = {  # by name: how to write it, and to read it
    "data/packed/digits/index.npz": (WRITES["a.npz"], read_arrays, "split"),
    "data/resolved/runs/digits/hbn.json": (write_settings, read_record, "resolve"),
    "runs/digits/hbn/embeddings/seed-0.npz": (WRITES["a.npz"], read_arrays, "embed"),
    "runs/digits/hbn/metrics.json": (write_object, read_json, "evaluate"),
    "runs/digits/hbn/provenance.json": (write_settings, read_record, "train"),
    "runs/digits/hbn/history.csv": (
        lambda path: write_text(path, "seed,epoch,loss\n0,0,0.5\n"),
        read_history,
        "train",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named_with_the_stage_that_writes_it_again(tmp_path, name):
    path, (write, read, stage) = tmp_path / name, DAMAGED[name]
    write(path)
    read(path)  # is whole
    content = path.read_bytes()
    broken = [content[: len(content) // 3], b"<html>", b"\xff\xfe\x00", b"\0" * 4096]
    broken += [] if name.endswith("csv") else [b""]
    for bytes_ in broken:
        path.write_bytes(bytes_)
        with pytest.raises(InputError) as caught:
            read(path)
        assert f"{path} is damaged (" in str(caught.value), bytes_
        assert f"`dvc repro`, which runs the stage '{stage}' again" in str(caught.value)


def test_a_record_with_any_other_content_than_was_written_is_damaged(tmp_path):
    path, record = tmp_path / "runs/digits/triplet/tuned.json", {"chosen": {"lr": 0.1}, "tried": []}
    write_record(path, record)
    assert read_record(path) == record
    written = read_json(path)
    for number in range(300):
        changed = mutations.mutate_tree(Random(number), written)
        path.write_text(json.dumps(changed), encoding="utf-8")
        if changed == written:
            assert read_record(path) == record
        else:
            with pytest.raises(InputError, match="tuned.json is damaged .*the stage 'tune' again"):
                read_record(path)


def test_a_path_of_the_user_may_be_absolute_of_the_home_or_of_the_project(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    for path, expected in {
        "~/my-images": "home/my-images",
        "a/~": "project/a/~",
        "../b": "project/../b",
        str(tmp_path / "c"): "c",
    }.items():
        assert project_path(path) == tmp_path / expected
    with pytest.raises(InputError, match="~nobody-of-this-name/a: .*Use an absolute path"):
        expand_home("~nobody-of-this-name/a")


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
    with pytest.raises(InputError, match="allow_pickle"):
        read_arrays(path)


def test_equal_arrays_are_equal_bytes_under_every_python(tmp_path):
    """The headers of np.savez differ between patch versions, by fields of files above 2 GiB."""
    path = tmp_path / "a.npz"
    write_arrays(path, labels=np.arange(5), train=np.array([True, False]), tested=np.array("x"))
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            assert (info.extract_version, info.extra, info.date_time[0]) == (20, b"", 1980)
    assert sha256(path).startswith("40caf821f25a6b85")


def test_embeddings_with_other_arrays_than_the_stage_writes_are_damaged(tmp_path):
    path, count = tmp_path / "runs/digits/hbn/embeddings/seed-0.npz", 4
    arrays = {
        "embeddings": np.ones((count, 2), np.float32),
        "labels": np.arange(count),
        "query": np.ones(count, bool),
        "gallery": np.ones(count, bool),
    }
    write_arrays(path, **arrays)
    assert [*read_embeddings(path)] == [*arrays]
    wrong = [arrays | {name: array[:-1]} for name, array in arrays.items() if name != "labels"]
    wrong += [arrays | {name: array.astype("S3")} for name, array in arrays.items()]
    wrong += [arrays | {name: array[None]} for name, array in arrays.items()]
    wrong += [{k: v for k, v in arrays.items() if k != name} for name in arrays]
    wrong += [arrays | {name: np.zeros(count, bool)} for name in ("query", "gallery")]
    for each in wrong:
        write_arrays(path, **each)
        with pytest.raises(InputError, match="seed-0.npz is damaged .*the stage 'embed' again"):
            read_embeddings(path)


def test_a_zip_whose_files_start_before_it_is_damaged(tmp_path):
    path = tmp_path / "runs/digits/hbn/embeddings/seed-0.npz"
    write_arrays(path, labels=np.arange(4))
    content = bytearray(path.read_bytes())
    end = content.rindex(b"PK\5\6")  # with the offset of the directory, from which others follow
    content[end + 16 : end + 20] = (2**30).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(InputError, match="seed-0.npz is damaged"):
        read_arrays(path)
