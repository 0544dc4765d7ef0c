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
        with pytest.raises(InputError, match="link or device"):
            archives.member_names(tmp_path / "a")
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]  # nothing is unpacked


def test_too_large_archives_are_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MIN_TOTAL_BYTES", 10_000)
    for kind in ("zip", "tgz"):
        path = write(tmp_path / "a", {"zeros": bytes(10_000_000)}, kind)
        assert path.stat().st_size < 100_000
        with pytest.raises(InputError, match="got 10000000 bytes up to the member 'zeros'"):
            archives.member_names(path)
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 2000)
    for kind in KINDS:
        with pytest.raises(InputError, match="expected at most 2000 per member"):
            archives.member_names(write(tmp_path / "a", FILES, kind))


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
