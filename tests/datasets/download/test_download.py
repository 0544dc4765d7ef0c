import gzip
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import ROOT
from server import BYTES, LAST_MODIFIED, Answer

from heated.datasets.download import (
    Checksum,
    DownloadError,
    RemoteFile,
    fetch,
    gather,
    http,
    mirror_from,
    partial,
)

OTHER = random.Random(1).randbytes(15_000)
SHA256 = hashlib.sha256(BYTES).hexdigest()
MIDDLE = 7_000


@pytest.fixture(autouse=True)
def nobody_waits(waits):
    """Every test here is done without the pauses between tries."""


CUT = Answer(cut=MIDDLE)


def remote(*addresses, **described):
    checksum = described.pop("checksum", Checksum("sha256", SHA256))
    return RemoteFile("data.bin", checksum, addresses, **described)


def fetched(file, folder, mirror=None):
    return fetch(file, folder, mirror=mirror, subfolder="set")


def gathered(folder, *files, mirror=None):
    return gather(files, folder / "raw", mirror=mirror, subfolder="set")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- from an address -------------------------------------------------------------------------


def test_the_right_file_is_kept_under_its_name(site, tmp_path):
    path = fetched(remote(site.serve("/data.bin")), tmp_path)
    assert path == tmp_path / "data.bin"
    assert path.read_bytes() == BYTES
    assert names(tmp_path) == ["data.bin"]


def test_wrong_bytes_are_refused_and_nothing_is_left(site, tmp_path):
    wrong = b"another file"
    address = site.serve("/data.bin", Answer(wrong))
    with pytest.raises(DownloadError) as caught:
        fetched(remote(address), tmp_path)
    assert names(tmp_path) == []
    message = str(caught.value)
    assert f"{address}: came {len(wrong)} bytes" in message
    assert SHA256 in message
    assert hashlib.sha256(wrong).hexdigest() in message
    assert "HEATED_MIRROR" in message


@pytest.mark.parametrize("first", ["missing", "wrong", "truncated"])
def test_the_next_address_is_tried_and_told(site, tmp_path, capsys, first):
    site.serve("/wrong", Answer(OTHER))
    site.serve("/truncated", Answer(BYTES[:100], said=len(BYTES), ranges=False))
    last = site.serve("/right")
    path = fetched(remote(f"{site.address}/{first}", last), tmp_path)
    assert path.read_bytes() == BYTES
    assert list(dict.fromkeys(site.asked)) == [f"/{first}", "/right"]
    assert names(tmp_path) == ["data.bin"]
    assert f"data.bin is from {last}, after\n  {site.address}/{first}: " in capsys.readouterr().err


def test_no_address_is_tried_after_the_right_one(site, tmp_path):
    fetched(remote(site.serve("/a"), site.serve("/b")), tmp_path)
    assert site.asked == ["/a"]


def test_every_answer_is_listed_when_no_place_has_the_file(site, tmp_path):
    with pytest.raises(DownloadError) as caught:
        fetched(remote(f"{site.address}/a", f"{site.address}/b"), tmp_path, str(tmp_path / "no"))
    message = str(caught.value)
    for place in (f"{site.address}/a: ", f"{site.address}/b: ", "no/set/data.bin: "):
        assert place in message
    assert message.count("Error 404") == 2
    assert names(tmp_path) == []


def test_a_server_that_is_not_there_is_asked_again_and_an_answer_too(tmp_path, monkeypatch, waits):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DownloadError, match=r"refused.*\(tried 4 times\)"):
        fetched(remote("http://127.0.0.1:1/data.bin"), tmp_path)
    assert waits == [1, 2, 4]


def test_a_redirect_is_followed_with_its_range(site, tmp_path):
    there = site.serve("/there", CUT, Answer())
    here = site.serve("/here", Answer(b"", 302, {"Location": there}))
    assert fetched(remote(here), tmp_path).read_bytes() == BYTES
    assert site.asked == ["/here", "/there"] * 2
    assert site.ranges == [None, None, f"bytes={MIDDLE}-", f"bytes={MIDDLE}-"]


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_neither_an_address_nor_a_redirect_leads_out_of_http(site, tmp_path, scheme, waits):
    (tmp_path / "secret").write_bytes(BYTES)
    elsewhere = f"{scheme}://{tmp_path}/secret"
    here = site.serve("/here", Answer(b"", 302, {"Location": elsewhere}))
    for address in (elsewhere, here):
        with pytest.raises(DownloadError, match=r"allowed|unknown url type"):
            fetched(remote(address), tmp_path / "raw")
    assert names(tmp_path / "raw") == []
    assert site.asked == ["/here"]
    assert waits == []


# --- tries -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_final_answer_is_not_asked_for_again(site, tmp_path, status, waits):
    with pytest.raises(DownloadError, match=str(status)):
        fetched(remote(site.serve("/data.bin", Answer(b"", status))), tmp_path)
    assert site.asked == ["/data.bin"]
    assert waits == []


def test_an_overloaded_server_is_asked_again_after_twice_as_long_each_time(site, tmp_path, waits):
    busy = Answer(b"", 503)
    path = fetched(remote(site.serve("/data.bin", busy, busy, busy, Answer())), tmp_path)
    assert path.read_bytes() == BYTES
    assert waits == [1, 2, 4]


def test_a_server_that_stays_overloaded_is_given_up(site, tmp_path):
    with pytest.raises(DownloadError, match=r"503.*\(tried 4 times\)"):
        fetched(remote(site.serve("/data.bin", Answer(b"", 503))), tmp_path)
    assert len(site.asked) == 4


@pytest.mark.parametrize(("said", "waited"), [("7", 7), ("86400", 60), ("0", 1), ("soon", 1)])
def test_retry_after_is_honoured_up_to_a_minute(site, tmp_path, waits, said, waited):
    busy = Answer(b"", 429, {"Retry-After": said})
    fetched(remote(site.serve("/data.bin", busy, Answer())), tmp_path)
    assert waits == [waited]


def test_tries_that_bring_much_are_not_counted(site, tmp_path, monkeypatch):
    monkeypatch.setattr(partial, "CHUNK", 1000)
    cuts = [Answer(cut=1000) for _ in range(10)]
    assert fetched(remote(site.serve("/data.bin", *cuts, Answer())), tmp_path).exists()
    assert site.ranges == [None, *(f"bytes={1000 * n}-" for n in range(1, 11))]


def test_tries_that_start_over_each_time_are_counted(site, tmp_path, monkeypatch):
    monkeypatch.setattr(partial, "CHUNK", 1000)
    with pytest.raises(DownloadError, match=f"came {MIDDLE} of {len(BYTES)} bytes"):
        fetched(remote(site.serve("/data.bin", Answer(cut=MIDDLE, ranges=False))), tmp_path)
    assert len(site.asked) == 4


# --- half files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [{"ETag": '"1"'}, {"Last-Modified": LAST_MODIFIED}, {"Accept-Ranges": "bytes"}],
)
def test_after_a_cut_only_the_rest_is_sent(site, tmp_path, headers):
    cut, whole = Answer(cut=MIDDLE, headers=headers), Answer(headers=headers)
    path = fetched(remote(site.serve("/data.bin", cut, whole)), tmp_path)
    assert path.read_bytes() == BYTES
    assert names(tmp_path) == ["data.bin"]
    validator = headers.get("ETag", headers.get("Last-Modified"))
    assert site.requests[1] == ("/data.bin", f"bytes={MIDDLE}-", validator)
    assert site.sent == [MIDDLE, len(BYTES) - MIDDLE]


def test_after_a_stall_only_the_rest_is_sent(site, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT", 3)  # which no busy machine meets
    stall = Answer(cut=MIDDLE, pause=threading.Event())
    path = fetched(remote(site.serve("/data.bin", stall, Answer())), tmp_path)
    stall.pause.set()
    assert path.read_bytes() == BYTES
    assert site.sent == [MIDDLE, len(BYTES) - MIDDLE]


def test_a_server_without_ranges_sends_all_again(site, tmp_path):
    address = site.serve("/data.bin", Answer(cut=MIDDLE), Answer(ranges=False))
    assert fetched(remote(address), tmp_path).read_bytes() == BYTES
    assert site.ranges == [None, f"bytes={MIDDLE}-"]
    assert site.sent == [MIDDLE, len(BYTES)]


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"1"'}])
def test_a_file_without_version_and_checksum_is_begun_anew(site, tmp_path, headers):
    headers = {**headers, "Accept-Ranges": "bytes"}
    address = site.serve("/data.bin", Answer(cut=MIDDLE, headers=headers), Answer(headers=headers))
    assert fetched(remote(address, checksum=None), tmp_path).read_bytes() == BYTES
    assert site.ranges == [None, None]


def test_what_is_known_of_a_half_file_goes_with_its_bytes(site, tmp_path):
    nameless = Answer(OTHER, headers={}, ranges=False, cut=100)
    address = site.serve("/data.bin", CUT, nameless, Answer())
    assert fetched(remote(address, checksum=None), tmp_path).read_bytes() == BYTES
    assert site.ranges == [None, f"bytes={MIDDLE}-", None]


@pytest.mark.parametrize("heeds", [True, False], ids=["If-Range heeded", "If-Range ignored"])
def test_a_file_that_changed_between_the_tries_is_not_spliced(site, tmp_path, heeds):
    before = Answer(OTHER, cut=MIDDLE, headers={"ETag": '"0"'})
    address = site.serve("/data.bin", before, Answer(heeds=heeds))
    assert fetched(remote(address, checksum=None), tmp_path).read_bytes() == BYTES
    assert site.requests[1] == ("/data.bin", f"bytes={MIDDLE}-", '"0"')


@pytest.mark.parametrize(
    "span",
    [
        f"bytes 0-{len(BYTES) - 1}/{len(BYTES)}",
        f"bytes {MIDDLE}-{len(BYTES) - 2}/{len(BYTES)}",
        f"bytes {MIDDLE}-{len(BYTES) - 1}/{len(BYTES) + 1}",
        f"bytes {MIDDLE}-{len(BYTES) - 1}/{MIDDLE}",
        "nothing",
    ],
)
def test_a_rest_with_a_wrong_content_range_is_refused_and_all_asked_for(site, tmp_path, span):
    address = site.serve("/data.bin", CUT, Answer(OTHER, span=span), Answer())
    assert fetched(remote(address, checksum=None), tmp_path).read_bytes() == BYTES
    assert site.ranges == [None, f"bytes={MIDDLE}-", None]


def test_a_half_file_beyond_the_servers_end_is_begun_anew(site, tmp_path):
    address = site.serve("/data.bin", CUT, Answer(BYTES[:100]), Answer())
    assert fetched(remote(address), tmp_path).read_bytes() == BYTES
    assert site.ranges == [None, f"bytes={MIDDLE}-", None]


def test_a_later_call_goes_on_with_the_half_file(site, tmp_path):
    gone = Answer(b"", 404)
    address = site.serve("/data.bin", CUT, gone, Answer())
    with pytest.raises(DownloadError):
        fetched(remote(address), tmp_path)
    assert names(tmp_path) == ["data.bin.part", "data.bin.part.json"]
    assert fetched(remote(address), tmp_path).read_bytes() == BYTES
    assert site.ranges[-1] == f"bytes={MIDDLE}-"
    assert names(tmp_path) == ["data.bin"]


def test_a_later_call_takes_a_half_file_that_was_complete_already(site, tmp_path):
    address = site.serve("/data.bin", Answer(b"", 404))
    (tmp_path / "data.bin.part").write_bytes(BYTES)
    known = partial.Origin(address, '"1"', len(BYTES))
    partial.write_json(tmp_path / "data.bin.part.json", vars(known))
    assert fetched(remote(address), tmp_path).read_bytes() == BYTES
    assert site.asked == []


def test_a_half_file_that_was_damaged_costs_one_more_download(site, tmp_path):
    address = site.serve("/data.bin", CUT, Answer(b"", 404), Answer())
    with pytest.raises(DownloadError):
        fetched(remote(address), tmp_path)
    (tmp_path / "data.bin.part").write_bytes(bytes(MIDDLE))
    assert fetched(remote(address), tmp_path).read_bytes() == BYTES
    assert site.ranges[2:] == [f"bytes={MIDDLE}-", None]


def test_a_half_file_of_another_address_is_kept_until_that_one_answers(site, tmp_path):
    first = site.serve("/first", CUT, Answer(b"", 404), Answer())
    file = remote(first, f"{site.address}/second")
    with pytest.raises(DownloadError):
        fetched(file, tmp_path)
    assert (tmp_path / "data.bin.part").read_bytes() == BYTES[:MIDDLE]
    assert site.requests[-1] == ("/second", None, None)
    site.serve("/second", Answer(OTHER[:500]))
    site.serve("/first", Answer(b"", 404))
    with pytest.raises(DownloadError):
        fetched(file, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("sidecar", ["", "[]", "{}", '{"address": 1}'])
def test_a_half_file_of_which_nothing_is_known_is_begun_anew(site, tmp_path, sidecar):
    (tmp_path / "data.bin.part").write_bytes(OTHER[:MIDDLE])
    (tmp_path / "data.bin.part.json").write_text(sidecar)
    assert fetched(remote(site.serve("/data.bin")), tmp_path).read_bytes() == BYTES
    assert site.ranges == [None]


# --- lengths ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", [True, False])
def test_a_body_shorter_than_the_server_says_is_refused(site, tmp_path, ranges):
    address = site.serve("/data.bin", Answer(said=len(BYTES) + 100, ranges=ranges))
    with pytest.raises(DownloadError):
        fetched(remote(address, checksum=None), tmp_path)
    assert "data.bin" not in names(tmp_path)


def test_a_body_longer_than_the_server_says_is_refused(site, tmp_path):
    address = site.serve("/data.bin", Answer(said=len(BYTES) - 100))
    with pytest.raises(DownloadError, match=f"came {len(BYTES) - 100} bytes"):
        fetched(remote(address), tmp_path)
    assert names(tmp_path) == []


# --- checksums -------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_an_unpacked_checksum_is_of_the_bytes_inside_however_packed(site, tmp_path, algorithm):
    digest = hashlib.new(algorithm, BYTES).hexdigest().upper()
    checksum = Checksum(algorithm, digest, unpacked=True)
    for level in (0, 9):
        packed = gzip.compress(BYTES, level)
        address = site.serve("/data.bin", Answer(packed))
        path = fetched(remote(address, checksum=checksum), tmp_path / str(level))
        assert path.read_bytes() == packed


@pytest.mark.parametrize(
    "wrong",
    [
        BYTES,
        gzip.compress(OTHER),
        gzip.compress(BYTES)[:-1],
        gzip.compress(BYTES)[:-8] + bytes(8),
        gzip.compress(BYTES)[:10] + b"\xff" * 50,
    ],
    ids=["not packed", "another", "truncated", "bad CRC", "damaged"],
)
def test_a_bad_gzip_is_a_wrong_file(site, tmp_path, wrong):
    checksum = Checksum("md5", hashlib.md5(BYTES).hexdigest(), unpacked=True)
    with pytest.raises(DownloadError, match="MD5 of the unpacked bytes"):
        fetched(remote(site.serve("/data.bin", Answer(wrong)), checksum=checksum), tmp_path)
    assert names(tmp_path) == []


def test_without_a_checksum_the_size_decides(site, tmp_path):
    address = site.serve("/data.bin", Answer(OTHER[:-1]), Answer(OTHER))
    file = remote(address, checksum=None, size=len(OTHER))
    with pytest.raises(DownloadError, match=f"came {len(OTHER) - 1} bytes, not {len(OTHER)}"):
        fetched(file, tmp_path)
    assert fetched(file, tmp_path).read_bytes() == OTHER


def test_an_empty_file_is_none(site, tmp_path):
    with pytest.raises(DownloadError, match="came 0 bytes"):
        fetched(remote(site.serve("/data.bin", Answer(b"")), checksum=None), tmp_path)
    assert names(tmp_path) == []


# --- what is there already -------------------------------------------------------------------


def test_a_right_file_is_not_fetched_again(site, tmp_path):
    (tmp_path / "data.bin").write_bytes(BYTES)
    fetched(remote(site.serve("/data.bin")), tmp_path)
    assert site.asked == []


def test_a_wrong_file_is_replaced(site, tmp_path):
    (tmp_path / "data.bin").write_bytes(BYTES[:-1])
    path = fetched(remote(site.serve("/data.bin")), tmp_path)
    assert path.read_bytes() == BYTES


def test_a_wrong_file_does_not_stay_when_the_right_one_is_nowhere(tmp_path):
    (tmp_path / "data.bin").write_bytes(BYTES[:-1])
    with pytest.raises(DownloadError):
        fetched(remote(), tmp_path)
    assert names(tmp_path) == []


# --- from a mirror ---------------------------------------------------------------------------


def held(tmp_path, place="set/data.bin", content=BYTES):
    """A mirror's file."""
    path = tmp_path / "mirror" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("place", ["set/data.bin", "data.bin"])
@pytest.mark.parametrize("end", ["", "/"])
def test_a_mirror_folder_comes_before_the_addresses(site, tmp_path, place, end):
    held(tmp_path, place)
    address = site.serve("/data.bin")
    path = fetched(remote(address), tmp_path / "raw", f"{tmp_path}/mirror{end}")
    assert path.read_bytes() == BYTES
    assert site.asked == []


def test_a_mirrors_file_is_copied_and_its_own_left_as_it_is(tmp_path):
    there = held(tmp_path, "elsewhere/data.bin")
    (tmp_path / "mirror" / "data.bin").symlink_to(there)
    path = fetched(remote(), tmp_path / "raw", str(tmp_path / "mirror"))
    assert path.read_bytes() == BYTES
    assert not path.is_symlink()
    assert not path.samefile(there)  # DVC makes what it tracks read-only
    assert names(path.parent) == ["data.bin"]


def test_the_mirrors_subfolder_comes_before_the_mirror_itself(site, tmp_path):
    site.serve("/mirror/set/data.bin")
    site.serve("/mirror/data.bin")
    fetched(remote(), tmp_path, f"{site.address}/mirror")
    assert site.asked == ["/mirror/set/data.bin"]


def test_a_mirror_without_the_right_file_is_passed_over(site, tmp_path):
    there = held(tmp_path, "data.bin", b"old version")
    path = fetched(remote(site.serve("/data.bin")), tmp_path / "raw", str(tmp_path / "mirror"))
    assert path.read_bytes() == BYTES
    assert there.read_bytes() == b"old version"


@pytest.mark.parametrize("checksum", [None, Checksum("sha256", SHA256)])
def test_a_folder_in_the_files_place_is_an_answer(tmp_path, checksum):
    (tmp_path / "mirror" / "data.bin").mkdir(parents=True)
    with pytest.raises(DownloadError, match=r"mirror/data.bin: .*Is a directory"):
        fetched(remote(checksum=checksum), tmp_path / "raw", str(tmp_path / "mirror"))


def test_a_file_that_a_package_ships_is_found(tmp_path):
    checksum = Checksum("sha256", "0" * 64)
    place = "package:sklearn/datasets/data/digits.csv.gz"
    with pytest.raises(DownloadError, match=r"came 57523 bytes"):
        fetched(RemoteFile("digits.csv.gz", checksum, (place,)), tmp_path)


def test_a_package_that_is_not_installed_is_an_answer(tmp_path):
    with pytest.raises(DownloadError, match="the package heated_nowhere is not installed"):
        fetched(remote("package:heated_nowhere/data.bin"), tmp_path)


# --- by hand ---------------------------------------------------------------------------------

PAGE = "the project page, 'Retrieval', file Img/img.zip"


def by_hand(name):
    return RemoteFile(name, None, by_hand=PAGE)


def test_all_files_to_fetch_by_hand_are_named_before_anything_is_downloaded(site, tmp_path):
    files = [remote(site.serve("/data.bin")), by_hand("a.zip"), by_hand("b.zip")]
    with pytest.raises(DownloadError) as caught:
        gathered(tmp_path, *files, mirror=str(tmp_path / "mirror"))
    for name in ("a.zip", "b.zip"):
        sentence = (
            f"Fetch it by hand from {PAGE}, and put it at {tmp_path}/mirror/set/{name}, where"
        )
        assert sentence in str(caught.value)
    assert site.asked == []
    assert not (tmp_path / "raw").exists()


def test_without_a_mirror_the_error_says_how_to_name_one(tmp_path):
    with pytest.raises(DownloadError, match="put it at FOLDER/set/a.zip, where HEATED_MIRROR or"):
        gathered(tmp_path, by_hand("a.zip"))


def test_a_file_put_into_the_mirror_by_hand_is_taken(site, tmp_path):
    held(tmp_path, "set/a.zip", OTHER)
    file = remote(site.serve("/data.bin"))
    raw = gathered(tmp_path, file, by_hand("a.zip"), mirror=str(tmp_path / "mirror"))
    assert (raw / "a.zip").read_bytes() == OTHER
    assert names(raw) == ["a.zip", "data.bin"]


# --- the folder ------------------------------------------------------------------------------


def two(site, *answers):
    """Two files of the same bytes; the second one's answers."""
    checksum = Checksum("sha256", SHA256)
    first = RemoteFile("first.bin", checksum, (site.serve("/first.bin"),))
    return first, RemoteFile("second.bin", checksum, (site.serve("/second.bin", *answers),))


def test_the_folder_has_all_files_and_nothing_else(site, tmp_path):
    stale = tmp_path / ".raw.partial"
    stale.mkdir()
    (stale / "of another version").write_bytes(OTHER)
    (stale / ".first.bin.part.json.1.part").mkdir()
    raw = gathered(tmp_path, *two(site))
    assert raw == tmp_path / "raw"
    assert names(raw) == ["first.bin", "second.bin"]
    assert names(tmp_path) == [".raw.lock", "raw"]


def test_a_file_stays_when_the_next_one_fails_and_is_not_fetched_again(site, tmp_path):
    files = two(site, Answer(b"", 404), Answer())
    with pytest.raises(DownloadError, match="second.bin could not be had"):
        gathered(tmp_path, *files)
    assert not (tmp_path / "raw").exists()
    assert names(tmp_path / ".raw.partial") == ["first.bin"]
    raw = gathered(tmp_path, *files)
    assert names(raw) == ["first.bin", "second.bin"]
    assert site.asked == ["/first.bin", "/second.bin", "/second.bin"]


def test_a_whole_folder_is_left_as_it_is(site, tmp_path):
    files = two(site)
    raw = gathered(tmp_path, *files)
    (tmp_path / ".raw.partial").mkdir()
    gathered(tmp_path, *files)
    assert len(site.asked) == 2
    assert names(tmp_path) == [".raw.lock", "raw"]
    (raw / "second.bin").write_bytes(OTHER)
    assert (gathered(tmp_path, *files) / "second.bin").read_bytes() == BYTES


def test_a_file_that_was_damaged_in_between_is_fetched_again(site, tmp_path):
    files = two(site, Answer(b"", 404), Answer())
    with pytest.raises(DownloadError):
        gathered(tmp_path, *files)
    (tmp_path / ".raw.partial" / "first.bin").write_bytes(OTHER)
    assert (gathered(tmp_path, *files) / "first.bin").read_bytes() == BYTES


# --- processes -------------------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
from heated.datasets.download import Checksum, RemoteFile, gather
file = RemoteFile("data.bin", Checksum("sha256", sys.argv[1]), (sys.argv[2],))
print("ready", flush=True)
gather([file], Path(sys.argv[3]), mirror=None, subfolder="set")
"""


@contextmanager
def started(address, raw):
    """Another process that gathers data.bin, and is about to."""
    command = [sys.executable, "-c", SCRIPT, SHA256, address, str(raw)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def until(condition):
    """Wait for another process or thread to get that far."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_after_a_kill_only_the_rest_is_sent(site, tmp_path):
    slow = Answer(cut=MIDDLE, pause=threading.Event())
    address = site.serve("/data.bin", slow, Answer())
    part = tmp_path / ".raw.partial" / "data.bin.part"
    with started(address, tmp_path / "raw") as process:
        until(lambda: part.exists() and part.stat().st_size > 0)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    slow.pause.set()
    came = part.stat().st_size
    assert 0 < came <= MIDDLE
    assert not (tmp_path / "raw").exists()
    assert (gathered(tmp_path, remote(address)) / "data.bin").read_bytes() == BYTES
    assert site.ranges == [None, f"bytes={came}-"]
    assert site.sent == [MIDDLE, len(BYTES) - came]


def test_of_two_processes_one_fetches_and_the_other_waits(site, tmp_path):
    slow = Answer(cut=MIDDLE, pause=threading.Event(), goes_on=True)
    address, raw = site.serve("/data.bin", slow), tmp_path / "raw"
    with started(address, raw) as first:
        until(lambda: site.sent)
        with started(address, raw) as second:
            time.sleep(0.3)  # for the second one to meet the lock
            assert second.poll() is None
            slow.pause.set()
            assert first.wait() == second.wait() == 0
    assert (raw / "data.bin").read_bytes() == BYTES
    assert site.asked == ["/data.bin"]
    assert names(tmp_path) == [".raw.lock", "raw"]


# --- room and permission ---------------------------------------------------------------------


def free(monkeypatch, space):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=space))


def test_room_for_all_known_sizes_is_wanted_before_anything_is_downloaded(
    site, tmp_path, monkeypatch
):
    files = [
        RemoteFile(f"{n}.bin", Checksum("sha256", SHA256), (site.serve(f"/{n}.bin"),), len(BYTES))
        for n in range(2)
    ]
    free(monkeypatch, 29_999)
    with pytest.raises(DownloadError) as caught:
        gathered(tmp_path, *files)
    assert f"30,000 bytes more are needed in {tmp_path}/.raw.partial, 29,999 are free" in str(
        caught.value
    )
    assert site.asked == []
    free(monkeypatch, 30_000)
    assert names(gathered(tmp_path, *files)) == ["0.bin", "1.bin"]


def test_a_copy_from_the_mirror_needs_room(tmp_path, monkeypatch):
    held(tmp_path)
    free(monkeypatch, len(BYTES) - 1)
    with pytest.raises(DownloadError, match="15,000 bytes more are needed"):
        gathered(tmp_path, remote("http://127.0.0.1:1/"), mirror=str(tmp_path / "mirror"))


def test_a_file_that_is_there_needs_no_room(site, tmp_path, monkeypatch):
    files = [replace(file, size=len(BYTES)) for file in two(site, Answer(b"", 404), Answer())]
    with pytest.raises(DownloadError):
        gathered(tmp_path, *files)
    free(monkeypatch, len(BYTES))
    assert gathered(tmp_path, *files).is_dir()


def test_a_half_file_needs_room_for_its_rest_only(site, tmp_path, monkeypatch):
    address = site.serve("/data.bin", CUT, Answer(b"", 404), Answer())
    file = remote(address, size=len(BYTES))
    with pytest.raises(DownloadError):
        gathered(tmp_path, file)
    free(monkeypatch, len(BYTES) - MIDDLE)
    assert gathered(tmp_path, file).is_dir()


def test_room_for_the_length_that_the_server_says_is_wanted(site, tmp_path, monkeypatch):
    free(monkeypatch, len(BYTES) - 1)
    with pytest.raises(DownloadError, match="15,000 bytes more are needed .* 14,999 are free"):
        gathered(tmp_path, remote(site.serve("/data.bin")))
    assert names(tmp_path / ".raw.partial") == []


def test_a_disk_that_fills_up_keeps_what_came_for_the_next_call(site, tmp_path):
    resource = pytest.importorskip("resource")
    file = remote(site.serve("/data.bin"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIDDLE, hard))  # bytes, of any file
    try:
        with pytest.raises(DownloadError, match=r"File too large(.|\n)*stays in .*\.raw\.partial"):
            gathered(tmp_path, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "raw").exists()
    assert "data.bin" not in names(tmp_path / ".raw.partial")
    assert (gathered(tmp_path, file) / "data.bin").read_bytes() == BYTES
    assert site.ranges == [None, f"bytes={MIDDLE}-"]


@pytest.mark.parametrize("which", ["", ".raw.partial"])
def test_a_read_only_folder_is_named(site, tmp_path, which):
    file, folder = remote(site.serve("/data.bin")), tmp_path / which
    folder.mkdir(exist_ok=True)
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    try:
        with pytest.raises(DownloadError, match=f"Permission denied: '{folder}/"):
            gathered(tmp_path, file)
    finally:
        folder.chmod(0o755)
    assert not (tmp_path / "raw").exists()
    assert gathered(tmp_path, file).is_dir()


def test_a_file_in_the_place_of_the_folder_is_named(site, tmp_path):
    (tmp_path / "data").write_bytes(b"")
    with pytest.raises(DownloadError, match=f"File exists: '{tmp_path}/data'"):
        gathered(tmp_path / "data", remote(site.serve("/data.bin")))
    assert site.asked == []


# --- which mirror ----------------------------------------------------------------------------


def test_the_environment_beats_the_parameter(monkeypatch):
    monkeypatch.setenv("HEATED_MIRROR", "http://from.environment")
    assert mirror_from("http://from.parameter") == "http://from.environment"


@pytest.mark.parametrize("variable", [None, ""])
def test_the_parameter_holds_where_the_environment_says_nothing(monkeypatch, variable):
    monkeypatch.delenv("HEATED_MIRROR", raising=False)
    if variable is not None:
        monkeypatch.setenv("HEATED_MIRROR", variable)
    assert mirror_from("http://from.parameter") == "http://from.parameter"
    assert mirror_from(None) is None


def test_a_relative_mirror_starts_at_dvcs_root(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    monkeypatch.delenv("HEATED_MIRROR", raising=False)
    expected = str(tmp_path / "project" / "mirror")
    assert mirror_from("mirror") == expected
    monkeypatch.setenv("HEATED_MIRROR", "mirror")
    assert mirror_from(None) == expected


def test_an_absolute_mirror_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", "/project")
    monkeypatch.delenv("HEATED_MIRROR", raising=False)
    assert mirror_from(str(tmp_path)) == str(tmp_path)
