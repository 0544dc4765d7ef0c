import io
import stat
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


def test_files_are_listed_in_the_order_they_are_stored(new_folder, subtests):
    for kind in KINDS:
        with subtests.test(kind=kind):
            folder = new_folder()
            assert archives.names(write(folder / "a", FILES, kind)) == list(FILES)


def test_wanted_files_are_read_in_the_order_they_are_stored(new_folder, subtests):
    for kind in KINDS:
        with subtests.test(kind=kind):
            folder = new_folder()
            place = write(folder / "a", FILES, kind)
            wanted = ["set/a/1.bin", "set/b/2.bin"]
            assert list(archives.read(place, wanted)) == [(n, FILES[n]) for n in reversed(wanted)]
            assert archives.read_one(place, "set/a/1.bin") == b"one"


def test_the_first_wanted_files_can_be_skipped(new_folder, subtests):
    for skip, kind in product(range(5), KINDS):
        with subtests.test(skip=skip, kind=kind):
            folder = new_folder()
            place = write(folder / "a", FILES, kind)
            assert [name for name, _ in archives.read(place, list(FILES), skip=skip)] == list(
                FILES
            )[skip:]


def test_a_file_that_is_not_there_is_named(new_folder, subtests):
    for kind in KINDS:
        with subtests.test(kind=kind):
            folder = new_folder()
            place = write(folder / "a", FILES, kind)
            with pytest.raises(InputError, match=r"lacks set/c\.bin and 1 more"):
                list(archives.read(place, ["set/a/1.bin", "set/c.bin", "set/d.bin"]))


def test_a_member_that_reaches_outside_is_refused(new_folder, subtests):
    for name, kind in product(["/etc/passwd", "../up.txt", "set/../../up.txt", "C:/up.txt"], KINDS):
        with subtests.test(name=name, kind=kind):
            folder = new_folder()
            place = write(folder / "a", {**FILES, name: b"x"}, kind)
            with pytest.raises(InputError, match="reaches outside the archive"):
                archives.names(place)


def test_a_backslash_does_not_hide_the_way_out(tmp_path):
    with pytest.raises(InputError, match="reaches outside"):
        archives.names(write(tmp_path / "a", {"..\\up.txt": b"x"}, "tar"))


def test_a_link_in_a_tar_is_refused(new_folder, subtests):
    for type_ in [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]:
        with subtests.test(type_=type_):
            folder = new_folder()
            with tarfile.open(folder / "a", "w") as archive:
                entry = tarfile.TarInfo("set/link")
                entry.type, entry.linkname = type_, "/etc/passwd"
                archive.addfile(entry)
            with pytest.raises(InputError, match="link or device"):
                archives.names(folder / "a")


def test_a_link_in_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        entry = zipfile.ZipInfo("set/link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(InputError, match="link or device"):
        archives.names(tmp_path / "a")


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_an_archive_that_explodes_is_refused_before_anything_is_read(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archives, "SMALL", 10_000)
    place = write(tmp_path / "a", {"zeros": bytes(10_000_000)}, kind)
    assert place.stat().st_size < 100_000
    with pytest.raises(InputError, match="10000000 bytes up to the member 'zeros'"):
        archives.names(place)


def test_a_member_beyond_all_reason_is_refused(new_folder, monkeypatch, subtests):
    for kind in KINDS:
        with subtests.test(kind=kind), monkeypatch.context() as patch:
            folder = new_folder()
            patch.setattr(archives, "LARGEST_MEMBER", 2000)
            with pytest.raises(InputError, match="allowed: 2000 a member"):
                archives.names(write(folder / "a", FILES, kind))


def test_a_truncated_archive_is_told(new_folder, subtests):
    for share, kind in product([0.3, 0.9], KINDS):
        with subtests.test(share=share, kind=kind):
            folder = new_folder()
            files = {f"{n}.bin": bytes((n * i) % 251 for i in range(5000)) for n in range(20)}
            place = write(folder / "a", files, kind)
            content = place.read_bytes()
            place.write_bytes(content[: int(len(content) * share)])
            with pytest.raises(InputError, match="is damaged or no archive"):
                list(archives.read(place, archives.names(place)))


def test_a_tampered_zip_is_told(tmp_path):
    place = write(tmp_path / "a", {"a.bin": bytes(range(256)) * 20}, "zip")
    content = bytearray(place.read_bytes())
    content[200] ^= 0xFF
    place.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        archives.read_one(place, "a.bin")


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


def test_damage_in_a_zip_packed_by_lzma_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.bin", bytes(range(256)) * 20)
    content = bytearray((tmp_path / "a").read_bytes())
    content[60:80] = b"\xff" * 20
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match="is damaged or no archive"):
        archives.read_one(tmp_path / "a", "a.bin")


def test_what_is_no_archive_is_told(tmp_path):
    (tmp_path / "a").write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(InputError, match="no archive"):
        archives.names(tmp_path / "a")
