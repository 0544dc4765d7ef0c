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
from filelock import FileLock
from server import BYTES, LAST_MODIFIED, Answer

from heated.datasets.download import (
    Cache,
    Checksum,
    DownloadError,
    RemoteFile,
    gather,
    http,
    mirror_from,
)

OTHER = random.Random(1).randbytes(15_000)
SHA256 = hashlib.sha256(BYTES).hexdigest()
KEPT = f"sha256-{SHA256}"
MIDDLE = 7_000
CUT, GONE = Answer(cut=MIDDLE), Answer(b"", 404)
REST = f"bytes={MIDDLE}-"


@pytest.fixture(autouse=True)
def nobody_waits(waits):
    """Every test here is done without the pauses between tries."""


def remote(*addresses, name="data.bin", **described):
    checksum = described.pop("checksum", Checksum("sha256", SHA256))
    return RemoteFile(name, checksum, addresses, **described)


def gathered(folder, *files, mirror=None, limit_gb=1):
    """The folder `raw` with the files, and `cache` beside it."""
    kept = Cache(folder / "cache", limit_gb)
    return gather(files, folder / "raw", mirror=mirror, subfolder="set", cache=kept)


def fetched(folder, file, mirror=None):
    """The content of one file; it is all that is in `raw`."""
    raw = gathered(folder, file, mirror=mirror)
    assert names(raw) == [file.name]
    return (raw / file.name).read_bytes()


def refused(folder, file, match=None, mirror=None):
    """The message of a download that fails; no file is there then."""
    with pytest.raises(DownloadError, match=match) as caught:
        gathered(folder, file, mirror=mirror)
    assert not (folder / "raw").exists()
    return str(caught.value)


def names(folder):
    """What is in a folder, except for locks."""
    found = folder.iterdir() if folder.exists() else []
    return sorted(path.name for path in found if path.suffix != ".lock")


def free(monkeypatch, space):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=space))


# --- from an address -------------------------------------------------------------------------


def test_the_first_right_file_is_kept_and_no_other_address_is_asked(site, tmp_path):
    assert fetched(tmp_path, remote(site.serve("/a"), site.serve("/b"))) == BYTES
    assert site.asked == ["/a"]
    assert names(tmp_path) == ["cache", "raw"]
    assert names(tmp_path / "cache") == [KEPT]


def test_wrong_bytes_are_refused_and_nothing_is_left(site, tmp_path):
    for wrong in (b"another file", b"<!DOCTYPE html><title>Sign in</title>"):
        address = site.serve("/data.bin", Answer(wrong))
        message = refused(tmp_path, remote(address), f"{address}: came {len(wrong)} bytes")
        assert names(tmp_path / "cache") == []
        for told in (SHA256, hashlib.sha256(wrong).hexdigest(), "HEATED_MIRROR"):
            assert told in message


def test_the_next_address_is_tried_and_told(site, new_folder, capsys, subtests):
    site.serve("/wrong", Answer(OTHER))
    site.serve("/truncated", Answer(BYTES[:100], said=len(BYTES), ranges=False))
    last = site.serve("/right")
    for first in ("missing", "wrong", "truncated"):
        with subtests.test(first=first):
            site.requests.clear()
            assert fetched(new_folder(), remote(f"{site.address}/{first}", last)) == BYTES
            assert list(dict.fromkeys(site.asked)) == [f"/{first}", "/right"]
            told = f"data.bin is from {last}, after\n  {site.address}/{first}: "
            assert told in capsys.readouterr().err


def test_every_answer_is_listed_when_no_place_has_the_file(site, tmp_path):
    file = remote(f"{site.address}/a", f"{site.address}/b")
    message = refused(tmp_path, file, mirror=str(tmp_path / "no"))
    for place in (f"{site.address}/a: ", f"{site.address}/b: ", "no/set/data.bin: "):
        assert place in message
    assert message.count("HTTP status 404") == 2


def test_a_redirect_is_followed_with_its_range(site, tmp_path):
    there = site.serve("/there", CUT, Answer())
    here = site.serve("/here", Answer(b"", 302, {"Location": there}))
    assert fetched(tmp_path, remote(here)) == BYTES
    assert site.asked == ["/here", "/there"] * 2
    assert site.ranges == [None, None, REST, REST]


def test_neither_an_address_nor_a_redirect_leads_out_of_http(site, tmp_path, waits, subtests):
    (tmp_path / "secret").write_bytes(BYTES)
    for scheme in ("file", "ftp", "data"):
        with subtests.test(scheme=scheme):
            elsewhere = f"{scheme}://{tmp_path}/secret"
            here = site.serve("/here", Answer(b"", 302, {"Location": elsewhere}))
            for address in (elsewhere, here):
                refused(tmp_path, remote(address), "No connection adapters|Invalid URL")
            assert names(tmp_path / "cache") == []
    assert site.asked == ["/here"] * 3
    assert waits == []


def test_bytes_are_stored_as_they_are_on_the_server(site, tmp_path):
    packed = gzip.compress(BYTES)
    headers = {"Content-Encoding": "gzip", "ETag": '"1"'}
    address = site.serve("/data.bin", Answer(packed, headers=headers))
    checksum = Checksum("sha256", hashlib.sha256(packed).hexdigest())
    assert fetched(tmp_path, remote(address, checksum=checksum)) == packed


# --- tries -----------------------------------------------------------------------------------


def test_a_final_answer_is_not_asked_for_again(site, tmp_path, waits):
    for status in (403, 404, 410):
        site.requests.clear()
        refused(tmp_path, remote(site.serve("/data.bin", Answer(b"", status))), str(status))
        assert site.asked == ["/data.bin"]
    assert waits == []


def test_a_server_that_is_away_or_overloaded_is_asked_four_times(
    site, tmp_path, monkeypatch, waits
):
    monkeypatch.setenv("no_proxy", "*")
    away, busy = "http://127.0.0.1:1/data.bin", site.serve("/data.bin", Answer(b"", 503))
    for address, told in ((away, "refused"), (busy, "503")):
        waits.clear()
        refused(tmp_path, remote(address), rf"{told}.*\(tried 4 times\)")
        assert waits == [1, 2, 4]  # twice as long each time
    assert len(site.asked) == 4
    waits.clear()
    site.serve("/data.bin", *[Answer(b"", 503)] * 3, Answer())
    assert fetched(tmp_path, remote(busy)) == BYTES
    assert waits == [1, 2, 4]


def test_retry_after_is_honoured_up_to_a_minute(site, new_folder, waits, subtests):
    for said, waited in [("7", 7), ("86400", 60), ("0", 1), ("soon", 1)]:
        with subtests.test(said=said):
            waits.clear()
            busy = Answer(b"", 429, {"Retry-After": said})
            fetched(new_folder(), remote(site.serve("/data.bin", busy, Answer())))
            assert waits == [waited]


def test_only_tries_that_bring_little_or_start_over_are_counted(site, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "CHUNK", 1000)
    again = site.serve("/again", Answer(cut=MIDDLE, ranges=False))
    refused(tmp_path, remote(again), f"came {MIDDLE} of {len(BYTES)} bytes")
    assert len(site.asked) == 4
    site.requests.clear()
    cuts = [Answer(cut=1000) for _ in range(10)]
    assert fetched(tmp_path, remote(site.serve("/data.bin", *cuts, Answer()))) == BYTES
    assert site.ranges == [None, *(f"bytes={1000 * n}-" for n in range(1, 11))]


# --- partial files ---------------------------------------------------------------------------


def test_after_a_cut_or_a_stall_only_the_rest_is_sent(site, new_folder, monkeypatch, subtests):
    monkeypatch.setattr(http, "TIMEOUT", 3)  # which no busy machine meets
    for headers in (
        {"ETag": '"1"'},
        {"Last-Modified": LAST_MODIFIED},
        {"Accept-Ranges": "bytes"},
        {"ETag": '"stall"'},
    ):
        with subtests.test(headers=headers):
            pause = threading.Event() if "stall" in str(headers) else None
            cut = Answer(cut=MIDDLE, headers=headers, pause=pause)
            file = remote(site.serve("/data.bin", cut, Answer(headers=headers)))
            assert fetched(new_folder(), file) == BYTES
            validator = headers.get("ETag", headers.get("Last-Modified"))
            assert site.requests[-1] == ("/data.bin", REST, validator)
            assert site.sent[-2:] == [MIDDLE, len(BYTES) - MIDDLE]


def test_a_server_without_ranges_sends_all_again(site, tmp_path):
    assert fetched(tmp_path, remote(site.serve("/data.bin", CUT, Answer(ranges=False)))) == BYTES
    assert site.ranges == [None, REST]
    assert site.sent == [MIDDLE, len(BYTES)]


def test_no_bytes_are_joined_that_may_be_of_different_files(site, new_folder, subtests):
    """Without a checksum, which would notice: all is asked for again in the end."""
    weak = [{"Accept-Ranges": "bytes"}, {"Accept-Ranges": "bytes", "ETag": 'W/"1"'}]
    spans = [
        f"bytes 0-{len(BYTES) - 1}/{len(BYTES)}",
        f"bytes {MIDDLE}-{len(BYTES) - 2}/{len(BYTES)}",
        f"bytes {MIDDLE}-{len(BYTES) - 1}/{len(BYTES) + 1}",
        f"bytes {MIDDLE}-{len(BYTES) - 1}/{MIDDLE}",
        "nothing",
    ]
    nameless = Answer(OTHER, headers={}, ranges=False, cut=100)
    changed = Answer(OTHER, cut=MIDDLE, headers={"ETag": '"0"'})
    cases = [
        *(([Answer(cut=MIDDLE, headers=h), Answer(headers=h)], [None, None]) for h in weak),
        *(([CUT, Answer(OTHER, span=span), Answer()], [None, REST, None]) for span in spans),
        ([CUT, nameless, Answer()], [None, REST, None]),
        ([CUT, Answer(BYTES[:100]), Answer()], [None, REST, None]),  # now ends before the part
        ([changed, Answer()], [None, REST]),  # the server heeds If-Range
        ([changed, Answer(heeds=False), Answer()], [None, REST, None]),
    ]
    for answers, ranges in cases:
        with subtests.test(answers=answers):
            site.requests.clear()
            file = remote(site.serve("/data.bin", *answers), checksum=None)
            assert fetched(new_folder(), file) == BYTES
            assert site.ranges == ranges
            if answers[0] is changed:
                assert site.requests[1] == ("/data.bin", REST, '"0"')


def test_a_later_call_resumes_even_if_the_data_folder_was_emptied(site, tmp_path):
    address = site.serve("/data.bin", CUT, GONE, Answer())
    refused(tmp_path, remote(address))
    assert names(tmp_path / "cache") == [f"{KEPT}.part", f"{KEPT}.part.json"]
    assert fetched(tmp_path, remote(address)) == BYTES
    assert site.ranges[-1] == REST
    assert names(tmp_path / "cache") == [KEPT]


def half(folder, content, origin):
    """The partial file of an earlier call."""
    (folder / "cache").mkdir()
    (folder / "cache" / f"{KEPT}.part").write_bytes(content)
    (folder / "cache" / f"{KEPT}.part.json").write_text(origin)


def test_what_is_known_of_a_partial_file_decides_its_use(site, new_folder, subtests):
    address = site.serve("/data.bin")
    known = (
        f'{{"address": "{http.identity(address)}", "validator": "\\"1\\"", "total": {len(BYTES)}}}'
    )
    for content, origin, ranges in [
        (BYTES, known, []),  # complete already
        (bytes(MIDDLE), known, [REST, None]),  # damaged: costs one more download
        *((OTHER[:MIDDLE], text, [None]) for text in ("", "[]", "{}", '{"address": 1}')),
    ]:
        with subtests.test(origin=origin, content=len(content)):
            site.requests.clear()
            half(folder := new_folder(), content, origin)
            assert fetched(folder, remote(address)) == BYTES
            assert site.ranges == ranges
            assert names(folder / "cache") == [KEPT]


def test_a_partial_file_of_another_address_is_kept_until_that_one_answers(site, tmp_path):
    file = remote(site.serve("/first", CUT, GONE), f"{site.address}/second")
    refused(tmp_path, file)
    assert (tmp_path / "cache" / f"{KEPT}.part").read_bytes() == BYTES[:MIDDLE]
    assert site.requests[-1] == ("/second", None, None)
    site.serve("/second", Answer(OTHER[:500]))
    refused(tmp_path, file)
    assert names(tmp_path / "cache") == []


# --- lengths and checksums -------------------------------------------------------------------


def test_a_body_of_another_length_than_the_server_says_is_refused(site, tmp_path):
    for ranges in (True, False):
        longer = Answer(said=len(BYTES) + 100, ranges=ranges)
        refused(tmp_path, remote(site.serve("/data.bin", longer), checksum=None))
    shorter = Answer(said=len(BYTES) - 100)
    told = f"came {len(BYTES) - 100} bytes"
    refused(tmp_path, remote(site.serve("/data.bin", shorter)), told)


def test_an_unpacked_checksum_is_of_the_bytes_inside_however_packed(site, new_folder):
    for algorithm in ("sha256", "md5"):
        digest = hashlib.new(algorithm, BYTES).hexdigest().upper()
        checksum = Checksum(algorithm, digest, unpacked=True)
        for level in (0, 9):
            packed = gzip.compress(BYTES, level)
            file = remote(site.serve("/data.bin", Answer(packed)), checksum=checksum)
            assert fetched(new_folder(), file) == packed


def test_a_bad_gzip_is_a_wrong_file(site, tmp_path, subtests):
    checksum = Checksum("md5", hashlib.md5(BYTES).hexdigest(), unpacked=True)
    good = gzip.compress(BYTES)
    for name, wrong in {
        "not packed": BYTES,
        "another": gzip.compress(OTHER),
        "truncated": good[:-1],
        "bad CRC": good[:-8] + bytes(8),
        "damaged": good[:10] + b"\xff" * 50,
    }.items():
        with subtests.test(name=name):
            file = remote(site.serve("/data.bin", Answer(wrong)), checksum=checksum)
            refused(tmp_path, file, "MD5 of the unpacked bytes")
            assert names(tmp_path / "cache") == []


def test_without_a_checksum_the_size_decides_and_an_empty_file_is_none(site, tmp_path):
    address = site.serve("/data.bin", Answer(OTHER[:-1]), Answer(OTHER))
    file = remote(address, checksum=None, size=len(OTHER))
    refused(tmp_path, file, f"came {len(OTHER) - 1} bytes, not {len(OTHER)}")
    assert fetched(tmp_path, file) == OTHER
    assert names(tmp_path / "cache") == []  # nothing would notice if it were another file
    shutil.rmtree(tmp_path / "raw")
    address = site.serve("/data.bin", Answer(b""))
    refused(tmp_path, remote(address, checksum=None), "came 0 bytes")


# --- the cache -------------------------------------------------------------------------------


def test_no_file_is_fetched_twice_whatever_becomes_of_the_data_folder(site, tmp_path):
    file = remote(site.serve("/data.bin"))
    assert fetched(tmp_path, file) == BYTES
    shutil.rmtree(tmp_path / "raw")
    assert fetched(tmp_path, file) == BYTES
    other = gather(
        [remote(f"{site.address}/gone", name="same.bin")],  # another data set's name for it
        tmp_path / "other",
        mirror=None,
        subfolder="other",
        cache=Cache(tmp_path / "cache", 1),
    )
    assert (other / "same.bin").read_bytes() == BYTES
    assert site.asked == ["/data.bin"]


def test_a_damaged_file_in_the_cache_is_fetched_again(site, tmp_path):
    file = remote(site.serve("/data.bin"))
    half(tmp_path, b"", "")
    (tmp_path / "cache" / KEPT).write_bytes(OTHER)
    assert fetched(tmp_path, file) == BYTES
    assert (tmp_path / "cache" / KEPT).read_bytes() == BYTES


def test_the_cache_gives_a_copy_where_it_cannot_give_a_link(site, tmp_path, monkeypatch):
    def fail(*paths):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", fail)
    assert fetched(tmp_path, remote(site.serve("/data.bin"))) == BYTES
    assert not (tmp_path / "raw/data.bin").samefile(tmp_path / "cache" / KEPT)


def test_beyond_the_limit_the_oldest_files_that_nobody_uses_are_removed(site, tmp_path):
    kept = tmp_path / "cache"
    kept.mkdir()
    theirs = ["thesis.docx", "md5-notes.txt"]
    new, used, old, oldest = (f"md5-{digit * 32}" for digit in "abcd")
    cached = [new, f"{used}.part", f"{old}.part.json", f"{old}.part", oldest]
    (kept / f"md5-{'e' * 32}").mkdir()
    for age, name in enumerate([*cached, *theirs]):
        (kept / name).write_bytes(bytes(10_000))
        os.utime(kept / name, (10_000 - age, 10_000 - age))
    file = remote(site.serve("/data.bin"))
    with FileLock(kept / f"{used}.lock"):
        gathered(tmp_path, file, limit_gb=36e-6)
    rest = [*theirs, f"md5-{'e' * 32}"]
    assert names(kept) == sorted([new, KEPT, f"{used}.part", *rest])
    shutil.rmtree(tmp_path / "raw")
    raw = gathered(tmp_path, file, limit_gb=0)
    assert names(kept) == sorted(rest)
    assert (raw / "data.bin").read_bytes() == BYTES  # of which the cache's was a second name


# --- from a mirror ---------------------------------------------------------------------------


def held(tmp_path, place="set/data.bin", content=BYTES):
    """A mirror's file."""
    path = tmp_path / "mirror" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_mirror_folder_comes_before_the_addresses(site, new_folder):
    for place in ("set/data.bin", "data.bin"):
        for end in ("", "/"):
            held(folder := new_folder(), place)
            file = remote(site.serve("/data.bin"))
            assert fetched(folder, file, f"{folder}/mirror{end}") == BYTES
            assert names(folder / "cache") == [KEPT]
            shutil.rmtree(folder / "raw")  # as DVC does before it runs a stage again
            shutil.rmtree(folder / "mirror")
            assert fetched(folder, replace(file, addresses=())) == BYTES
    assert site.asked == []


def test_a_mirrors_file_is_copied_and_its_own_left_as_it_is(tmp_path):
    there = held(tmp_path, "elsewhere/data.bin")
    (tmp_path / "mirror" / "data.bin").symlink_to(there)
    assert fetched(tmp_path, remote(), str(tmp_path / "mirror")) == BYTES
    path = tmp_path / "raw/data.bin"
    assert not path.is_symlink()
    assert not path.samefile(there)  # DVC makes what it tracks read-only


def test_the_mirrors_subfolder_comes_before_the_mirror_itself(site, tmp_path):
    site.serve("/mirror/set/data.bin")
    site.serve("/mirror/data.bin")
    fetched(tmp_path, remote(), f"{site.address}/mirror")
    assert site.asked == ["/mirror/set/data.bin"]


def test_a_mirror_without_the_right_file_is_passed_over(site, tmp_path):
    there = held(tmp_path, "data.bin", b"old version")
    assert fetched(tmp_path, remote(site.serve("/data.bin")), str(tmp_path / "mirror")) == BYTES
    assert there.read_bytes() == b"old version"


def test_a_folder_in_the_files_place_is_an_answer(tmp_path):
    (tmp_path / "mirror" / "data.bin").mkdir(parents=True)
    for checksum in (None, Checksum("sha256", SHA256)):
        told = r"mirror/data.bin: .*Is a directory"
        refused(tmp_path, remote(checksum=checksum), told, str(tmp_path / "mirror"))


def test_a_file_that_a_package_ships_is_found(tmp_path):
    refused(tmp_path, remote("package:sklearn/datasets/data/digits.csv.gz"), "came 57523 bytes")
    told = "the package heated_nowhere is not installed"
    refused(tmp_path, remote("package:heated_nowhere/data.bin"), told)


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
    refused(tmp_path, by_hand("a.zip"), "put it at FOLDER/set/a.zip, where HEATED_MIRROR or")


def test_a_file_put_into_the_mirror_by_hand_is_taken(site, tmp_path):
    held(tmp_path, "set/a.zip", OTHER)
    file = remote(site.serve("/data.bin"))
    raw = gathered(tmp_path, file, by_hand("a.zip"), mirror=str(tmp_path / "mirror"))
    assert (raw / "a.zip").read_bytes() == OTHER
    assert names(raw) == ["a.zip", "data.bin"]


# --- the folder ------------------------------------------------------------------------------


def two(site, *answers, **described):
    """Two files of different bytes; the second one's answers."""
    other = Checksum("sha256", hashlib.sha256(OTHER).hexdigest())
    first = remote(site.serve("/first"), name="first", **described)
    address = site.serve("/second", *(answers or [Answer(OTHER)]))
    return first, remote(address, name="second", checksum=other, **described)


def test_a_file_stays_in_the_cache_when_the_next_one_fails(site, tmp_path):
    files = two(site, GONE, Answer(OTHER))
    with pytest.raises(DownloadError, match="second could not be had"):
        gathered(tmp_path, *files)
    assert not (tmp_path / "raw").exists()
    raw = gathered(tmp_path, *files)
    assert names(raw) == ["first", "second"]
    assert site.asked == ["/first", "/second", "/second"]


def test_a_whole_folder_is_left_as_it_is_and_another_replaced(site, tmp_path):
    files = two(site)
    raw = gathered(tmp_path, *files)
    shutil.rmtree(tmp_path / "cache")
    gathered(tmp_path, *files)
    assert len(site.asked) == 2
    (raw / "second").write_bytes(BYTES)
    (raw / "of another version").write_bytes(BYTES)
    assert (gathered(tmp_path, *files) / "second").read_bytes() == OTHER
    assert names(raw) == ["first", "second"]
    (raw / "second").write_bytes(BYTES)  # the right one is nowhere
    shutil.rmtree(tmp_path / "cache")
    site.serve("/second", GONE)
    with pytest.raises(DownloadError):
        gathered(tmp_path, *files)


# --- processes -------------------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
from heated.datasets.download import Cache, Checksum, RemoteFile, gather
file = RemoteFile("data.bin", Checksum("sha256", sys.argv[1]), (sys.argv[2],))
raw = Path(sys.argv[3])
print("ready", flush=True)
gather([file], raw, mirror=None, subfolder="set", cache=Cache(raw.parent / "cache", 1))
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
    part = tmp_path / "cache" / f"{KEPT}.part"
    with started(address, tmp_path / "raw") as process:
        until(lambda: part.exists() and part.stat().st_size > 0)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    slow.pause.set()
    came = part.stat().st_size
    assert 0 < came <= MIDDLE
    assert not (tmp_path / "raw").exists()
    assert fetched(tmp_path, remote(address)) == BYTES
    assert site.ranges == [None, f"bytes={came}-"]
    assert site.sent == [MIDDLE, len(BYTES) - came]
    assert names(tmp_path) == ["cache", "raw"]


def test_of_two_processes_one_fetches_and_the_other_waits(site, tmp_path):
    """Also where two data sets have the same file."""
    for second_raw in ("raw", "other"):
        slow = Answer(cut=MIDDLE, pause=threading.Event(), goes_on=True)
        address = site.serve("/data.bin", slow)
        with started(address, tmp_path / "raw") as first:
            until(lambda: site.sent)
            with started(address, tmp_path / second_raw) as second:
                time.sleep(0.3)  # for the second one to meet the lock
                assert second.poll() is None
                slow.pause.set()
                assert first.wait() == second.wait() == 0
        for raw in ("raw", second_raw):
            assert (tmp_path / raw / "data.bin").read_bytes() == BYTES
        assert site.asked == ["/data.bin"]
        assert names(tmp_path) == sorted({"cache", "raw", second_raw})
        site.requests.clear()
        site.sent.clear()
        shutil.rmtree(tmp_path / "raw")
        shutil.rmtree(tmp_path / "cache")


# --- room and permission ---------------------------------------------------------------------


def test_room_is_wanted_for_all_that_is_missing_before_anything_is_downloaded(
    site, tmp_path, monkeypatch
):
    files = two(site, GONE, Answer(OTHER, cut=MIDDLE), GONE, Answer(OTHER), size=len(BYTES))
    free(monkeypatch, 29_999)
    with pytest.raises(DownloadError, match=r"30,000 bytes more are needed in .*, 29,999 are free"):
        gathered(tmp_path, *files)
    assert site.asked == []
    # then without the second file, with half of it, with all
    for room, failure in [(30_000, True), (15_000, True), (15_000 - MIDDLE, False)]:
        free(monkeypatch, room)
        if failure:
            with pytest.raises(DownloadError, match="404"):
                gathered(tmp_path, *files)
        else:
            assert names(gathered(tmp_path, *files)) == ["first", "second"]


def test_room_is_wanted_for_a_copy_and_for_the_length_that_the_server_says(
    site, tmp_path, monkeypatch
):
    free(monkeypatch, len(BYTES) - 1)
    told = "15,000 bytes more are needed .* 14,999 are free"
    refused(tmp_path, remote(site.serve("/data.bin")), told)
    assert names(tmp_path / "cache") == []
    held(tmp_path)
    refused(tmp_path, remote("http://127.0.0.1:1/"), told, str(tmp_path / "mirror"))


def test_a_disk_that_fills_up_keeps_what_came_for_the_next_call(site, tmp_path):
    resource = pytest.importorskip("resource")
    file = remote(site.serve("/data.bin"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIDDLE, hard))  # bytes, of any file
    try:
        refused(tmp_path, file, rf"File too large(.|\n)*stays in {tmp_path}/cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert fetched(tmp_path, file) == BYTES
    assert site.ranges == [None, REST]


def test_a_folder_that_cannot_be_written_is_named(site, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match=f"File exists: '{tmp_path}/file'"):
        gathered(tmp_path / "file", remote(site.serve("/data.bin")))
    (tmp_path / "cache").write_bytes(b"")
    refused(tmp_path, remote(site.serve("/data.bin")), f"File exists: '{tmp_path}/cache'")
    assert site.asked == []


# --- which mirror ----------------------------------------------------------------------------


def test_the_mirror_is_the_environments_or_else_the_parameters(monkeypatch, tmp_path):
    monkeypatch.setenv("HEATED_MIRROR", "http://from.environment")
    assert mirror_from("http://from.parameter") == "http://from.environment"
    for unset in (lambda name: monkeypatch.setenv(name, ""), monkeypatch.delenv):
        unset("HEATED_MIRROR")
        assert mirror_from("http://from.parameter") == "http://from.parameter"
        assert mirror_from(None) is None
        assert mirror_from(str(tmp_path)) == str(tmp_path)


def test_a_relative_mirror_starts_at_dvcs_root(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    monkeypatch.delenv("HEATED_MIRROR", raising=False)
    expected = str(tmp_path / "project" / "mirror")
    assert mirror_from("mirror") == expected
    monkeypatch.setenv("HEATED_MIRROR", "mirror")
    assert mirror_from(None) == expected


def test_passwords_and_tokens_of_addresses_are_neither_told_nor_stored(site, tmp_path, capsys):
    host = site.serve("/mirror/set/data.bin", CUT, GONE).partition("://")[2].partition("/")[0]
    mirror = f"http://me:secret@{host}/mirror"
    file = remote(f"http://{host}/gone?token=hidden", f"ftp://me:secret@{host}/a?token=hidden")
    with pytest.raises(DownloadError) as caught:
        gathered(tmp_path, file, mirror=mirror)
    written = "".join(path.read_text("utf-8") for path in tmp_path.rglob("*.json"))
    told = str(caught.value) + "".join(capsys.readouterr()) + written
    assert "secret" not in told
    assert "hidden" not in told
    assert f"http://{host}/mirror/set/data.bin" in told
    assert f"ftp://{host}/a?..." in told
