import io
import tarfile
import zipfile
from itertools import product

import pytest

from heated.common import archives
from heated.common.errors import InputError

FILES = {"set/b/2.bin": b"two" * 1000, "set/a/1.bin": b"one", "set/notes.txt": b""}
KINDS = ("zip", "tar", "tgz")


def write(path, files, kind):
    """An archive of this kind, with the files in their order and a directory's own entry."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("set")
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz" if kind == "tgz" else "w") as archive:
            folder = tarfile.TarInfo("set")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return path


def test_files_are_listed_and_read_in_the_order_they_are_stored(tmp_path):
    for kind in KINDS:
        place, wanted = write(tmp_path / "a", FILES, kind), ["set/a/1.bin", "set/b/2.bin"]
        assert archives.names(place) == list(FILES)
        assert list(archives.read(place, wanted)) == [(n, FILES[n]) for n in reversed(wanted)]
        assert archives.read_one(place, "set/a/1.bin") == b"one"


def test_a_file_that_is_not_there_is_named(tmp_path):
    for kind in KINDS:
        place = write(tmp_path / "a", FILES, kind)
        with pytest.raises(InputError, match=r"lacks set/c\.bin and 1 more"):
            list(archives.read(place, ["set/a/1.bin", "set/c.bin", "set/d.bin"]))


def test_names_are_normalized_and_nothing_is_written(tmp_path):
    """A name that leads out of the archive is only a name, as nothing is unpacked."""
    for kind in KINDS:
        place = write(tmp_path / "a", {"./set//1.bin": b"one", "../up.txt": b"up"}, kind)
        assert archives.names(place) == ["set/1.bin", "../up.txt"]
        assert archives.read_one(place, "../up.txt") == b"up"
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


def test_a_link_in_a_tar_is_refused_as_it_has_no_bytes(tmp_path):
    for type_ in [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]:
        with tarfile.open(tmp_path / "a", "w") as archive:
            entry = tarfile.TarInfo("set/link")
            entry.type, entry.linkname = type_, "set/a/1.bin"
            archive.addfile(entry)
        with pytest.raises(InputError, match="link or device"):
            archives.names(tmp_path / "a")


def test_what_grows_beyond_all_reason_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SMALL", 10_000)
    for kind in ("zip", "tgz"):
        place = write(tmp_path / "a", {"zeros": bytes(10_000_000)}, kind)
        assert place.stat().st_size < 100_000
        with pytest.raises(InputError, match="10000000 bytes up to the member 'zeros'"):
            archives.names(place)
    monkeypatch.setattr(archives, "LARGEST_MEMBER", 2000)
    for kind in KINDS:
        with pytest.raises(InputError, match="allowed: 2000 a member"):
            archives.names(write(tmp_path / "a", FILES, kind))


def test_damage_is_told(tmp_path, subtests):
    place, noise = tmp_path / "a", bytes(range(256)) * 20
    files = {f"{n}.bin": bytes((n * i) % 251 for i in range(5000)) for n in range(20)}
    damaged = {"no archive": b"<html>not found</html>" * 100}
    for share, kind in product([0.3, 0.9], KINDS):
        content = write(place, files, kind).read_bytes()
        damaged[f"{kind} cut at {share}"] = content[: int(len(content) * share)]
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(place, "w", method) as archive:
            archive.writestr("a.bin", noise)
        content = place.read_bytes()
        damaged[f"zip by method {method}"] = content[:60] + b"\xff" * 20 + content[80:]
    for name, content in damaged.items():
        with subtests.test(name=name):
            place.write_bytes(content)
            with pytest.raises(InputError, match="is damaged or no archive"):
                list(archives.read(place, archives.names(place)))


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [(6, 1, "is encrypted"), (8, 9, "method is not supported")],  # the flags, and deflate64
    ids=["encrypted", "deflate64"],
)
def test_a_zip_that_cannot_be_unpacked_is_told_with_what_can(tmp_path, place, value, told):
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.writestr("a.bin", b"one")
    content = bytearray((tmp_path / "a").read_bytes())
    content[place] = content[content.index(b"PK\1\2") + place + 2] = value
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match=rf"{told}.*allowed: a zip that is stored or deflated"):
        archives.read_one(tmp_path / "a", "a.bin")
