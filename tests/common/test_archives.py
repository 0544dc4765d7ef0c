import gzip
import io
import tarfile
import tracemalloc
import unicodedata
import zipfile
from itertools import product

import pytest

from heated.common import archives
from heated.common.errors import InputError

FILES = {"set/b/2.bin": b"two" * 1000, "set/a/1.bin": b"one", "set/notes.txt": b""}
KINDS = ("zip", "tar", "tgz")


def write(path, files, kind):
    """An archive with the files in their order and a directory's own entry."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("set")
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if kind == "tgz" else "w") as archive:
        for name, content in {"set": None, **files}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content or b"")
            entry.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            archive.addfile(entry, io.BytesIO(content or b""))
    return path


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar_entry(name, content):
    """A header and its blocks."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    return entry.tobuf() + content + bytes(-len(content) % 512)


def test_files_are_listed_and_read_in_stored_order_and_missing_ones_are_named(tmp_path):
    for kind in KINDS:
        path, wanted = write(tmp_path / "a", FILES, kind), ["set/a/1.bin", "set/b/2.bin"]
        assert archives.member_names(path) == list(FILES)
        pairs = [(name, FILES[name]) for name in reversed(wanted)]
        assert list(archives.read_members(path, wanted)) == pairs
        assert archives.read_member(path, "set/a/1.bin") == b"one"
        with pytest.raises(InputError, match=r"lacks set/c\.bin and 1 more"):
            list(archives.read_members(path, ["set/a/1.bin", "set/c.bin", "set/d.bin"]))


def test_names_are_normalized_and_links_without_bytes_are_refused(tmp_path):
    """A name outside the archive's folder is only a name, as nothing is unpacked."""
    for kind in KINDS:
        path = write(tmp_path / "a", {"./set//1.bin": b"one", "../up.txt": b"up"}, kind)
        assert archives.member_names(path) == ["set/1.bin", "../up.txt"]
        assert archives.read_member(path, "../up.txt") == b"up"
    for type_ in [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]:
        with tarfile.open(tmp_path / "a", "w") as archive:
            entry = tarfile.TarInfo("set/link")
            entry.type, entry.linkname = type_, "set/a/1.bin"
            archive.addfile(entry)
        assert archives.member_names(tmp_path / "a") == ["set/link"]
        with pytest.raises(InputError, match="link or device 'set/link', expected files"):
            archives.read_member(tmp_path / "a", "set/link")
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]  # nothing is unpacked


def test_the_kind_is_that_of_the_content_whatever_the_name_and_the_last_member(tmp_path):
    inner = write(tmp_path / "inner", {"old/1.bin": b"old"}, "zip").read_bytes()
    for kind, name in product(KINDS, ["a.ZIP", "a.tar.xz", "a"]):
        path = write(tmp_path / name, {**FILES, "set/backup.zip": inner}, kind)
        assert archives.is_archive(path)
        assert archives.member_names(path) == [*FILES, "set/backup.zip"], (kind, name)
    extracts_itself = tmp_path / "a.exe"
    extracts_itself.write_bytes(b"MZ program" + write(path, FILES, "zip").read_bytes())
    assert archives.member_names(extracts_itself) == list(FILES)


def test_what_was_saved_in_place_of_an_archive_is_named(tmp_path):
    damaged = r"is damaged or no archive, expected a \.zip"
    for content, message in {
        b"<!DOCTYPE html><title>Quota exceeded</title>": damaged,
        b"7z\xbc\xaf\x27\x1c" + bytes(99): damaged,
        b"": damaged,
        b"version https://git-lfs.github.com/spec/v1\n": r"pointer of Git LFS.*git lfs pull",
        gzip.compress(b"no tar" * 999): damaged,
    }.items():
        (tmp_path / "mine.zip").write_bytes(content)
        assert not archives.is_archive(tmp_path / "mine.zip")
        with pytest.raises(InputError, match=rf"mine\.zip: got .*{message}"):
            archives.member_names(tmp_path / "mine.zip")


def test_one_name_has_one_form_in_every_archive(tmp_path):
    """The Mac's zips hold decomposed UTF-8 without a flag, old ones of Windows backslashes."""
    name = "café 狗/1.bin"
    decomposed = unicodedata.normalize("NFD", name)
    assert name != decomposed
    for kind, stored in product(KINDS, [name, decomposed, f"/{name}", f"./{name}"]):
        assert archives.member_names(write(tmp_path / "a", {stored: b"x"}, kind)) == [name]
    ascii_names = {"gooddog/1.bin": "狗_x/1.bin".encode(), "a/1.bin": b"a\\1.bin"}
    for ascii_name, stored in ascii_names.items():
        path = write_zip(tmp_path / "a", {ascii_name: b"x"})
        coded = stored.rjust(len(ascii_name), b"_")
        path.write_bytes(path.read_bytes().replace(ascii_name.encode(), coded))
        expected = coded.decode().replace("\\", "/")
        assert archives.member_names(path) == [expected]
        assert archives.read_member(path, expected) == b"x"
    mixed = write_zip(tmp_path / "a", {"a/b\\c.bin": b"x"})  # a file's own backslash
    assert archives.member_names(mixed) == ["a/b\\c.bin"]


def test_a_member_that_is_there_twice_is_refused_when_it_is_read(tmp_path):
    path = tmp_path / "a"
    with tarfile.open(path, "w") as archive:
        for content in (b"old", b"new"):
            entry = tarfile.TarInfo("set/1.bin")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(InputError, match=r"got 'set/1\.bin' twice, expected each name once"):
        list(archives.read_members(path, ["set/1.bin"]))


def test_limits_are_for_what_is_read(tmp_path, monkeypatch):
    """A video among the images does no harm unless it is read."""
    monkeypatch.setattr(archives, "MIN_TOTAL_BYTES", 10_000_000)
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 20_000)
    for kind in KINDS:
        path = write(tmp_path / "a", {"clip.mp4": bytes(9_000_000), "1.bin": b"one"}, kind)
        assert archives.read_member(path, "1.bin") == b"one"
        with pytest.raises(InputError, match=r"got 9000000 bytes .*expected at most 20000 per"):
            archives.read_member(path, "clip.mp4")
    monkeypatch.setattr(archives, "MIN_TOTAL_BYTES", 30_000)
    files = {f"{n}.bin": bytes(15_000) for n in range(3)}
    for kind in ("zip", "tgz"):
        monkeypatch.setattr(archives, "MAX_RATIO", 1)
        path = write(tmp_path / "a", files, kind)
        with pytest.raises(InputError, match="expected at most|above"):
            list(archives.read_members(path, files))
    bomb = write(tmp_path / "a", {"clip.mp4": bytes(9_000_000)}, "tgz")
    with pytest.raises(InputError, match="9000000 bytes in 'clip.mp4', above"):
        archives.member_names(bomb)  # only passing over it would take hours


def test_a_long_header_of_a_tar_is_not_read_into_memory(tmp_path):
    size = 16 << 20
    for kind, start in product(archives.HEADER_TYPES, (b"", write_tar_entry("a", b"one"))):
        entry = tarfile.TarInfo("././@LongLink")
        entry.type, entry.size = kind, size
        content = start + entry.tobuf(tarfile.GNU_FORMAT) + bytes(size)
        (tmp_path / "a.tgz").write_bytes(gzip.compress(content, 1))
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match=r"a\.tgz.* is damaged or no archive"):
                archives.member_names(tmp_path / "a.tgz")
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()


def test_no_file_of_a_damaged_tar_is_passed_over_silently(tmp_path):
    path, entries = tmp_path / "a.tar", [write_tar_entry(f"{n}.bin", b"x" * 99) for n in range(3)]
    end = bytes(1024)
    path.write_bytes(b"".join(entries) + end)
    assert len(archives.member_names(path)) == 3
    broken = b"?" + entries[1][1:]  # a wrong checksum
    for content in (entries[0] + entries[1], entries[0] + broken + entries[2] + end):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.tar is damaged or no archive \(.*cut off"):
            archives.member_names(path)


def test_damaged_archives_are_refused(tmp_path, subtests):
    path, noise = tmp_path / "a", bytes(range(256)) * 20
    files = {f"{n}.bin": bytes((n * i) % 251 for i in range(5000)) for n in range(20)}
    damaged = {"no archive": b"<html>not found</html>" * 100}
    for share, kind in product([0.3, 0.9], KINDS):
        content = write(path, files, kind).read_bytes()
        damaged[f"{kind} cut at {share}"] = content[: int(len(content) * share)]
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("a.bin", noise)
        content = path.read_bytes()
        damaged[f"zip by method {method}"] = content[:60] + b"\xff" * 20 + content[80:]
    for name, content in damaged.items():
        with subtests.test(name=name):
            path.write_bytes(content)
            with pytest.raises(InputError, match="is damaged or no archive"):
                list(archives.read_members(path, archives.member_names(path)))


def test_unsupported_zips_are_refused_with_the_supported_ones(tmp_path):
    for offset, value, reason in [(6, 1, "is encrypted"), (8, 9, "method is not supported")]:
        path = write(tmp_path / "a", {"a.bin": b"one"}, "zip")
        content = bytearray(path.read_bytes())
        for header in (content.rindex(b"PK\3\4"), content.rindex(b"PK\1\2") + 2):
            content[header + offset] = value
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"{reason}.*expected a tar, or a zip that is stored"):
            archives.read_member(path, "a.bin")
