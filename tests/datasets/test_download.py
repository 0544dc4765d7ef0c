import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from itertools import product
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from conftest import ROOT
from filelock import FileLock
from server import BYTES, LAST_MODIFIED, Answer

from heated.datasets import http
from heated.datasets.download import Cache, Checksum, RemoteFile, download_all, mirror_from
from heated.datasets.http import DownloadFailed

OTHER = random.Random(1).randbytes(15_000)
ZIP = b"PK\5\6" + bytes(18)  # without members
SHA256 = hashlib.sha256(BYTES).hexdigest()
CACHED = f"sha256-{SHA256}"
MIDDLE = 7_000
CUT, GONE = Answer(cut=MIDDLE), Answer(b"", 404)
REST = f"bytes={MIDDLE}-"

pytestmark = pytest.mark.usefixtures("waits")  # no pauses between tries


def remote(*urls, name="data.bin", content=BYTES, **options):
    checksum = Checksum("sha256", hashlib.sha256(content).hexdigest())
    return RemoteFile(name, options.pop("checksum", checksum), urls, **options)


def data_bin(site, *answers, **options):
    """A file at a URL that gives the answers in turn."""
    return remote(site.serve("/data.bin", *answers), **options)


def download(folder, *files, mirror=None, limit_gb=1):
    """The folder `raw` with the files; `cache` is next to it."""
    cache = Cache(folder / "cache", limit_gb)
    return download_all(files, folder / "raw", mirror=mirror, subfolder="set", cache=cache)


def fetch(folder, file, mirror=None):
    """The content of one file, the only one in `raw`, which DVC deletes before a stage runs."""
    shutil.rmtree(folder / "raw", ignore_errors=True)
    raw = download(folder, file, mirror=mirror)
    assert names(raw) == [file.name]
    return (raw / file.name).read_bytes()


def failure(folder, *files, match=None, mirror=None):
    """The message of a download that fails and leaves no folder."""
    with pytest.raises(DownloadFailed, match=match) as caught:
        download(folder, *files, mirror=mirror)
    assert not (folder / "raw").exists()
    return str(caught.value)


def names(folder):
    """The names in a folder, except for locks."""
    paths = folder.iterdir() if folder.exists() else []
    return sorted(path.name for path in paths if path.suffix != ".lock")


def in_mirror(folder, name="set/data.bin", content=BYTES):
    """Write a file into a mirror; return its path."""
    path = folder / "mirror" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_wrong_bytes_are_an_error_and_nothing_is_left(site, tmp_path):
    for wrong in (b"another file", b"<!DOCTYPE html><title>Sign in</title>"):
        file = data_bin(site, Answer(wrong))
        message = failure(tmp_path, file, match=f"{file.addresses[0]}: got {len(wrong)} bytes")
        assert names(tmp_path / "cache") == []
        for text in (SHA256, hashlib.sha256(wrong).hexdigest(), "HEATED_MIRROR"):
            assert text in message


def test_urls_are_tried_in_order_with_a_message_for_each_failed_one(site, new_folder, capsys):
    site.serve("/wrong", Answer(OTHER))
    site.serve("/truncated", Answer(BYTES[:100], said=len(BYTES), ranges=False))
    last, host = site.serve("/right"), site.address
    for first in ("missing", "wrong", "truncated"):
        site.requests.clear()
        file = remote(f"{host}/{first}", last, f"{host}/never")
        assert fetch(new_folder(), file) == BYTES
        assert list(dict.fromkeys(site.asked)) == [f"/{first}", "/right"]
        message = f"data.bin: downloaded from {last} after these errors\n  {host}/{first}: "
        assert message in capsys.readouterr().err
    message = failure(folder := new_folder(), remote(f"{host}/a", f"{host}/b"), mirror="/no")
    for location in (f"{host}/a: HTTP status 404", f"{host}/b: HTTP", "/no/set/data.bin: "):
        assert location in message
    assert names(folder / "cache") == []


def test_a_redirect_is_followed_with_its_range_but_not_out_of_http(site, new_folder, waits):
    there = site.serve("/there", CUT, Answer())
    here = site.serve("/here", Answer(b"", 302, {"Location": there}))
    assert fetch(new_folder(), remote(here)) == BYTES
    assert site.asked == ["/here", "/there"] * 2
    assert site.ranges == [None, None, REST, REST]
    site.requests.clear()
    waits.clear()
    (secret := new_folder() / "secret").write_bytes(BYTES)
    for scheme in ("file", "ftp", "data"):
        elsewhere = f"{scheme}://{secret}"
        here = site.serve("/here", Answer(b"", 302, {"Location": elsewhere}))
        for url in (elsewhere, here):
            match = "No connection adapters|Invalid URL"
            failure(folder := new_folder(), remote(url), match=match)
            assert names(folder / "cache") == []
    assert site.asked == ["/here"] * 3
    assert waits == []


def test_bytes_are_stored_as_they_are_on_the_server(site, tmp_path):
    packed = gzip.compress(BYTES)
    answer = Answer(packed, headers={"Content-Encoding": "gzip", "ETag": '"1"'})
    assert fetch(tmp_path, data_bin(site, answer, content=packed)) == packed


def test_temporary_errors_are_tried_four_times_and_final_ones_once(site, tmp_path, waits):
    for status in (403, 404, 410):
        failure(tmp_path, data_bin(site, Answer(b"", status)), match=str(status))
    assert len(site.asked) == 3
    assert waits == []
    site.requests.clear()
    away, busy = remote("http://127.0.0.1:1/data.bin"), Answer(b"", 503)
    for error, file in (("refused", away), ("503", data_bin(site, busy))):
        waits.clear()
        failure(tmp_path, file, match=rf"{error}.*\(tried 4 times\)")
        assert waits == [1, 2, 4]  # twice as long each time
    assert len(site.asked) == 4
    assert fetch(tmp_path, data_bin(site, *[busy] * 3, Answer())) == BYTES


def test_retry_after_is_respected_up_to_a_minute(site, new_folder, waits, subtests):
    little = ("0", "soon", LAST_MODIFIED, "Fri, 31 Dec 99999 23:59:59 GMT")
    for header, seconds in [("7", 7), ("86400", 60), *((header, 1) for header in little)]:
        with subtests.test(header=header):
            waits.clear()
            busy = Answer(b"", 429, {"Retry-After": header})
            fetch(new_folder(), data_bin(site, busy, Answer()))
            assert waits == [seconds]


def test_only_tries_that_bring_little_or_start_over_are_counted(site, new_folder, monkeypatch):
    monkeypatch.setattr(http, "CHUNK", 1000)
    over = data_bin(site, Answer(cut=MIDDLE, ranges=False))
    failure(new_folder(), over, match=f"got {MIDDLE} of {len(BYTES)} bytes")
    assert len(site.asked) == 4
    site.requests.clear()
    assert fetch(new_folder(), data_bin(site, *[Answer(cut=1000)] * 10, Answer())) == BYTES
    assert site.ranges == [None, *(f"bytes={1000 * n}-" for n in range(1, 11))]


def test_after_a_cut_or_a_stall_only_the_rest_is_sent(site, new_folder, monkeypatch, subtests):
    monkeypatch.setattr(http, "TIMEOUT", 3)  # longer than a busy machine pauses
    for headers, pause in [
        ({"ETag": '"1"'}, None),
        ({"Last-Modified": LAST_MODIFIED}, None),
        ({"Accept-Ranges": "bytes"}, None),
        ({"ETag": '"1"'}, threading.Event()),
    ]:
        with subtests.test(headers=headers, stalls=pause is not None):
            cut = Answer(cut=MIDDLE, headers=headers, pause=pause)
            assert fetch(new_folder(), data_bin(site, cut, Answer(headers=headers))) == BYTES
            validator = headers.get("ETag", headers.get("Last-Modified"))
            assert site.requests[-1] == ("/data.bin", REST, validator)
            assert site.sent[-2:] == [MIDDLE, len(BYTES) - MIDDLE]
    fetch(new_folder(), data_bin(site, CUT, Answer(ranges=False)))
    assert site.ranges[-2:] == [None, REST]
    assert site.sent[-2:] == [MIDDLE, len(BYTES)]


def test_bytes_of_different_files_are_never_joined(site, new_folder, subtests):
    """Without a checksum, which would detect it, everything is requested again in the end."""
    weak = [{"Accept-Ranges": "bytes"}, {"Accept-Ranges": "bytes", "ETag": 'W/"1"'}]
    size = len(BYTES)
    spans = [
        f"bytes 0-{size - 1}/{size}",
        f"bytes {MIDDLE}-{size - 2}/{size}",
        f"bytes {MIDDLE}-{size - 1}/{size + 1}",
        f"bytes {MIDDLE}-{size - 1}/{MIDDLE}",
        "nothing",
    ]
    changed = Answer(OTHER, cut=MIDDLE, headers={"ETag": '"0"'})
    cases = [
        *(([Answer(cut=MIDDLE, headers=h), Answer(headers=h)], [None, None]) for h in weak),
        *(([CUT, Answer(OTHER, span=span), Answer()], [None, REST, None]) for span in spans),
        ([CUT, Answer(OTHER, headers={}, ranges=False, cut=100), Answer()], [None, REST, None]),
        ([CUT, Answer(BYTES[:100]), Answer()], [None, REST, None]),  # shorter than the part
        ([changed, Answer()], [None, REST]),  # the server respects If-Range
        ([changed, Answer(heeds=False), Answer()], [None, REST, None]),
    ]
    for answers, ranges in cases:
        with subtests.test(answers=answers):
            site.requests.clear()
            assert fetch(new_folder(), data_bin(site, *answers, checksum=None)) == BYTES
            assert site.ranges == ranges
            if answers[0] is changed:
                assert site.requests[1] == ("/data.bin", REST, '"0"')


def test_the_sidecar_decides_on_the_use_of_a_partial_file(site, new_folder, subtests):
    url = site.serve("/data.bin")
    origin = {"address": hashlib.sha256(url.encode()).hexdigest(), "validator": '"1"'}
    known = json.dumps({**origin, "total": len(BYTES)})
    for content, sidecar, ranges in [
        (BYTES, known, []),  # complete already
        (bytes(MIDDLE), known, [REST, None]),  # damaged: costs one more download
        *((OTHER[:MIDDLE], text, [None]) for text in ("", "[]", "{}", '{"address": 1}')),
    ]:
        with subtests.test(sidecar=sidecar, content=len(content)):
            site.requests.clear()
            cache = (folder := new_folder()) / "cache"
            cache.mkdir()
            (cache / f"{CACHED}.part").write_bytes(content)
            (cache / f"{CACHED}.part.json").write_text(sidecar)
            assert fetch(folder, remote(url)) == BYTES
            assert site.ranges == ranges
            assert names(cache) == [CACHED]


def test_a_partial_file_of_another_url_is_kept_until_that_one_answers(site, tmp_path):
    file = remote(site.serve("/first", CUT, GONE), f"{site.address}/second")
    failure(tmp_path, file)
    assert (tmp_path / "cache" / f"{CACHED}.part").read_bytes() == BYTES[:MIDDLE]
    assert site.requests[-1] == ("/second", None, None)
    site.serve("/second", Answer(OTHER[:500]))
    failure(tmp_path, file)
    assert names(tmp_path / "cache") == []


def test_a_body_of_another_length_than_the_server_says_is_an_error(site, tmp_path):
    for ranges in (True, False):
        longer = Answer(said=len(BYTES) + 100, ranges=ranges)
        failure(tmp_path, data_bin(site, longer, checksum=None))
    shorter = data_bin(site, Answer(said=len(BYTES) - 100))
    failure(tmp_path, shorter, match=f"got {len(BYTES) - 100} bytes")


def test_an_unpacked_checksum_is_of_the_bytes_inside_any_gzip(site, new_folder, subtests):
    for algorithm, level in (("sha256", 0), ("md5", 9)):
        digest = hashlib.new(algorithm, BYTES).hexdigest().upper()
        checksum = Checksum(algorithm, digest, unpacked=True)
        packed = gzip.compress(BYTES, level)
        assert fetch(new_folder(), data_bin(site, Answer(packed), checksum=checksum)) == packed
    for name, wrong in {
        "not packed": BYTES,
        "another": gzip.compress(OTHER),
        "truncated": packed[:-1],
        "bad CRC": packed[:-8] + bytes(8),
        "damaged": packed[:10] + b"\xff" * 50,
    }.items():
        with subtests.test(name=name):
            file = data_bin(site, Answer(wrong), checksum=checksum)
            failure(folder := new_folder(), file, match="MD5 of the unpacked bytes")
            assert names(folder / "cache") == []


def test_without_a_checksum_the_size_is_checked_and_an_empty_file_is_an_error(site, tmp_path):
    failure(tmp_path, data_bin(site, Answer(b""), checksum=None), match="got 0 bytes")
    size = len(OTHER)
    file = data_bin(site, Answer(OTHER[:-1]), Answer(OTHER), checksum=None, size=size)
    failure(tmp_path, file, match=f"got {size - 1} bytes, expected {size}")
    assert fetch(tmp_path, file) == OTHER
    assert names(tmp_path / "cache") == []  # another file of that name would not be detected


def test_no_file_is_fetched_twice_unless_it_is_damaged_in_the_cache(site, tmp_path, monkeypatch):
    file, cached = data_bin(site), tmp_path / "cache" / CACHED
    assert fetch(tmp_path, file) == BYTES
    assert names(tmp_path / "cache") == [CACHED]
    same = remote(f"{site.address}/gone", name="same.bin")  # another data set's name for it
    assert fetch(tmp_path, same) == BYTES
    assert site.asked == ["/data.bin"]
    assert (tmp_path / "raw/same.bin").samefile(cached)

    def fail(*paths):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", fail)  # then it is copied
    assert fetch(tmp_path, file) == BYTES
    assert not (tmp_path / "raw/data.bin").samefile(cached)
    cached.write_bytes(OTHER)
    assert fetch(tmp_path, file) == cached.read_bytes() == BYTES
    assert site.asked == ["/data.bin"] * 2


def test_beyond_the_limit_the_oldest_unlocked_files_are_deleted(site, tmp_path):
    (cache := tmp_path / "cache").mkdir()
    foreign = ["thesis.docx", "md5-notes.txt"]
    new, used, old, oldest = (f"md5-{digit * 32}" for digit in "abcd")
    cached = [new, f"{used}.part", f"{old}.part.json", f"{old}.part", oldest]
    (cache / f"md5-{'e' * 32}").mkdir()
    for age, name in enumerate([*cached, *foreign]):
        (cache / name).write_bytes(bytes(10_000))
        os.utime(cache / name, (10_000 - age, 10_000 - age))
    file = data_bin(site)
    with FileLock(cache / f"{used}.lock"):
        download(tmp_path, file, limit_gb=36e-6)
    rest = [*foreign, f"md5-{'e' * 32}"]
    assert names(cache) == sorted([new, CACHED, f"{used}.part", *rest])
    shutil.rmtree(tmp_path / "raw")
    raw = download(tmp_path, file, limit_gb=0)
    assert names(cache) == sorted(rest)
    assert (raw / "data.bin").read_bytes() == BYTES  # the same file as the cache's


def test_a_mirror_folder_is_tried_before_the_urls(site, new_folder):
    for name, end in product(("set/data.bin", "data.bin"), ("", "/")):
        in_mirror(folder := new_folder(), name)
        assert fetch(folder, data_bin(site), f"{folder}/mirror{end}") == BYTES
        assert names(folder / "cache") == [CACHED]
        shutil.rmtree(folder / "mirror")
        assert fetch(folder, remote()) == BYTES
    assert site.asked == []
    site.serve("/mirror/set/data.bin")  # the subfolder is tried before the mirror itself
    site.serve("/mirror/data.bin")
    fetch(new_folder(), remote(), f"{site.address}/mirror")
    assert site.asked == ["/mirror/set/data.bin"]


def test_a_file_of_the_mirror_is_copied_and_stays(site, new_folder):
    original = in_mirror(folder := new_folder(), "elsewhere/data.bin")
    (folder / "mirror" / "data.bin").symlink_to(original)
    assert fetch(folder, remote(), str(folder / "mirror")) == BYTES
    path = folder / "raw/data.bin"
    assert not path.is_symlink()
    assert not path.samefile(original)  # DVC makes tracked files read-only
    original = in_mirror(folder := new_folder(), "data.bin", b"old version")  # and is skipped
    assert fetch(folder, data_bin(site), str(folder / "mirror")) == BYTES
    assert original.read_bytes() == b"old version"


def test_a_folder_in_the_files_place_and_another_file_in_a_package_are_errors(tmp_path):
    for name, match in [
        ("sklearn/datasets/data/digits.csv.gz", "got 57523 bytes"),
        ("heated_nowhere/data.bin", "the package heated_nowhere is not installed"),
    ]:
        failure(tmp_path, remote(f"package:{name}"), match=match)
    (tmp_path / "mirror" / "data.bin").mkdir(parents=True)
    for checksum in (None, Checksum("sha256", SHA256)):
        match, mirror = r"mirror/data.bin: .*Is a directory", str(tmp_path / "mirror")
        failure(tmp_path, remote(checksum=checksum), match=match, mirror=mirror)


def test_files_to_get_by_hand_are_named_before_anything_is_downloaded(site, tmp_path):
    page, mirror = "the project page, 'Retrieval', file Img/img.zip", str(tmp_path / "mirror")
    a, b = (RemoteFile(name, None, by_hand=page, instead="a copy") for name in ("a.zip", "b.zip"))
    file = data_bin(site)
    message = failure(tmp_path, file, a, b, mirror=mirror)
    for name in ("a.zip", "b.zip"):
        assert (
            f"Get it by hand from {page}, and put it at {mirror}/set/{name}, where HEATED_MIRROR "
            f"or download.mirror is {mirror}. Or put a copy at {mirror}/set, in place of all the"
        ) in message
    assert site.asked == []
    failure(tmp_path, a, match="put it at FOLDER/set/a.zip, where HEATED_MIRROR or")
    in_mirror(tmp_path, "set/a.zip", ZIP)
    raw = download(tmp_path, file, a, mirror=mirror)
    assert (raw / "a.zip").read_bytes() == ZIP
    assert names(raw) == ["a.zip", "data.bin"]


PAGE = b"<!DOCTYPE html><title>Google Drive - Quota exceeded</title>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"


@pytest.mark.parametrize("name", ["img.zip", "a.tgz", "list.txt"])
@pytest.mark.parametrize("content", [PAGE, POINTER, b"\n " + PAGE])
def test_what_was_saved_in_place_of_a_file_without_a_checksum_is_skipped(tmp_path, name, content):
    file, mirror = RemoteFile(name, None), str(tmp_path / "mirror")
    in_mirror(tmp_path, f"set/{name}", content)
    match = f"{mirror}/set/{name}: got a file that begins with"
    failure(tmp_path, file, match=match, mirror=mirror)
    right = b"1\nimage item part\n" if name.endswith("txt") else ZIP
    in_mirror(tmp_path, name, right)  # the next place
    assert (download(tmp_path, file, mirror=mirror) / name).read_bytes() == right


def two_files(site, *answers, **options):
    """Two files of different bytes, the second one with the answers."""
    first = remote(site.serve("/first"), name="first", **options)
    url = site.serve("/second", *(answers or [Answer(OTHER)]))
    return first, remote(url, name="second", content=OTHER, **options)


def test_a_complete_folder_is_left_unchanged_and_another_replaced(site, tmp_path):
    files = two_files(site)
    raw = download(tmp_path, *files)
    shutil.rmtree(tmp_path / "cache")
    download(tmp_path, *files)
    assert len(site.asked) == 2
    (raw / "second").write_bytes(BYTES)
    (raw / "of another version").write_bytes(BYTES)
    assert (download(tmp_path, *files) / "second").read_bytes() == OTHER
    assert names(raw) == ["first", "second"]
    (raw / "second").write_bytes(BYTES)  # and the right one is gone
    shutil.rmtree(tmp_path / "cache")
    site.serve("/second", GONE)
    with pytest.raises(DownloadFailed):
        download(tmp_path, *files)


SCRIPT = """
import sys
from pathlib import Path
from heated.datasets.download import Cache, Checksum, RemoteFile, download_all
file = RemoteFile("data.bin", Checksum("sha256", sys.argv[1]), (sys.argv[2],))
raw = Path(sys.argv[3])
print("ready", flush=True)
download_all([file], raw, mirror=None, subfolder="set", cache=Cache(raw.parent / "cache", 1))
"""


@contextmanager
def download_process(file, raw):
    """Another process that is about to download data.bin."""
    command = [sys.executable, "-c", SCRIPT, SHA256, *file.addresses, str(raw)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_after_a_kill_only_the_rest_is_sent(site, tmp_path):
    slow = Answer(cut=MIDDLE, pause=threading.Event())
    file, part = data_bin(site, slow, Answer()), tmp_path / "cache" / f"{CACHED}.part"
    with download_process(file, tmp_path / "raw") as process:
        wait_until(lambda: part.exists() and part.stat().st_size > 0)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    slow.pause.set()
    received = part.stat().st_size
    assert 0 < received <= MIDDLE
    assert names(tmp_path / "cache") == [part.name, f"{part.name}.json"]
    assert not (tmp_path / "raw").exists()
    assert fetch(tmp_path, file) == BYTES
    assert site.ranges == [None, f"bytes={received}-"]
    assert site.sent == [MIDDLE, len(BYTES) - received]
    assert names(tmp_path) == ["cache", "raw"]
    assert names(tmp_path / "cache") == [CACHED]


def test_of_two_processes_one_downloads_and_the_other_waits(site, new_folder):
    for second_raw in ("raw", "other"):  # also if two data sets have the same file
        folder = new_folder()
        site.requests.clear()
        site.sent.clear()
        slow = Answer(cut=MIDDLE, pause=threading.Event(), resumes=True)
        file = data_bin(site, slow)
        with download_process(file, folder / "raw") as first:
            wait_until(lambda: site.sent)
            with download_process(file, folder / second_raw) as second:
                time.sleep(0.3)  # until the second one meets the lock
                assert second.poll() is None
                slow.pause.set()
                assert first.wait() == second.wait() == 0
        for raw in ("raw", second_raw):
            assert (folder / raw / "data.bin").read_bytes() == BYTES
        assert site.asked == ["/data.bin"]
        assert names(folder) == sorted({"cache", "raw", second_raw})


def test_free_space_is_checked_before_a_download_or_a_copy(site, new_folder, monkeypatch):
    def set_free_space(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))

    files = two_files(site, GONE, Answer(OTHER, cut=MIDDLE), GONE, Answer(OTHER), size=len(BYTES))
    set_free_space(29_999)
    failure(folder := new_folder(), *files, match="got 29,999 bytes of free space, expected 30,000")
    assert site.asked == []
    for free in (30_000, 15_000):  # for both files, for the second one
        set_free_space(free)
        failure(folder, *files, match="second: no location has it with SHA-256(.|\n)*404")
    set_free_space(15_000 - MIDDLE)  # for the rest of the second one
    assert names(download(folder, *files)) == ["first", "second"]
    assert site.asked == ["/first", *["/second"] * 4]
    set_free_space(14_999)
    match = "got 14,999 bytes of free space, expected 15,000"
    failure(folder := new_folder(), data_bin(site), match=match)  # of the size that the server says
    assert names(folder / "cache") == []
    mirror = str(in_mirror(folder).parent)
    failure(folder, remote("http://127.0.0.1:1/"), match=match, mirror=mirror)


def test_a_disk_that_fills_up_keeps_the_bytes_for_the_next_call(site, tmp_path):
    resource = pytest.importorskip("resource")
    file = data_bin(site)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIDDLE, hard))  # bytes, of any file
    try:
        failure(tmp_path, file, match=rf"File too large(.|\n)*stay in {tmp_path}/cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert fetch(tmp_path, file) == BYTES
    assert site.ranges == [None, REST]


def test_a_folder_that_cannot_be_written_is_named(site, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadFailed, match=f"File exists: '{tmp_path}/file'"):
        download(tmp_path / "file", data_bin(site))
    (tmp_path / "cache").write_bytes(b"")
    failure(tmp_path, data_bin(site), match=f"File exists: '{tmp_path}/cache'")
    assert site.asked == []


def test_the_mirror_is_the_environments_or_the_parameters(monkeypatch, tmp_path):
    monkeypatch.setenv("HEATED_MIRROR", "http://from.environment")
    assert mirror_from("http://from.parameter") == "http://from.environment"
    for unset in (lambda name: monkeypatch.setenv(name, ""), monkeypatch.delenv):
        unset("HEATED_MIRROR")
        assert mirror_from("http://from.parameter") == "http://from.parameter"
        assert mirror_from(None) is None
        assert mirror_from(str(tmp_path)) == str(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))  # where a relative one starts
    expected = str(tmp_path / "project" / "mirror")
    assert mirror_from("mirror") == expected
    monkeypatch.setenv("HEATED_MIRROR", "mirror")
    assert mirror_from(None) == expected
    monkeypatch.setenv("HOME", str(tmp_path))
    assert mirror_from("~/data") == expected
    monkeypatch.setenv("HEATED_MIRROR", "~/data")
    assert mirror_from(None) == str(tmp_path / "data")


@pytest.mark.parametrize("name", ["mirror", "100% [a] *", "a#b?c=d&e", "a b%20c"])
def test_a_mirror_is_a_folder_of_any_name_also_as_an_address(monkeypatch, new_folder, name):
    path = (folder := new_folder()) / name / "set" / "data.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(BYTES)
    plain = str(folder / name)
    for given in (plain, f"file://{quote(plain)}", f"file://localhost{quote(plain)}"):
        monkeypatch.setenv("HEATED_MIRROR", given)
        assert fetch(new_folder(), remote(), mirror_from(None)) == BYTES


def test_a_mirrors_query_follows_the_path(site, tmp_path):
    site.serve("/mirror/set/data.bin?token=hidden")
    assert fetch(tmp_path, remote(), f"{site.address}/mirror/?token=hidden") == BYTES


def test_passwords_and_tokens_of_urls_are_neither_printed_nor_stored(site, tmp_path, capsys):
    host = site.serve("/mirror/set/data.bin", CUT, GONE).partition("://")[2].partition("/")[0]
    mirror = f"http://me:secret@{host}/mirror"
    file = remote(f"http://{host}/gone?token=hidden", f"ftp://me:secret@{host}/a?token=hidden")
    message = failure(tmp_path, file, mirror=mirror)
    written = "".join(path.read_text("utf-8") for path in tmp_path.rglob("*.json"))
    texts = message + "".join(capsys.readouterr()) + written
    assert not any(word in texts for word in ("secret", "hidden"))
    assert f"http://{host}/mirror/set/data.bin" in texts
    assert f"ftp://{host}/a?..." in texts


@pytest.mark.parametrize(
    "mirror",
    [
        "http://me:hidden@127.0.0.1:1/mirror",
        "http://hidden@127.0.0.1:1/mirror?token=hidden",
        "http://127.0.0.1:1/mirror?sig=hidden%2Fhidden#hidden",
        "http://me:hid/den@127.0.0.1/mirror",
        "http://me:hid#den@127.0.0.1/mirror",
        "http://me:hid den@127.0.0.1:1/a b",
        "http://me:hidden@[::1/mirror",
        "http://me:hidden@/mirror",
        "s3://me:hidden@bucket/mirror?token=hidden",
        "ftp://me:hidden@\u2100.example/mirror",
    ],
)
def test_no_message_of_a_mirror_holds_its_secrets(tmp_path, capsys, mirror):
    message = failure(tmp_path, remote("http://127.0.0.1:1/gone?token=hidden"), mirror=mirror)
    text = message + "".join(capsys.readouterr())
    assert "data.bin: no location has it" in text
    assert not any(word in text for word in ("hidden", "hid", "den@"))
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"hid" not in written
