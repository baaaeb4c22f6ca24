"""Parquet files are read row by row and written a group of rows at a time; the only user of pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pocketvlm.errors import InputError, OptionError

if TYPE_CHECKING:
    import pyarrow

_ROWS = 256
_GROUP = 8192


def check_installed() -> None:
    """Raises OptionError where pyarrow is missing."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise OptionError('Parquet needs pyarrow, which is not installed: pip install "pocketvlm[jobs]"') from None


class Table:
    """A Parquet file. columns: their names."""

    def __init__(self, path: Path) -> None:
        """Raises InputError for another file, OptionError without pyarrow."""
        check_installed()
        import pyarrow
        from pyarrow.parquet import ParquetFile

        self._path = path
        try:
            with ParquetFile(path) as file:
                self.columns: list[str] = file.schema_arrow.names
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise InputError(f"{path}: this is no Parquet file that can be read: {error}") from None

    def rows(self, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """The values of some columns, some hundred rows in memory."""
        import pyarrow
        from pyarrow.parquet import ParquetFile

        try:
            with ParquetFile(self._path) as file:
                for batch in file.iter_batches(_ROWS, columns=list(columns)):
                    if not columns:
                        yield from ({} for _ in range(batch.num_rows))
                    yield from batch.to_pylist() if columns else ()
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise InputError(f"{self._path}: {error}") from None


def write(file: BinaryIO, columns: Mapping[str, Any], rows: Iterator[Mapping[str, Any]]) -> None:
    """Write rows. columns: name -> JSON schema of its values; a value that does not fit its type is None."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema([(name, arrow_type(each)) for name, each in columns.items()])
    with ParquetWriter(file, schema) as writer:
        group: list[Mapping[str, Any]] = []

        def flush() -> None:
            arrays = [_array(field, [row.get(field.name) for row in group]) for field in schema]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
            group.clear()

        for row in rows:
            group.append(row)
            if len(group) >= _GROUP:
                flush()
        if group:
            flush()


def _array(field: pyarrow.Field, values: list[Any]) -> pyarrow.Array:
    import pyarrow

    try:
        return pyarrow.array(values, field.type)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
        return pyarrow.array([_fitting(field, value) for value in values], field.type)


def _fitting(field: pyarrow.Field, value: Any) -> Any:
    """The value, or None if it does not fit, such as a number of more than 64 bits."""
    import pyarrow

    try:
        pyarrow.array([value], field.type)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
        return None
    return value


def arrow_type(schema: Any) -> pyarrow.DataType:
    """The column type of a JSON schema: numbers, texts, lists and objects of these; anything else is JSON text."""
    import pyarrow

    kind = json_type(schema)
    simple = {
        "string": pyarrow.string(),
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "boolean": pyarrow.bool_(),
    }
    if kind in simple:
        return simple[kind]
    if kind == "array":
        return pyarrow.list_(arrow_type(schema["items"]))
    if kind == "object":
        return pyarrow.struct([(name, arrow_type(each)) for name, each in schema["properties"].items()])
    return pyarrow.string()


def json_type(schema: Any) -> str:
    """The type of a JSON schema that has a column type of its own, or "json"."""
    if not isinstance(schema, Mapping):
        return "json"
    kind = schema.get("type")
    if isinstance(kind, list):
        kinds = [each for each in kind if each != "null"]
        kind = kinds[0] if len(kinds) == 1 else None
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if kind is None and values and all(isinstance(value, str) for value in values):
        return "string"
    if kind in ("string", "integer", "number", "boolean"):
        return str(kind)
    if kind == "array" and isinstance(schema.get("items"), Mapping):
        return "array"
    if kind == "object" and isinstance(schema.get("properties"), Mapping) and schema["properties"]:
        return "object"
    return "json"


def convert(schema: Any, value: Any) -> Any:
    """A value as its column type takes it: JSON text where the schema has no type of its own."""
    import json

    if value is None:
        return None
    kind = json_type(schema)
    if kind == "json":
        return json.dumps(value, ensure_ascii=False)
    if kind == "array":
        return [convert(schema["items"], each) for each in value] if isinstance(value, list) else None
    if kind == "object":
        fields = schema["properties"].items()
        return {name: convert(each, value.get(name)) for name, each in fields} if isinstance(value, Mapping) else None
    return value
