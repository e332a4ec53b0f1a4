"""Data at a URL: fetched once, and again when it has changed there. With a real HTTP server."""

from __future__ import annotations

import functools
import importlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest

from luthier.base.errors import UserError
from luthier.base.source import Source
from luthier.data.dataset import read_dataset
from luthier.data.readers.remote import fetched
from papers import PAGE


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def texts(path: str, root) -> dict[str, str]:
    data = read_dataset("kb", Source(path=path, heldout=0), root)
    return {example.origin: example.text for example in data.train}


def test_a_folder_elsewhere_follows_its_changes(memory, tmp_path):
    for name in ("kb/a.md", "kb/sub/b.md", "other/c.md"):
        memory.pipe_file(f"/{name}", f"words of {name}".encode())
    assert texts("memory://kb", tmp_path) == {"kb/a.md": "words of kb/a.md", "kb/sub/b.md": "words of kb/sub/b.md"}
    memory.pipe_file("/kb/a.md", b"new words")
    memory.rm_file("/kb/sub/b.md")
    assert texts("memory://kb", tmp_path) == {"kb/a.md": "new words"}
    assert texts("memory://kb/a.md", tmp_path) == {"a.md": "new words"}


def test_a_file_url_is_the_file_itself(tmp_path):
    (tmp_path / "a.md").write_text("here")
    assert fetched("x", f"file://{tmp_path}/a.md") == tmp_path / "a.md"
    assert texts(f"file://{tmp_path}/a.md", tmp_path) == {"a.md": "here"}


@pytest.fixture
def site(tmp_path):
    """A real server over a folder, and the list of what it was asked for."""
    pytest.importorskip("aiohttp")
    folder = tmp_path / "site"
    folder.mkdir()
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *parts):
            asked.append(f"{self.command} {self.path}")

        def end_headers(self):
            path = folder / self.path.strip("/")
            if path.is_file():
                self.send_header("ETag", f'"{hash(path.read_bytes())}"')
            super().end_headers()

        def guess_type(self, path):
            return "text/html" if str(path).endswith("guide") else super().guess_type(path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_a_page_on_the_web_is_fetched_once_and_again_when_its_etag_is_new(site, tmp_path):
    folder, url, asked = site
    (folder / "guide").write_text(PAGE)  # no ending: what the server says of its kind counts
    (folder / "a.jsonl").write_text('{"text": "one"}\n')
    assert list(texts(f"{url}/guide", tmp_path)) == ["guide.html"]
    assert texts(f"{url}/a.jsonl", tmp_path) == {"a.jsonl:1": "one"}
    before = asked.count("GET /a.jsonl")
    assert before >= 1
    assert texts(f"{url}/a.jsonl", tmp_path) == {"a.jsonl:1": "one"}
    assert asked.count("GET /a.jsonl") == before
    (folder / "a.jsonl").write_text('{"text": "two"}\n')
    assert texts(f"{url}/a.jsonl", tmp_path) == {"a.jsonl:1": "two"}


def test_what_is_wrong_with_a_url(site, tmp_path):
    _, url, _ = site
    for path, said in (
        (f"{url}/nothing.md", r"data\.kb\.path: http://.*nothing\.md does not exist\. Check the address"),
        ("http://127.0.0.1:9/a.md", r"data\.kb\.path: .*(cannot be read|does not exist)"),
        ("klingon://a/b.md", r"data\.kb\.path: klingon://a/b\.md: Protocol not known: klingon.*Use https://"),
        ("memory://nowhere.md", "does not exist"),
    ):
        with pytest.raises(UserError, match=said):
            read_dataset("kb", Source(path=path), tmp_path)


def test_a_protocol_whose_package_is_missing(tmp_path, monkeypatch):
    known = importlib.import_module("fsspec.registry").known_implementations
    monkeypatch.setitem(known, "oddfs", {"class": "no_such_package.Files", "err": "Install no_such_package"})
    with pytest.raises(UserError, match=r"oddfs:// needs oddfs: pip install oddfs\. \(Install no_such_package\)"):
        read_dataset("kb", Source(path="oddfs://a/b.md"), tmp_path)
