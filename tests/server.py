"""A real HTTP server on loopback with the faults of real servers."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BYTES = random.Random(0).randbytes(15_000)
LAST_MODIFIED = "Fri, 31 Dec 1999 23:59:59 GMT"


@dataclass
class Answer:
    """A response of a page; `said`, `span` and `cut` are faults."""

    body: bytes = BYTES
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"1"'})
    ranges: bool = True  # respects Range, and If-Range if `heeds`
    heeds: bool = True
    said: int | None = None  # a wrong Content-Length
    span: str | None = None  # a wrong Content-Range
    cut: int | None = None  # bytes after which the connection ends
    pause: threading.Event | None = None  # awaited after the cut
    resumes: bool = False  # whether the rest is sent after the pause

    def part(self, headers):
        """Return status, headers and body for the headers of a request."""
        requested = headers["Range"] if self.ranges and self.status == 200 else None
        current = headers["If-Range"] in (None, self.headers.get("ETag"), LAST_MODIFIED)
        if not requested or (self.heeds and not current):
            return self.status, {}, self.body
        start, size = int(requested.removeprefix("bytes=").rstrip("-")), len(self.body)
        if start >= size:
            return 416, {"Content-Range": f"bytes */{size}"}, b""
        span = self.span or f"bytes {start}-{size - 1}/{size}"
        return 206, {"Content-Range": span}, self.body[start:]


@dataclass
class Site:
    """A server; each page, by path, gives its answers in turn and then repeats the last one."""

    address: str = ""
    pages: dict[str, list[Answer]] = field(default_factory=dict)
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)  # bytes per request

    def serve(self, path, *answers):
        self.pages[path] = list(answers) or [Answer()]
        return self.address + path

    @property
    def asked(self):
        return [path for path, _, _ in self.requests]

    @property
    def ranges(self):
        return [asked for _, asked, _ in self.requests]

    def answer(self, handler):
        self.requests.append((handler.path, handler.headers["Range"], handler.headers["If-Range"]))
        answers = self.pages.get(handler.path, [Answer(b"", 404)])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        status, headers, body = answer.part(handler.headers)
        handler.send_response(status)
        said = len(body) if answer.said is None else answer.said
        for name, value in {**answer.headers, **headers, "Content-Length": said}.items():
            handler.send_header(name, str(value))
        handler.end_headers()
        self.sent.append(len(body[: answer.cut]))
        handler.wfile.write(body[: answer.cut])
        if answer.pause:
            handler.wfile.flush()
            answer.pause.wait(60)
        if answer.resumes:
            handler.wfile.write(body[answer.cut :])


@contextmanager
def served() -> Iterator[Site]:
    """Run a server inside the block."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            site.answer(self)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield site
        for answers in site.pages.values():
            for answer in answers:
                if answer.pause:
                    answer.pause.set()
        server.shutdown()
        thread.join()
