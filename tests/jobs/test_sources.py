"""Pictures, CSV and Parquet files as sources of lines, and what is refused before any work."""

from __future__ import annotations

import base64
import csv
import json
import shutil

import pytest
from jobs.kit import CHAT, EXAMPLES, line, read_lines, write_lines

from pocketvlm.errors import InputError, OptionError
from pocketvlm.jobs.sources.choose import open_source
from pocketvlm.jobs.sources.jsonl import JsonLines
from pocketvlm.jobs.sources.source import survey


def lines_of(*names, prompt="What?", system=None, image_column=None, id_column=None):
    source, _ = open_source([str(name) for name in names], prompt, system, image_column, id_column)
    found = list(source.lines(lambda _: False))
    assert [(each.number, each.custom_id) for each in found] == list(source.custom_ids())
    assert survey(source).count == len(found)
    return found


def content(found):
    return found.body["messages"][-1]["content"]


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for name in ("b.png", "a.PNG", "more/c.png"):
        shutil.copy(EXAMPLES / "dog.png", folder / name)
    shutil.copy(EXAMPLES / "penguin.mp4", folder / "clip.mp4")
    (folder / "notes.txt").write_text("x")
    return folder


def test_a_folder_gives_its_pictures_and_videos_in_order(pictures):
    found = lines_of(pictures, system="Be brief.")
    assert [each.custom_id for each in found] == ["a.PNG", "b.png", "clip.mp4", "more/c.png"]
    assert {each.url for each in found} == {CHAT}
    assert found[0].body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert content(found[0]) == [
        {"type": "image", "path": str(pictures / "a.PNG")},
        {"type": "text", "text": "What?"},
    ]
    assert content(found[2])[0] == {"type": "video", "path": str(pictures / "clip.mp4")}


def test_several_folders_have_custom_ids_of_their_own(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "other")
    found = lines_of(pictures, tmp_path / "other")
    assert len({each.custom_id for each in found}) == len(found) == 8


def test_a_pattern_gives_the_files_that_it_matches(pictures):
    found = lines_of(f"{pictures}/**/*.png", pictures / "a.PNG")
    assert [each.custom_id for each in found] == [
        f"{pictures}/b.png", f"{pictures}/more/c.png", f"{pictures}/a.PNG",
    ]  # fmt: skip


@pytest.fixture(params=["csv", "parquet"])
def table(request, tmp_path):
    rows = [
        {"id": "x", "file": "dog.png", "kind": "dog, large"},
        {"id": "y", "file": "https://example.com/a.png", "kind": None},
        {"id": "", "file": "dog.png", "kind": "no id"},
        {"id": "z", "file": "", "kind": "no picture"},
    ]
    path = tmp_path / f"rows.{request.param}"
    if request.param == "csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_rows_become_questions(table):
    found = lines_of(table, prompt="A {kind}? {{yes}}", system="For {id}.", image_column="file", id_column="id")
    assert [each.custom_id for each in found] == ["x", "y", None, "z"]
    assert found[0].body["messages"] == [
        {"role": "system", "content": "For x."},
        {
            "role": "user",
            "content": [{"type": "image", "path": "dog.png"}, {"type": "text", "text": "A dog, large? {yes}"}],
        },
    ]
    assert content(found[1])[0] == {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    assert content(found[1])[1]["text"] == "A ? {yes}"
    assert found[2].problem.message == "row 3: the column id is empty"
    assert found[3].problem.message == "row 4: there is no image in its cell"


def test_rows_without_ids_are_numbered(table):
    found = lines_of(table, prompt="{kind}")
    assert [each.custom_id for each in found] == ["row-1", "row-2", "row-3", "row-4"]
    assert [part["type"] for part in content(found[0])] == ["text"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "fil"}, "--image-column=fil: .* has no such column: did you mean 'file'"),
        ({"id_column": "nothing"}, "--id-column=nothing: .*: the columns are id, file, kind"),
        ({"prompt": "{knd}"}, "--prompt: there is no column 'knd': did you mean {kind}"),
        ({"prompt": "{kind.x}"}, "--prompt: there is no column 'kind.x'"),
        ({"prompt": "{kind!r}"}, "--prompt: there is no column 'kind'|--prompt: "),
        ({"prompt": "{"}, "--prompt: .*write {column}"),
        ({"prompt": None}, "--prompt is missing"),
        ({"system": "{x}"}, "--system: there is no column 'x'"),
    ],
)
def test_options_that_do_not_fit_a_table(table, options, message):
    with pytest.raises(OptionError, match=message):
        lines_of(table, **options)


def test_pictures_inside_a_parquet_file(tmp_path):
    import pyarrow
    import pyarrow.parquet

    data = (EXAMPLES / "dog.png").read_bytes()
    rows = [{"image": {"bytes": data, "path": None}, "raw": data, "list": ["a.png", "b.png"]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    uri = "data:;base64," + base64.b64encode(data).decode()
    for column in ("image", "raw"):
        (found,) = lines_of(tmp_path / "rows.parquet", image_column=column)
        assert content(found)[0] == {"type": "image_url", "image_url": {"url": uri}}
    (found,) = lines_of(tmp_path / "rows.parquet", image_column="list")
    assert [part.get("path") for part in content(found)] == ["a.png", "b.png", None]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("missing.jsonl", None, "there is no such file"),
        ("missing", None, "there is no such file"),
        ("empty.csv", b"", "the file is empty"),
        ("long.csv", b"image,prompt\na.png,Is it a dog, or a cat?\n", r"row 1 has 3 cells, and there are 2 columns"),
        ("short.csv", b"image,prompt\na.png,x\nb.png\n", r"row 2 has 1 cells, and there are 2 columns"),
        ("bad.csv", b"a,b\n\xff\xfe,c\n", "is no CSV file in UTF-8|can't decode"),
        ("bad.parquet", b"PAR1 and nothing more", "this is no Parquet file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        lines_of(tmp_path / name)


def test_an_empty_folder(tmp_path):
    with pytest.raises(InputError, match="no images or videos in this folder"):
        lines_of(tmp_path)


@pytest.mark.parametrize("option", ["prompt", "system", "image_column", "id_column"])
def test_a_batch_file_has_its_own_messages(tmp_path, option):
    path = write_lines(tmp_path / "in.jsonl", [line("a")])
    with pytest.raises(OptionError, match=f"--{option.replace('_', '-')}: .*leave it out"):
        lines_of(path, **{"prompt": None, option: "x"})
    with pytest.raises(OptionError, match="give it alone"):
        lines_of(path, path, prompt=None)


def test_blank_lines_and_a_byte_order_mark(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(
        b"\xef\xbb\xbf" + json.dumps(line("a")).encode() + b"\r\n\n  \n" + json.dumps(line("b")).encode()
    )
    found = list(JsonLines(tmp_path / "in.jsonl").lines(lambda _: False))
    assert [(each.number, each.custom_id, each.problem) for each in found] == [(1, "a", None), (4, "b", None)]


def test_a_line_that_is_too_long_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("pocketvlm.jobs.sources.jsonl.MAX_LINE", 1000)
    monkeypatch.setattr("pocketvlm.jobs.sources.jsonl._CHUNK", 100)
    path = write_lines(tmp_path / "in.jsonl", [line("a"), line("b", "x" * 5000), line("c")])
    found = list(JsonLines(path).lines(lambda _: False))
    assert [each.custom_id for each in found] == ["a", None, "c"]
    assert found[1].problem.code == "line_too_long"


def test_equal_hashes_of_custom_ids_are_no_repetition(tmp_path, monkeypatch):
    """With hashes of one byte, hundreds of ids collide, and only the ones that are equal are found."""
    import hashlib

    real = hashlib.blake2b
    monkeypatch.setattr(
        "pocketvlm.jobs.sources.source.hashlib.blake2b",
        lambda data, digest_size: type(
            "H", (), {"digest": lambda self: real(data, digest_size=1).digest() + bytes(7)}
        )(),
    )
    ids = [*map(str, range(600)), "7", "300"]
    path = write_lines(tmp_path / "in.jsonl", [line(each) for each in ids])
    assert survey(JsonLines(path)).repeated == {601, 602}


def test_a_folder_is_answered(batch, pictures, tmp_path):
    (pictures / "broken.png").write_bytes(b"no picture")
    (pictures / "empty.png").touch()
    (pictures / "link.png").symlink_to("nowhere")
    outcome = batch("pictures", "-o", "out.jsonl", "-p", "What is this?", "--max-tokens", "3", "--max-num-frames", "2")
    assert outcome.code == 0
    found = {each["custom_id"]: each["response"] for each in read_lines(tmp_path / "out.jsonl")}
    assert list(found) == ["a.PNG", "b.png", "broken.png", "clip.mp4", "empty.png", "link.png", "more/c.png"]
    wrong = {name: found.pop(name)["body"]["error"]["message"] for name in ("broken.png", "empty.png", "link.png")}
    assert all(each["status_code"] == 200 for each in found.values())
    for name, message in wrong.items():
        assert message.startswith(f"messages[0].content[0]: '{pictures / name}': "), "an error names the file"
    assert "empty, no image data" in wrong["empty.png"]
    assert "there is no such file" in wrong["link.png"]
    texts = {name: each["body"]["choices"][0]["message"]["content"] for name, each in found.items()}
    assert texts["a.PNG"] == texts["b.png"] == texts["more/c.png"]


def test_a_folder_that_cannot_be_read_is_an_error(pictures, monkeypatch):
    """Its pictures would be missing in the output, and nobody would know."""

    def walk(path, onerror):
        onerror(PermissionError(13, "Permission denied", str(path / "more")))
        return iter(())

    monkeypatch.setattr("pocketvlm.jobs.sources.pictures.os.walk", walk)
    with pytest.raises(InputError, match=r"more: Permission denied: make the folder readable"):
        lines_of(pictures)


@pytest.mark.parametrize("name", ["in.jsonl", "in.csv"])
def test_an_input_without_lines_is_refused(batch, tmp_path, name):
    (tmp_path / name).write_text("\n" if name.endswith("l") else "path,kind\n")
    outcome = batch(name, "-o", "out.jsonl", *([] if name.endswith("l") else ["-p", "What?"]))
    assert outcome.code == 1
    assert outcome.err == f"error: {name}: there is no line or row in it, so there is nothing to answer\n"
    assert [path.name for path in tmp_path.iterdir()] == [name]
