import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from heated.downloading import DownloadError, RemoteFile, fetch, mirror_from

BYTES = b"the right bytes" * 1000
SHA256 = hashlib.sha256(BYTES).hexdigest()


@dataclass
class Site:
    """A real server on loopback: `pages` by path -> (status, length said, bytes sent)."""

    address: str = ""
    pages: dict[str, tuple[int, int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def serve(self, path: str, body: bytes, *, said: int | None = None) -> str:
        self.pages[path] = (200, len(body) if said is None else said, body)
        return self.address + path


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            site.asked.append(self.path)
            status, length, body = site.pages.get(self.path, (404, 0, b""))
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield site
        server.shutdown()
        thread.join()


def remote(*addresses):
    return RemoteFile("data.bin", SHA256, addresses)


def fetched(file, folder, mirror=None):
    return fetch(file, folder, mirror=mirror, subfolder="set")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- from an address -------------------------------------------------------------------------


def test_the_right_file_is_kept_under_its_name(site, tmp_path):
    path = fetched(remote(site.serve("/data.bin", BYTES)), tmp_path)
    assert path == tmp_path / "data.bin"
    assert path.read_bytes() == BYTES
    assert names(tmp_path) == ["data.bin"]


def test_wrong_bytes_are_refused_and_nothing_is_left(site, tmp_path):
    wrong = b"another file"
    address = site.serve("/data.bin", wrong)
    with pytest.raises(DownloadError) as caught:
        fetched(remote(address), tmp_path)
    assert names(tmp_path) == []
    message = str(caught.value)
    assert f"{address}: came {len(wrong)} bytes" in message
    assert SHA256 in message
    assert hashlib.sha256(wrong).hexdigest() in message
    assert "HEATED_MIRROR" in message


def test_a_truncated_body_is_refused_and_nothing_is_left(site, tmp_path):
    half = BYTES[: len(BYTES) // 2]
    address = site.serve("/data.bin", half, said=len(BYTES))
    with pytest.raises(DownloadError):
        fetched(remote(address), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("first", ["missing", "wrong", "truncated"])
def test_the_next_address_is_tried(site, tmp_path, first):
    site.serve("/wrong", b"another file")
    site.serve("/truncated", BYTES[:100], said=len(BYTES))
    last = site.serve("/right", BYTES)
    path = fetched(remote(f"{site.address}/{first}", last), tmp_path)
    assert path.read_bytes() == BYTES
    assert site.asked == [f"/{first}", "/right"]
    assert names(tmp_path) == ["data.bin"]


def test_no_address_is_tried_after_the_right_one(site, tmp_path):
    fetched(remote(site.serve("/a", BYTES), site.serve("/b", BYTES)), tmp_path)
    assert site.asked == ["/a"]


def test_every_answer_is_listed_when_no_place_has_the_file(site, tmp_path):
    with pytest.raises(DownloadError) as caught:
        fetched(remote(f"{site.address}/a", f"{site.address}/b"), tmp_path, str(tmp_path / "no"))
    message = str(caught.value)
    for place in (f"{site.address}/a: ", f"{site.address}/b: ", "no/set/data.bin: "):
        assert place in message
    assert message.count("404") == 2
    assert names(tmp_path) == []


def test_a_server_that_is_not_there_is_an_answer_too(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DownloadError, match="refused"):
        fetched(remote("http://127.0.0.1:1/data.bin"), tmp_path)


# --- what is there already -------------------------------------------------------------------


def test_a_right_file_is_not_fetched_again(site, tmp_path):
    (tmp_path / "data.bin").write_bytes(BYTES)
    fetched(remote(site.serve("/data.bin", BYTES)), tmp_path)
    assert site.asked == []


def test_a_wrong_file_is_replaced(site, tmp_path):
    (tmp_path / "data.bin").write_bytes(BYTES[:-1])
    path = fetched(remote(site.serve("/data.bin", BYTES)), tmp_path)
    assert path.read_bytes() == BYTES


# --- from a mirror ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["set/data.bin", "data.bin"])
@pytest.mark.parametrize("end", ["", "/"])
def test_a_mirror_folder_comes_before_the_addresses(site, tmp_path, place, end):
    held = tmp_path / "mirror" / place
    held.parent.mkdir(parents=True)
    held.write_bytes(BYTES)
    address = site.serve("/data.bin", BYTES)
    path = fetched(remote(address), tmp_path / "raw", f"{tmp_path}/mirror{end}")
    assert path.read_bytes() == BYTES
    assert site.asked == []


def test_the_mirrors_subfolder_comes_before_the_mirror_itself(site, tmp_path):
    site.serve("/mirror/set/data.bin", BYTES)
    site.serve("/mirror/data.bin", BYTES)
    fetched(remote(), tmp_path, f"{site.address}/mirror")
    assert site.asked == ["/mirror/set/data.bin"]


def test_a_mirror_without_the_right_file_is_passed_over(site, tmp_path):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "data.bin").write_bytes(b"old version")
    address = site.serve("/data.bin", BYTES)
    path = fetched(remote(address), tmp_path / "raw", str(tmp_path / "mirror"))
    assert path.read_bytes() == BYTES
    assert (tmp_path / "mirror" / "data.bin").read_bytes() == b"old version"


def test_a_file_that_a_package_ships_is_found(tmp_path):
    file = RemoteFile("digits.csv.gz", "0" * 64, ("package:sklearn/datasets/data/digits.csv.gz",))
    with pytest.raises(DownloadError, match=r"came 57523 bytes"):
        fetched(file, tmp_path)


def test_a_package_that_is_not_installed_is_an_answer(tmp_path):
    with pytest.raises(DownloadError, match="the package heated_nowhere is not installed"):
        fetched(remote("package:heated_nowhere/data.bin"), tmp_path)


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
