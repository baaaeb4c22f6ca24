"""Subschemas are resolved into cases of one type each: `$ref`, `allOf`, `anyOf` and `oneOf` disappear."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pocketvlm.errors import OptionError
from pocketvlm.guided.expressions import matches
from pocketvlm.guided.keywords import TYPES, Keywords, SchemaReader, kind
from pocketvlm.guided.numbers import UNLIMITED, Range, merged, writable
from pocketvlm.guided.validity import asserts, every, valid

WAYS = 512  # of combining the alternatives of one conjunction
LONGEST = 1_000_000  # characters, items or properties: no answer has more
DEPTH = 64  # of subschemas that apply to one value
# Subschemas that a value must satisfy all; none: anything.
Conjunction = tuple[Any, ...]
ANYTHING: Conjunction = ()
NOTHING: Conjunction = (False,)
APPLICATORS = ("$ref", "allOf", "anyOf", "oneOf")
_IMPLIED = {
    "object": {"properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"pattern", "minLength", "maxLength", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}
_SIZES = {"string": "Length", "array": "Items", "object": "Properties"}


@dataclass(frozen=True, slots=True)
class Case:
    """The values of one type that a conjunction allows. values: only these. closed: only the schema's own names.

    meant: the schema names this type, or it names no type and has no keywords of other types.
    """

    kind: str
    parts: tuple[Keywords, ...] = ()
    meant: bool = True
    values: tuple[Any, ...] | None = None
    number: Range = UNLIMITED
    texts: tuple[Keywords, ...] = ()  # "pattern" and "format" of strings
    min_size: int = 0  # characters, items or properties
    max_size: int | None = None
    prefix: tuple[Conjunction, ...] = ()
    items: Conjunction = ANYTHING
    properties: Mapping[str, Conjunction] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    patterns: Mapping[str, Conjunction] = field(default_factory=dict)
    additional: Conjunction = ANYTHING
    closed: bool = False

    def item(self, index: int) -> Conjunction:
        """The conjunction that the item at an index must satisfy."""
        return self.prefix[index] if index < len(self.prefix) else self.items

    def children(self) -> Iterator[tuple[str, Conjunction]]:
        """The conjunctions of items and properties that limit something, with their places for errors."""
        found = [(f"property {name!r}", one) for name, one in self.properties.items()]
        found += [(f"patternProperties {pattern!r}", one) for pattern, one in self.patterns.items()]
        found += [(f"item {index}", one) for index, one in enumerate(self.prefix)]
        found += [("items", self.items), ("additionalProperties", self.additional)]
        return ((place, one) for place, one in found if one)

    def named(self, name: str) -> Conjunction | None:
        """The conjunction that the property of a name must satisfy, or None if patterns decide that."""
        if name in self.properties:
            return self.properties[name]
        if self.patterns:
            return None
        return NOTHING if self.closed else self.additional


@dataclass(frozen=True, slots=True)
class Way:
    """One combination of alternatives: keywords that must all hold, and branches of `oneOf` that must not hold."""

    parts: tuple[Keywords, ...] = ()
    others: tuple[Any, ...] = ()


class Cases:
    """The cases of the conjunctions of one root schema."""

    def __init__(self, root: Any) -> None:
        """root: the schema in which `$ref` is resolved."""
        self.reader = SchemaReader(root)
        self._open: dict[frozenset[int], list[tuple[Case, tuple[Any, ...]]]] = {}

    def conjunction(self, *schemas: Any) -> Conjunction:
        """The schemas without duplicates and without those that allow everything."""
        found = {id(schema): schema for schema in schemas if not self._allows_all(schema)}
        return tuple(found.values())

    def _allows_all(self, schema: Any) -> bool:
        try:
            return self.reader.keywords(schema) in (True, {})
        except OptionError:
            return False  # `cases` raises the error again, with the name of its place

    def original(self, conjunction: Conjunction) -> list[tuple[Case, tuple[Any, ...]]]:
        """Cases that together allow what the schemas allow; they allow more if the branches in the tuple hold."""
        key = frozenset(map(id, conjunction))
        if key not in self._open:
            ways = self._product([self._ways(schema, ()) for schema in conjunction])
            self._open[key] = [found for way in ways for found in self._merged(way)]
        return self._open[key]

    def _ways(self, schema: Any, above: tuple[int, ...]) -> list[Way]:
        """The alternatives of a schema. Raises OptionError for a schema that only refers to itself."""
        keywords = self.reader.keywords(schema)
        if isinstance(keywords, bool):
            return [Way()] if keywords else []
        if id(schema) in above:
            name = f"{keywords['$ref']!r} " if "$ref" in keywords else ""
            raise OptionError(f'keyword "$ref": {name}refers to itself without end')
        if len(above) > DEPTH:
            raise OptionError("it is nested too deeply; make it smaller")
        above = (*above, id(schema))
        factors: list[list[Way]] = []
        own = self.reader.part(keywords, APPLICATORS)
        for key, value in keywords.items():
            match key:
                case "$ref":
                    factors.append(self._ways(self.reader.target(value), above))
                case "allOf":
                    factors += [self._ways(one, above) for one in value]
                case "anyOf":
                    factors.append([way for one in value for way in self._ways(one, above)])
                case "oneOf":
                    factors.append(list(self._exclusive(value, above)))
                case "properties":  # properties are written in the order in which the schema lists them
                    factors.append([Way((own,))])
        if own and "properties" not in own:
            factors.append([Way((own,))])
        return self._product(factors)

    def _exclusive(self, branches: Sequence[Any], above: tuple[int, ...]) -> Iterator[Way]:
        for index, branch in enumerate(branches):
            others = (*branches[:index], *branches[index + 1 :])
            for way in self._ways(branch, above):
                yield Way(way.parts, (*way.others, *others))

    def _product(self, factors: Sequence[Sequence[Way]]) -> list[Way]:
        found = [Way()]
        for factor in factors:
            if len(found) * len(factor) > WAYS:
                raise OptionError(f'"anyOf", "oneOf" and "allOf" combine in more than {WAYS} ways; make it smaller')
            found = [Way(one.parts + two.parts, one.others + two.others) for one in found for two in factor]
        return found

    def _merged(self, way: Way) -> Iterator[tuple[Case, tuple[Any, ...]]]:
        """One case for each type that the parts allow together."""
        kinds = set(TYPES)
        for part in way.parts:
            if "type" in part:
                kinds &= {"number" if name == "integer" else name for name in part["type"]}
        values = next((part["enum"] for part in way.parts if "enum" in part), None)
        keys = {key for part in way.parts for key in part}
        implied = {name for name, own in _IMPLIED.items() if own & keys}
        for name in TYPES:
            if name in kinds and values is not None:
                found = self._filtered(name, [one for one in values.values() if kind(one) == name], way)
                if found.values:
                    yield found, ()
            elif name in kinds:
                meant = "type" in keys or not implied or name in implied
                yield replace(self._case(name, way.parts), parts=way.parts, meant=meant), way.others

    def _filtered(self, name: str, values: Sequence[Any], way: Way) -> Case:
        """The values of a type that all parts allow and no other branch of `oneOf` does.

        The library checks `pattern` and `format` of strings.
        """
        left = []
        for value in values:
            holds = [self._holds(part, value) for part in way.parts]
            for other in way.others:
                holds.append(None if (found := valid(self.reader, other, value)) is None else not found)
            if every(holds) is None:
                raise OptionError('keyword "enum" or "const" cannot be enforced here with "pattern" or "format"')
            if every(holds):
                writable(value)
                left.append(value)
        return Case(name, way.parts, values=tuple(left), texts=_texts(way.parts) if name == "string" else ())

    def _holds(self, part: Keywords, value: Any) -> bool | None:
        if isinstance(value, str):
            return asserts(part, value) is not False
        return valid(self.reader, part, value)

    def _case(self, name: str, parts: Sequence[Keywords]) -> Case:
        """The conjunction of parts for values of one type."""
        min_size, max_size = 0, None
        if size := _SIZES.get(name):
            min_size = max((part.get(f"min{size}", 0) for part in parts), default=0)
            sizes = [part[f"max{size}"] for part in parts if f"max{size}" in part]
            max_size = min((one for one in sizes if one <= LONGEST), default=None)
        match name:
            case "number":
                return Case(name, number=merged(parts))
            case "string":
                return Case(name, texts=_texts(parts), min_size=min_size, max_size=max_size)
            case "array":
                return self._array(Case(name, min_size=min_size, max_size=max_size), parts)
            case "object":
                return self._object(Case(name, min_size=min_size, max_size=max_size), parts)
        return Case(name)

    def _array(self, case: Case, parts: Sequence[Keywords]) -> Case:
        length = max((len(part.get("prefixItems", ())) for part in parts), default=0)
        items = self.conjunction(*(part["items"] for part in parts if "items" in part))
        prefix = []
        for index in range(length):
            own = (part.get("prefixItems", [])[index : index + 1] or [part.get("items", True)] for part in parts)
            prefix.append(self.conjunction(*(schema for one in own for schema in one)))
        return replace(case, prefix=tuple(prefix), items=items)

    def _object(self, case: Case, parts: Sequence[Keywords]) -> Case:
        """A part limits names that only other parts list, by its `patternProperties` or `additionalProperties`."""
        required = tuple(dict.fromkeys(name for part in parts for name in part.get("required", ())))
        names = dict.fromkeys(
            name for part in parts for name in (*part.get("properties", ()), *part.get("required", ()))
        )
        patterns = dict.fromkeys(pattern for part in parts for pattern in part.get("patternProperties", ()))
        stated = [part["additionalProperties"] for part in parts if "additionalProperties" in part]
        return replace(
            case,
            properties={name: self.conjunction(*_for_name(parts, name)) for name in names},
            required=required,
            patterns={pattern: self.conjunction(*_for_pattern(parts, pattern)) for pattern in patterns},
            additional=self.conjunction(*stated),
            closed=not stated and any("properties" in part for part in parts),
        )


def _for_name(parts: Sequence[Keywords], name: str) -> Iterator[Any]:
    for part in parts:
        found = [part["properties"][name]] if name in part.get("properties", ()) else []
        for pattern, schema in part.get("patternProperties", {}).items():
            if _matches(pattern, name):
                found.append(schema)
        yield from found or [part.get("additionalProperties", True)]


def _for_pattern(parts: Sequence[Keywords], pattern: str) -> Iterator[Any]:
    for part in parts:
        yield part.get("patternProperties", {}).get(pattern, part.get("additionalProperties", True))


def _matches(pattern: str, name: str) -> bool:
    try:
        return matches(pattern, name)
    except OptionError as error:
        raise OptionError(f'keyword "patternProperties": {pattern!r} cannot be read: {error}') from None


def _texts(parts: Sequence[Keywords]) -> tuple[Keywords, ...]:
    """The keywords that limit the characters of a text."""
    found = ({key: part[key] for key in ("pattern", "format") if key in part} for part in parts)
    return tuple(one for one in found if one)
