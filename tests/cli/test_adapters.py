"""--adapter on the command line: run, chat, tokens, info and serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from nano_adapters import RANK, write_adapter

EXAMPLES = Path(__file__).parents[2] / "examples"
QUESTION = ("hello", "--temperature", "0", "--max-tokens", "8", "-q")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("adapters")
    write_adapter(found / "first", 1)
    write_adapter(found / "second", 2, options={"max_slice_nums": 1, "downsample_mode": "4x"})
    return found


def test_run_answers_with_the_adapter(invoke: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = invoke("run", "nano", *QUESTION)
    first = invoke("run", "nano", *QUESTION, "--adapter", str(folder / "first"))
    second = invoke("run", "nano", *QUESTION, "--adapter", f"named={folder / 'second'}")
    assert [plain.code, first.code, second.code] == [0, 0, 0]
    assert len({plain.out, first.out, second.out}) == 3
    monkeypatch.setenv("POCKETVLM_RUN_ADAPTER", str(folder / "first"))
    assert invoke("run", "nano", *QUESTION).out == first.out


def test_run_gives_the_model_its_adapter(invoke: Any, model: Any, folder: Path) -> None:
    assert invoke("run", "nano", "hello", "--adapter", str(folder / "first")).code == 0
    assert model.loaded["adapters"] == (str(folder / "first"),)
    assert model.asked["adapter"] == "first"
    assert invoke("run", "nano", "hello").code == 0
    assert "adapter" not in model.asked


def test_run_takes_one_adapter(invoke: Any, model: Any, folder: Path) -> None:
    refused = invoke("run", "nano", "hello", "--adapter", str(folder / "first"), "--adapter", str(folder / "second"))
    assert refused.code == 2
    assert "--adapter is given 2 times, for first and second" in refused.err
    assert not model.loaded


@pytest.mark.parametrize("command", ["run", "chat", "tokens", "info"])
def test_adapters_that_cannot_be_read_are_one_line(invoke: Any, folder: Path, command: str) -> None:
    more = {"run": ["hello"], "tokens": ["-p", "hello"]}.get(command, [])
    for wrong, message in (
        (str(folder / "third"), "there is no such folder"),
        (str(folder), "the adapters are in its folders first, second: give one"),
        ("x=", "give NAME=DIR"),
        (f"nano={folder / 'first'}", "adapter 'nano' has the name of the model"),
        (f"a\tb={folder / 'first'}", "give a name of 1 to 200 printable characters"),
        (str(folder / "frist"), f"(did you mean {folder / 'first'}?)"),
    ):
        refused = invoke(command, "nano", *more, "--adapter", wrong, "-q")
        assert refused.code != 0
        assert len(refused.err.splitlines()) == 1
        assert message in refused.err


def test_tokens_are_counted_with_the_adapters_options(invoke: Any, folder: Path) -> None:
    def count(*arguments: str) -> dict[str, Any]:
        image = str(EXAMPLES / "unicorn_large.jpg")
        found: dict[str, Any] = json.loads(invoke("tokens", "nano", "-i", image, "--json", *arguments).out)
        return found

    plain, own = count(), count("--max-slice-nums", "1", "--downsample-mode", "4x")
    assert count("--adapter", str(folder / "first")) == plain != own
    assert count("--adapter", str(folder / "second")) == own
    given = ("--max-slice-nums", "9", "--downsample-mode", "16x")
    assert count("--adapter", str(folder / "second"), *given) == count(*given)


def test_info_says_what_adapters_change(invoke: Any, folder: Path) -> None:
    adapters = [f"--adapter={folder / name}" for name in ("first", "second")]
    facts = json.loads(invoke("info", "nano", "--json", *adapters).out)["adapters"]
    assert [each["name"] for each in facts] == ["first", "second"]
    assert facts[0]["updates"] == {"text": {"out_proj": 2, "o_proj": 2, "down_proj": 4}}
    assert (facts[0]["matrices"], facts[0]["ranks"], facts[0]["options"]) == (8, [RANK], {})
    assert facts[1]["options"] == {"downsample_mode": "4x", "max_slice_nums": 1}
    lines = [line for line in invoke("info", "nano", *adapters).out.splitlines() if line.startswith("adapter ")]
    assert len(lines) == 2
    assert "8 matrices of rank 4" in lines[0]
    assert "text: 4 down_proj, 2 o_proj, 2 out_proj" in lines[0]
    assert "no options of its own" in lines[0]
    assert "options: downsample_mode 4x, max_slice_nums 1" in lines[1]
    assert not [line for line in invoke("info", "nano").out.splitlines() if line.startswith("adapter")]


def test_a_chat_begins_with_the_first_adapter_and_changes_it(invoke: Any, folder: Path) -> None:
    typed = ["/set temperature 0"]
    for name in ("first", "second", "default"):
        typed += [f"/set adapter {name}", "hello", "/clear"]
    typed.pop(1)
    adapters = [f"--adapter={folder / name}" for name in ("first", "second")]
    talk = invoke("chat", "nano", "--max-tokens", "8", "-q", *adapters, stdin="\n".join(typed).encode())
    alone = [invoke("run", "nano", *QUESTION, *chosen).out for chosen in ([adapters[0]], [adapters[1]], [])]
    assert talk.code == 0, talk.err
    assert len(set(alone)) == 3
    assert talk.out.split() == " ".join(alone).split()


def test_a_chat_refuses_the_name_that_means_the_model(invoke: Any, folder: Path) -> None:
    refused = invoke("chat", "nano", "--adapter", f"default={folder / 'first'}", stdin=b"hello")
    assert refused.code == 2
    assert "/set adapter default is the model itself" in refused.err


def test_pull_says_how_to_use_an_adapter(invoke: Any, folder: Path) -> None:
    pulled = invoke("pull", str(folder / "first"))
    assert pulled.out == f"{folder / 'first'}\n"
    assert pulled.err.splitlines()[-1] == (f"an adapter: use it with pocketvlm run MODEL --adapter {folder / 'first'}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--adapter", "{0}/first", "--adapter", "first={0}/second"], "adapter 'first' is given twice"),
        (["--adapter", "n={0}/first", "--served-model-name", "n"], "adapter 'n' has the name of the model"),
        (["--adapter", "nano={0}/first", "--quiet"], "adapter 'nano' has the name of the model"),
        (["--adapter", "{0}/first", "--adapter", "{0}/second", "--max-adapters", "1"], "more than --max-adapters=1"),
        (["--adapter", "{0}/third"], "there is no such folder"),
        (["--allow-adapter-loading"], "name the directory with the adapters by --adapter-dir"),
        (["--adapter-dir", "{0}"], "add --allow-adapter-loading"),
    ],
)
def test_serve_refuses_what_cannot_be_served(invoke: Any, folder: Path, arguments: list[str], message: str) -> None:
    refused = invoke("serve", "nano", "--port", "0", *(argument.format(folder) for argument in arguments))
    assert refused.code in (1, 2)
    assert refused.err.splitlines()[-1].startswith("error: ")
    assert message in refused.err
