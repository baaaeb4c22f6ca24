"""The web page: who gets it, its files, its policy, a path prefix, and what is shown of uploaded files."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from server.kit import EXAMPLES, Running, running

from pocketvlm.errors import OptionError
from pocketvlm.server.context import Context
from pocketvlm.server.page import MISSING, Page
from pocketvlm.server.settings import Settings

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
KEY = {"x-api-key": "a-secret-key"}
OLLAMA = "Ollama is running"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    (folder / "ui").mkdir()
    (folder / "index.html").write_text("<!doctype html><p>page</p>")
    (folder / "ui" / "page-abc.js").write_text("1;" * 500)
    (folder / ".sources").write_text("digest")
    return folder


def with_page(folder: Path) -> Callable[[Context], None]:
    def prepare(context: Context) -> None:
        context.page = Page(folder)

    return prepare


@pytest.fixture(scope="module")
def locked(built: Path) -> Iterator[Running]:
    with running(api_keys=("a-secret-key",), root_path="/vision", prepare=with_page(built)) as found:
        yield found


def test_a_browser_gets_the_page_and_other_programs_what_they_expect(locked: Running) -> None:
    page = locked.client.get("/", headers=HTML)
    assert page.text == "<!doctype html><p>page</p>"
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        assert locked.client.get("/", headers=headers).text == OLLAMA
    assert locked.client.head("/").status_code == 200


def test_the_policy_allows_no_inline_script_and_no_other_host(locked: Running) -> None:
    policy = locked.client.get("/", headers=HTML).headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"
    assert "unsafe" not in policy
    assert "http" not in policy


def test_files_of_the_page_need_no_key_and_all_else_does(locked: Running) -> None:
    file = locked.client.get("/ui/page-abc.js")
    assert file.text == "1;" * 500
    assert file.headers["content-encoding"] == "gzip"
    assert "immutable" in file.headers["cache-control"]
    again = locked.client.get("/ui/page-abc.js", headers={"If-None-Match": file.headers["etag"]})
    assert again.status_code == 304
    plain = locked.client.get("/ui/page-abc.js", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    for path in ("/ui/none.js", "/ui/.sources", "/ui/../.sources", "/ui/%2e%2e/.sources", "/ui//etc/passwd"):
        assert locked.client.get(path).status_code in (401, 404)
    assert locked.client.post("/ui/page-abc.js").status_code == 401
    assert locked.client.get("/metrics").status_code == 401
    assert locked.client.post("/v1/files/fetch", json={"url": "https://example.com"}).status_code == 401


def test_hosts_and_origins_are_checked_for_the_page_too(locked: Running) -> None:
    assert locked.client.get("/", headers={**HTML, "Host": "evil.example"}).status_code == 403
    assert locked.client.get("/ui/page-abc.js", headers={"Origin": "https://evil.example"}).status_code == 403


def test_a_prefix_may_be_there_or_not(locked: Running) -> None:
    for prefix in ("", "/vision"):
        assert locked.client.get(f"{prefix}/", headers=HTML).text == "<!doctype html><p>page</p>"
        assert locked.client.get(f"{prefix}/ui/page-abc.js").status_code == 200
        assert locked.client.get(f"{prefix}/health").status_code == 200
        assert locked.client.get(f"{prefix}/v1/models").status_code == 401
        assert locked.client.get(f"{prefix}/v1/models", headers=KEY).json()["data"][0]["id"] == "nano"
    assert locked.client.get("/visions/health", headers=KEY).status_code == 404
    sent = locked.client.get("/vision", headers=HTML)
    assert (sent.status_code, sent.headers["location"]) == (308, "/vision/")
    assert locked.client.get("/openapi.json", headers=KEY).json()["servers"] == [{"url": "/vision"}]


@pytest.mark.parametrize("prefix", ["vision", "/", "/vision/", "//evil.example", "/v1", "/api/x", "/a b", "/../x"])
def test_prefixes_that_could_mislead_are_refused(prefix: str) -> None:
    with pytest.raises(OptionError, match="root"):
        Settings(root_path=prefix)


def test_without_a_page_one_sentence_says_how_to_get_it(tmp_path: Path, built: Path) -> None:
    with running(prepare=with_page(tmp_path)) as bare:
        assert bare.client.get("/", headers=HTML).text == MISSING
        assert bare.client.get("/").text == OLLAMA
        assert "make ui" in bare.client.get("/ui/page.js").json()["error"]["message"]
    with running(prepare=with_page(built), ui=False) as off:
        assert off.client.get("/", headers=HTML).text == OLLAMA
        assert off.client.get("/ui/page-abc.js").status_code == 404


@pytest.fixture(autouse=True)
def no_files_stay(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        client = request.getfixturevalue("server").client
        for file in client.get("/v1/files").json()["data"]:
            client.delete(f"/v1/files/{file['id']}")


def upload(server: Running, name: str, data: bytes) -> str:
    return str(server.client.post("/v1/files", files={"file": (name, data)}).json()["id"])


def test_frames_of_a_video_are_those_that_the_model_sees(server: Running) -> None:
    number = upload(server, "clip.mp4", (EXAMPLES / "penguin.mp4").read_bytes())
    part = {"type": "video_url", "video_url": {"file_id": number}}
    counted = server.client.post("/tokenize", json={"messages": [{"role": "user", "content": [part]}]}).json()
    shown = []
    for (frame,) in counted["videos"][0]["pictures"][:2]:
        answer = server.client.get(f"/v1/files/{number}/frames/{frame}")
        assert answer.headers["content-type"] == "image/jpeg"
        image = Image.open(io.BytesIO(answer.content))
        assert max(image.size) == 320
        shown.append(image.tobytes())
    assert shown[0] != shown[1]
    beyond = server.client.get(f"/v1/files/{number}/frames/{counted['videos'][0]['frames']}")
    assert beyond.status_code == 404
    assert "0 to" in beyond.json()["error"]["message"]


def test_pages_of_a_pdf_file(server: Running) -> None:
    pypdfium2 = pytest.importorskip("pypdfium2")
    document = pypdfium2.PdfDocument.new()
    for _ in range(2):
        document.new_page(200, 100)
    out = io.BytesIO()
    document.save(out)
    number = upload(server, "paper.pdf", out.getvalue())
    assert server.client.get(f"/v1/files/{number}/pages").json() == {"count": 2}
    page = Image.open(io.BytesIO(server.client.get(f"/v1/files/{number}/pages/2").content))
    assert page.size == (400, 200)
    assert server.client.get(f"/v1/files/{number}/pages/3").status_code == 400
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.client.get(f"/v1/files/{number}/pages/1").content, range(24)))
    assert len(set(answers)) == 1
    wrong = upload(server, "dog.png", (EXAMPLES / "dog.png").read_bytes())
    assert server.client.get(f"/v1/files/{wrong}/pages").status_code == 400


def test_images_that_browsers_do_not_show_become_png(server: Running) -> None:
    out = io.BytesIO()
    Image.new("RGB", (3000, 30), "red").save(out, "TIFF")
    answer = server.client.get(f"/v1/files/{upload(server, 'a.tiff', out.getvalue())}/preview")
    image = Image.open(io.BytesIO(answer.content))
    assert (image.format, image.size) == ("PNG", (2048, 20))
    assert server.client.get(f"/v1/files/{upload(server, 'a.png', b'none')}/preview").status_code == 400


def test_a_url_is_fetched_by_the_rules_of_media(server: Running) -> None:
    for url in ("http://127.0.0.1/a.png", "file:///etc/passwd", "data:text/plain,x", "ftp://example.com/a"):
        answer = server.client.post("/v1/files/fetch", json={"url": url})
        assert answer.status_code == 400, url
    server.context.media.fetcher.fetch, fetch = lambda url, where: b"bytes", server.context.media.fetcher.fetch  # type: ignore[method-assign]
    try:
        answer = server.client.post("/v1/files/fetch", json={"url": "https://example.com/a%20b.png?x", "more": 1})
    finally:
        server.context.media.fetcher.fetch = fetch  # type: ignore[method-assign]
    assert answer.headers["x-ignored-fields"] == "more"
    stored = answer.json()
    assert stored["filename"] == "a b.png"
    assert server.client.get(f"/v1/files/{stored['id']}/content").content == b"bytes"


def test_limits_are_those_of_the_settings(server: Running) -> None:
    found = server.client.get("/limits").json()
    assert found["max_seqs"] == server.context.settings.max_seqs
    assert found["max_model_len"] == server.context.max_model_len
    assert "api_keys" not in found
