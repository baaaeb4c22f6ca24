"""The page of an evaluation: one file in which nothing runs, hostile texts included; boxes, order and limits."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from evaluation_kit import colour_data, record, write_lines
from PIL import Image

import pocketvlm
from pocketvlm import Evaluation
from pocketvlm.bench.evaluation import thumbnails
from pocketvlm.bench.evaluation.page import page

HOSTILE = "</dd><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\u202e\x1b[31m\ud800"


class Reader(HTMLParser):
    """The elements of a page, the text of each kind, and what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "rect"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "rect":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def evaluated(folder: Path, lines: list[dict[str, Any]], answers: list[str], **options: Any) -> Evaluation:
    """An evaluation of given answers, in the order of the data."""
    data = write_lines(folder / "data.jsonl", lines)
    given = write_lines(folder / "p.jsonl", [{"answer": answer} for answer in answers])
    return pocketvlm.evaluate(None, data, predictions=given, **options)


@pytest.fixture
def hostile(tmp_path: Path) -> Evaluation:
    """Hostile names, questions, references, answers and ids, with a baseline."""
    name = "<b onclick=x>&'.png"
    Image.new("RGB", (40, 30), "red").save(tmp_path / name)
    lines = [record(HOSTILE, HOSTILE, "b", image=name, id=HOSTILE), record(HOSTILE, HOSTILE)]
    base = write_lines(tmp_path / "<base>.jsonl", [{"answer": "c"}, {"answer": HOSTILE}])
    return evaluated(tmp_path, lines, [HOSTILE, "no"], against=base)


def test_hostile_texts_are_text(hostile: Evaluation) -> None:
    text = page(hostile)
    text.encode("utf-8")
    read = Reader(text)
    assert read.open == []
    assert not read.all("script")
    known = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "main",
        "section",
        "div",
        "figure",
        "figcaption",
    }
    known |= {"h1", "h2", "h3", "p", "table", "thead", "tbody", "tr", "th", "td", "article", "span", "small", "a"}
    assert {tag for tag, _ in read.elements} <= known | {"img", "dl", "dt", "dd", "svg", "rect", "i"}
    names = {name for _, attributes in read.elements for name in attributes}
    assert not {name for name in names if name.startswith("on") or name == "style"}
    assert "<script>alert(1)</script>" in "".join(read.texts["dd"])
    assert any("<b onclick=x>&'.png" in (image["alt"] or "") for image in read.all("img"))
    assert not re.search("[\u202e\x1b\ud800]", text)


def test_the_policy_allows_the_own_style_and_data_uris_alone(hostile: Evaluation) -> None:
    text = page(hostile)
    read = Reader(text)
    policy = next(meta["content"] for meta in read.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    style = text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy is not None
    assert policy.split("; ")[:3] == ["default-src 'none'", f"style-src 'sha256-{digest}'", "img-src data:"]
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in read.all("img"))
    links = {link["href"] for link in read.all("a")}
    assert links == {f"#{article['id']}" for article in read.all("article")}


def test_the_lowest_scores_are_first_and_a_limit_is_said(tmp_path: Path) -> None:
    lines = [record("a", "hello", id=str(number)) for number in range(3)]
    found = evaluated(tmp_path, lines, ["hello", "hallo", "no"], metric="anls")
    read = Reader(page(found))
    assert [text.strip() for text in read.texts["h3"] if text.strip()] == ["2", "1", "0"]
    assert [article["class"] for article in read.all("article")] == ["failed", "failed", "passed"]
    short = page(found, max_samples=1)
    assert len(Reader(short).all("article")) == 1
    assert "2 samples with the highest scores are not on this page" in short


def test_boxes_lie_over_the_one_picture(tmp_path: Path) -> None:
    Image.new("RGB", (1200, 600), "red").save(tmp_path / "a.png")
    lines = [
        record("Where?", "<box>100 200 300 500</box>", image="a.png"),
        {**record("Where?", "<box>1 2 3 4</box>"), "images": ["a.png", "a.png"]},
    ]
    lines[1]["messages"][0]["content"] = "<image><image>Where?"
    huge = "9" * 400
    answer = f"<box>150 200 300 500</box><box>9 9 1 1</box><box>0 0 {huge} {huge}</box>"
    found = evaluated(tmp_path, lines, [answer, "[1, 2, 3, 4]"], metric="iou")
    assert [round(sample.score, 4) for sample in found.samples] == [0.25, 1]
    read = Reader(page(found))
    assert [{name: box[name] for name in ("class", "x", "y", "width", "height")} for box in read.all("rect")] == [
        {"class": "reference", "x": "100", "y": "200", "width": "200", "height": "300"},
        {"class": "answer", "x": "150", "y": "200", "width": "150", "height": "300"},
    ]
    assert [svg["preserveaspectratio"] for svg in read.all("svg")] == ["none"]
    assert len(read.all("img")) == 3
    assert "<image><image>Where?" in read.texts["dd"]


def test_pictures_are_small_and_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr(thumbnails, "SIDE", 32)
    data = colour_data(tmp_path)
    found = pocketvlm.evaluate(None, data, predictions=write_lines(tmp_path / "p.jsonl", [{"answer": "red"}] * 5))
    uris = [image["src"] or "" for image in Reader(page(found)).all("img")]
    assert len(uris) == 5
    decoded = Image.open(io.BytesIO(base64.b64decode(uris[0].partition(",")[2])))
    assert decoded.size == (32, 24)
    limit = thumbnails.Thumbnails(len(uris[0]))
    made = [limit.of(sample.messages)[0] for sample in found.samples]
    assert [thumbnail.uri is not None for thumbnail in made] == [True, False, False, False, False]
    assert limit.left_out == 4


def test_videos_show_a_frame_and_what_cannot_be_shown_says_why(tmp_path: Path) -> None:
    clip = Path(__file__).parents[2] / "examples" / "penguin.mp4"
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    video = {"messages": [{"role": "user", "content": "<video>What?"}], "answers": ["a", "b"], "videos": [str(clip)]}
    found = evaluated(tmp_path, [video, record("What?", "a", image="broken.png")], ["a", "b"])
    read = Reader(page(found))
    assert [image["alt"] for image in read.all("img")] == ["first frame of the video penguin.mp4"]
    assert any(text.startswith("no image: ") and "broken.png" in text for text in read.texts["p"])


def test_long_texts_are_cut(tmp_path: Path) -> None:
    found = evaluated(tmp_path, [record("a", "b")], ["x" * 5000])
    assert f"{'x' * 4000}... (1000 more characters)" in page(found)
