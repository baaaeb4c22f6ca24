"""Files of answers, JSON lines: those of a run, which continues after an interruption, and those of other programs."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from pocketvlm.api.evaluation.questions import EvalSample
from pocketvlm.api.evaluation.result import Answer
from pocketvlm.atomic import write_all
from pocketvlm.errors import InputError, OptionError

_TYPE, _VERSION = "pocketvlm.answers", 1


class AnswerFile:
    """The answers of a run, written as they come. Opened again, it knows those that are in it already.

    Its first line says what made the answers; a file of another model, adapter or options is refused. Lines with an
    error are answered again. A last line that was cut while it was written is dropped.
    """

    def __init__(self, path: str | Path, made_by: Mapping[str, Any], samples: Sequence[EvalSample]) -> None:
        """Open or begin the file. Raises OptionError for a file that cannot be continued, and InputError for damage."""
        self.path = Path(path).expanduser()
        self.done: dict[str, Answer] = {}
        check_answer_file(self.path)
        head = {"type": _TYPE, "version": _VERSION, **json.loads(_line(made_by))}
        self._file: BinaryIO = _locked(self.path)
        try:
            whole = _whole_lines(self._file)
            if whole:
                _compare(self.path, head, next(_objects(self.path, whole))[1])
                self._read(whole, {sample.id: sample for sample in samples})
            self._file.truncate(len(whole))
            self._file.seek(len(whole))
            if not whole:
                self._write(head)
        except BaseException:
            self._file.close()
            raise

    def add(self, sample: EvalSample, answer: Answer) -> None:
        """Append an answer in one write, so that an interruption leaves whole lines."""
        found: dict[str, Any] = {"id": sample.id, "question": sample.digest, "answer": answer.text}
        found |= {"finish_reason": answer.finish_reason}
        if answer.error is not None:
            found["error"] = answer.error
        self._write(found)
        if answer.error is None:
            self.done[sample.id] = answer

    def close(self) -> None:
        """Bring the lines to the disk."""
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> Self:
        """The file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, cause: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        try:
            write_all(self._file, _line(line))
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def _read(self, data: bytes, samples: Mapping[str, EvalSample]) -> None:
        for number, line in list(_objects(self.path, data))[1:]:
            sample = samples.get(str(line.get("id")))
            if sample is None:
                continue  # left out now, by a limit for instance
            if line.get("question") != sample.digest:
                raise OptionError(
                    f"answers={self.path}:{number}: the question of id {sample.id!r} was another one: "
                    "give another file, or remove this one"
                )
            if line.get("error") is None and isinstance(line.get("answer"), str):
                self.done[sample.id] = Answer(line["answer"], line.get("finish_reason"))


def read_answers(
    path: str | Path, samples: Sequence[EvalSample], option: str = "predictions", *, limited: bool = False
) -> dict[str, Answer]:
    """Answers to the samples, by id, of a file that `AnswerFile` or another program wrote.

    Each line has "answer", a text, and the sample's "id"; if no line has an id, there are as many lines as samples, in
    the same order. A sample without a line gets an answer with an error. limited: the file may have answers to samples
    that were left out. Raises OptionError and InputError.
    """
    source = Path(path).expanduser()
    try:
        data = source.read_bytes()
    except OSError as error:
        raise OptionError(f"{option}={path}: cannot be read: {error.strerror or error}: give a JSONL file") from None
    lines = list(_objects(source, data))
    ours = bool(lines) and lines[0][1].get("type") == _TYPE
    lines = lines[1:] if ours else lines
    if lines and not any("id" in line for _, line in lines):
        if len(lines) != len(samples) and not (limited and len(lines) > len(samples)):
            raise InputError(
                f"{source}: its {len(lines)} lines have no 'id', and there are {len(samples)} samples: add the ids"
            )
        lines = [(number, {**line, "id": each.id}) for (number, line), each in zip(lines, samples, strict=False)]
    known, found = {sample.id: sample for sample in samples}, dict[str, Answer]()
    for number, line in lines:
        where = f"{source}:{number}"
        name = _name(line, where)
        if name not in known:
            if ours or limited:
                continue
            raise InputError(f"{where}: no sample has the id {name!r}; the first one has {samples[0].id!r}")
        if ours and line.get("question") != known[name].digest:
            raise InputError(
                f"{where}: this answers another question than that of the sample {name!r}: answer it again"
            )
        if name in found and not ours:
            raise InputError(f"{where}: the id {name!r} was answered before: give one answer for each")
        found[name] = _answer(line, where)
    missing = Answer(None, None, f"no answer in {source.name}")
    return {sample.id: found.get(sample.id, missing) for sample in samples}


def _answer(line: Mapping[str, Any], where: str) -> Answer:
    text, problem = line.get("answer"), line.get("error")
    if problem is not None:
        return Answer(None, None, str(problem))
    if not isinstance(text, str):
        raise InputError(f"{where}: 'answer' must be a text; this line has {', '.join(map(str, line)) or 'nothing'}")
    reason = line.get("finish_reason")
    return Answer(text, reason if isinstance(reason, str) else None)


def check_answer_file(path: Path) -> None:
    """Raise OptionError where answers cannot be written: no folder, no permission, or a file of another kind."""
    if path.is_dir():
        raise OptionError(f"answers={path}: is a directory: give a file in it, such as {path / 'answers.jsonl'}")
    try:
        if path.exists():
            with path.open("r+b") as file:
                head = file.readline(200)
            if head and not head.startswith(f'{{"type": "{_TYPE}"'.encode()):
                raise OptionError(f"answers={path}: exists and has no answers of an earlier run: give another file")
        elif not path.parent.is_dir():
            raise OptionError(f"answers={path}: there is no folder {path.parent}: make it first")
    except OSError as error:
        raise _unwritable(path, error) from None


def check_head(path: Path, made_by: Mapping[str, Any]) -> None:
    """Raise OptionError if a file has answers that were made otherwise. made_by: what is known before a model loads."""
    try:
        with path.open("rb") as file:
            line = file.readline()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unwritable(path, error) from None
    if line.endswith(b"\n"):
        found = next(_objects(path, line))[1]
        wanted = json.loads(_line(made_by))
        _compare(path, wanted, {key: found.get(key) for key in wanted})


def _compare(path: Path, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    for key in {**found, **wanted}:
        if key != "model" and wanted.get(key) != found.get(key):  # the same files may have several names
            raise OptionError(
                f"answers={path}: its answers were made with {key} {_short(found.get(key))}, now it is "
                f"{_short(wanted.get(key))}: give another file, or remove this one"
            )


def _name(line: Mapping[str, Any], where: str) -> str:
    name = line.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise InputError(f"{where}: 'id' must be a text or a whole number")
    return str(name)


def _unwritable(path: Path, error: OSError) -> OptionError:
    return OptionError(f"answers={path}: cannot be written: {error.strerror or error}: give another file")


def _locked(path: Path) -> BinaryIO:
    """The file, for this process alone. Raises OptionError."""
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise OptionError(f"answers={path}: another run writes it: wait for its end, or give another file") from None
    except OSError:
        pass  # some network file systems have no locks
    return file


def _whole_lines(file: BinaryIO) -> bytes:
    """The content of a file up to its last new line."""
    data = file.read()
    return data[: data.rfind(b"\n") + 1]


def _objects(path: Path, data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and object of each line that is not blank. Raises InputError."""
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{number}: not valid JSON ({error})") from None
        if not isinstance(found, dict):
            raise InputError(f"{path}:{number}: a JSON object is wanted, not {type(found).__name__}")
        yield number, found


def _line(value: Mapping[str, Any]) -> bytes:
    # Half of a surrogate pair becomes its escape in JSON.
    return (json.dumps(value, ensure_ascii=False, default=str) + "\n").encode("utf-8", "backslashreplace")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 200 else f"{text[:200]}..."
