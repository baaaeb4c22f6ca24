"""The page of an evaluation: one HTML file without scripts, samples by score, boxes over their images."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pocketvlm.api.evaluation import Answer, Evaluation, ScoredSample
from pocketvlm.bench.evaluation import table
from pocketvlm.bench.evaluation.escape import text
from pocketvlm.bench.evaluation.style import STYLE
from pocketvlm.bench.evaluation.thumbnails import Thumbnails, figure
from pocketvlm.scoring.boxes import LIMIT, find_boxes

MAX_SAMPLES = 500
_BOXES = 50  # of one text


def page(found: Evaluation, max_samples: int = MAX_SAMPLES) -> str:
    """The HTML of a page: scores, changed samples, and samples with their images, the lowest scores first.

    Nothing is loaded and nothing runs: the policy of the page allows its own style and data URIs of images alone.
    """
    ordered = sorted(found.samples, key=lambda sample: sample.score)
    thumbnails = Thumbnails()
    anchors = {sample.id: f"sample-{number}" for number, sample in enumerate(ordered[:max_samples])}
    cards = [_card(sample, thumbnails, anchors[sample.id]) for sample in ordered[:max_samples]]
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    title = f"Evaluation of {found.candidate.name}"
    notes = [*found.notes, *_left_out(len(ordered) - len(cards), thumbnails.left_out)]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="generator" content="pocketvlm eval">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer"><meta name="color-scheme" content="light dark">',
            f"<title>{text(title)}</title>",
            f"<style>{STYLE}</style></head><body>",
            f"<header><h1>{text(title)}</h1><p>{text(_about(found))}</p></header>",
            "<main>",
            *_scores(found, notes),
            *_changes(found, anchors),
            f'<section><h2 id="samples">Samples, lowest score first</h2>{_legend(found)}',
            *cards,
            "</section></main></body></html>",
            "",
        ]
    )


def _about(found: Evaluation) -> str:
    options = ", ".join(f"{name}={_value(value)}" for name, value in found.options.items())
    parts = [f"data: {', '.join(found.data)}", f"metric: {found.metric_name}", options and f"options: {options}"]
    return "; ".join(part for part in parts if part)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _scores(found: Evaluation, notes: Sequence[str]) -> Iterator[str]:
    yield "<section><h2>Score</h2>"
    yield _table(table.score_rows(found), {0})
    line = table.difference_line(found)
    if line is not None:
        yield f'<p class="difference">{text(_sentence(line))}</p>'
    yield f"<p>{text(_sentence(table.method_line(found)))}</p>"
    yield "".join(f'<p class="note">{text(note)}</p>' for note in notes)
    yield "</section>"


def _sentence(line: str) -> str:
    return line[:1].upper() + line[1:]


def _changes(found: Evaluation, anchors: Mapping[str, str]) -> Iterator[str]:
    """The table of changed samples, with links to those on the page."""
    if found.baseline is None:
        return
    rows = [["sample", "reference", "baseline", "answer", "score"]]
    for sample in found.changes[:MAX_SAMPLES]:
        assert sample.baseline is not None
        assert sample.baseline_score is not None
        texts = [sample.references[0], table.shown(sample.baseline), table.shown(sample.answer)]
        score = f"{sample.baseline_score:.2f} to {sample.score:.2f}"
        link = f'<a href="#{anchors[sample.id]}">{text(sample.id)}</a>' if sample.id in anchors else text(sample.id)
        rows.append([link, *(table.shortened(each, 80) for each in texts), score])
    yield f'<section><h2 id="changes">Changed samples: {len(found.changes)}</h2>'
    yield _table(rows, {0, 1, 2, 3}, linked=True) if len(rows) > 1 else "<p>No score changed.</p>"
    yield "</section>"


def _table(rows: Sequence[Sequence[str]], left: set[int], linked: bool = False) -> str:
    """A table. left: columns that are aligned left. linked: the first column is HTML already."""

    def row(cells: Sequence[str], tag: str) -> str:
        kinds = ("" if index in left else ' class="number"' for index in range(len(cells)))
        shown = (cell if linked and index == 0 else text(cell) for index, cell in enumerate(cells))
        return "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, shown, strict=True))

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows[1:])
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="table"><table>'
        f"<thead><tr>{row(rows[0], 'th')}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _legend(found: Evaluation) -> str:
    if not any(sample.metric == "iou" for sample in found.samples):
        return ""
    third = "" if found.baseline is None else ', <span class="baseline">baseline (dotted)</span>'
    return (
        '<p>Boxes: <span class="reference">reference</span>, <span class="answer">answer (dashed)</span>'
        f"{third}. They are drawn where a question has one image.</p>"
    )


def _card(sample: ScoredSample, thumbnails: Thumbnails, anchor: str) -> str:
    pictures = thumbnails.of(sample.messages)
    overlay = _overlay(sample) if len(pictures) == 1 and not pictures[0].video and sample.metric == "iou" else ""
    figures = "".join(figure(picture, overlay) for picture in pictures)
    kind = "failed" if sample.failed else "passed"
    return "\n".join(
        [
            f'<article class="{kind}" id="{anchor}">'
            f'<h3><span class="score">{_score(sample)}</span> {text(sample.id, 200)}</h3>',
            f'<p class="facts">{text(f"{sample.metric}; {sample.place}", 400)}</p>',
            f'<div class="body"><div class="pictures">{figures}</div><dl>' if figures else "<div><dl>",
            *(_entry(_role(message), _content(message, len(pictures) > 1)) for message in sample.messages),
            *(_entry("reference", reference, "reference") for reference in sample.references),
            _entry("answer", _shown(sample.answer), "answer"),
            "" if sample.baseline is None else _entry("baseline", _shown(sample.baseline), "baseline"),
            "</dl></div></article>",
        ]
    )


def _score(sample: ScoredSample) -> str:
    own = "error" if sample.answer.error is not None else f"{sample.score:.2f}"
    return own if sample.baseline_score is None else f"{own} <small>(baseline {sample.baseline_score:.2f})</small>"


def _shown(answer: Answer) -> str:
    cut = "\n(cut at max_tokens)" if answer.finish_reason == "length" else ""
    return table.shown(answer) + cut


def _entry(name: str, value: str, kind: str = "") -> str:
    return f'<dt class="{kind}">{text(name)}</dt><dd dir="auto">{text(value) or "<i>empty</i>"}</dd>'


def _role(message: Mapping[str, Any]) -> str:
    role = str(message.get("role"))
    return "question" if role == "user" else role


def _content(message: Mapping[str, Any], placeholders: bool) -> str:
    """The text of a message. placeholders: with <image> and <video> where its media stand."""
    content = message.get("content")
    if isinstance(content, str) or content is None:
        return content or ""
    parts = (part for part in content if isinstance(part, Mapping))
    media = "<{}>" if placeholders else ""
    return "".join(
        str(part["text"]) if part.get("type") == "text" else media.format(part.get("type")) for part in parts
    )


def _overlay(sample: ScoredSample) -> str:
    """The boxes of references, answer and baseline, over the whole image."""
    texts = [("reference", reference) for reference in sample.references]
    texts += [("baseline", sample.baseline.text or "")] if sample.baseline is not None else []
    texts.append(("answer", sample.answer.text or ""))
    shapes = [
        f'<rect class="{kind}" x="{box.left:g}" y="{box.top:g}" width="{box.right - box.left:g}" '
        f'height="{box.bottom - box.top:g}"/>'
        for kind, each in texts
        for box in find_boxes(each)[:_BOXES]
        if box.area > 0 and all(math.isfinite(edge) and abs(edge) <= 10 * LIMIT for edge in box)
    ]
    return f'<svg viewBox="0 0 {LIMIT} {LIMIT}" preserveAspectRatio="none" aria-hidden="true">{"".join(shapes)}</svg>'


def _left_out(samples: int, pictures: int) -> Iterator[str]:
    if samples:
        yield f"{samples} samples with the highest scores are not on this page; the JSON report has all of them"
    if pictures:
        yield f"{pictures} images were left out to limit the size of this page"
