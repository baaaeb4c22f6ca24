"""A JSON schema is rewritten for the grammar library: plain, closed, without branches that nothing satisfies.

The result allows nothing that the original forbids:

- `$ref`, `allOf`, `anyOf` and `oneOf` are resolved into one `anyOf` of cases for each value; annotations are gone.
- An object with `properties` is closed after that: it has no names but those in `properties` and `required`, unless
  `additionalProperties` or `patternProperties` allow more.
- A schema that names no type means the type to which its keywords belong.
- Branches of `oneOf` must exclude each other. A property whose constant values tell them apart becomes required, as
  readers of a union with a discriminator want it, and any other one if nothing else tells them apart. Where one branch
  requires a property that is optional in another, the other goes without it.
- Parts that no finite value satisfies are left out, so that generation never reaches a dead end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pocketvlm.errors import OptionError
from pocketvlm.guided import lark
from pocketvlm.guided.cases import NOTHING, Case, Cases, Conjunction
from pocketvlm.guided.disjoint import Disjoint
from pocketvlm.guided.keywords import kind, named, shown

NODES = 20_000  # conjunctions and cases of one schema
PLACE = 100  # an error shows the last characters of a place, at most so many
INLINE = 12  # levels of subschemas inside each other, before a definition is made


def closed_schema(schema: object, what: str) -> dict[str, Any]:
    """A client's schema, rewritten; `what` is its name in errors. Raises OptionError."""
    if schema is True:
        schema = {}
    if not isinstance(schema, Mapping):
        raise OptionError(f"{what} must be an object, not {shown(schema)}")
    lark.dump(schema, what, lark.SCHEMA_BYTES)
    with named(what):
        closed = ClosedSchemas(schema)
        conjunction = closed.conjunction(schema)
        cases = closed.cases(conjunction)
        if not cases:
            raise OptionError(closed.reason(conjunction))
        return closed.schema(cases) if conjunction else {}


@dataclass(frozen=True, slots=True)
class Fault:
    """Why nothing satisfies a case, and the part that causes it, if it is a single part."""

    text: str
    part: Conjunction | None = None


_NONE = Fault("")


@dataclass(slots=True)
class Node:
    """The cases of one conjunction, and how the result refers to it."""

    conjunction: Conjunction
    cases: list[Case]
    uses: int = 0
    productive: bool = False
    name: str = ""


class ClosedSchemas:
    """The rewritten subschemas of one root schema."""

    def __init__(self, root: Any) -> None:
        """root: the schema in which `$ref` is resolved; parsed JSON."""
        self._cases = Cases(root)
        self._disjoint = Disjoint(self._cases)
        self._nodes: dict[frozenset[int], Node] = {}
        self._size = 0

    def cases(self, conjunction: Conjunction) -> list[Case]:
        """The cases of a conjunction that some finite value satisfies, ready for `schema`. Raises OptionError."""
        node = self._node(conjunction)
        self._explore(node)
        return self.working(node)

    def conjunction(self, schema: Any) -> Conjunction:
        """The conjunction that a schema alone is; empty where it allows everything."""
        return self._cases.conjunction(schema)

    def first(self, conjunction: Conjunction) -> list[Case]:
        """The cases of a conjunction, before anything is known about their parts. Raises OptionError."""
        return self._node(conjunction).cases

    def kinds(self, conjunction: Conjunction) -> set[str]:
        """The types that a conjunction mentions, even if no value satisfies them."""
        found = [case for case, _ in self._cases.original(conjunction) if case.meant]
        values = (value for case in found for part in case.parts for value in part.get("enum", {}).values())
        return {case.kind for case in found} | set(map(kind, values))

    def reason(self, conjunction: Conjunction) -> str:
        """Why nothing satisfies a conjunction, down to the part that is at fault."""
        parts = ["nothing satisfies it"]
        seen: set[int] = set()
        while id(node := self.node(conjunction)) not in seen:
            seen.add(id(node))
            if not node.cases:
                parts.append("its keywords or values exclude each other")
                break
            fault = self._fault(node.cases[0])
            parts.append(fault.text)
            if fault.part is None:
                break
            conjunction = fault.part
        return ": ".join(parts)

    def schema(self, cases: Sequence[Case]) -> dict[str, Any]:
        """The JSON schema of some of the cases that `cases` returned. Raises OptionError."""
        definitions: dict[str, Any] = {}
        waiting: list[Node] = []
        writer = _Writer(self, waiting)
        for node in self._nodes.values():
            node.uses, node.name = 0, ""
        self._count(cases)
        found = writer.any_of(cases, 0)
        for node in waiting:  # the writer adds to it
            definitions[node.name] = writer.any_of(self.working(node), 0)
        if writer.escapes and writer.aliases:
            raise OptionError(
                '"enum" or "const" with control characters cannot be enforced with "additionalProperties"'
            )
        return {**found, "$defs": definitions} if definitions else found

    def node(self, conjunction: Conjunction) -> Node:
        """The node of a conjunction that was met before."""
        return self._nodes[frozenset(map(id, conjunction))]

    def working(self, node: Node) -> list[Case]:
        """The cases of a node that some finite value satisfies."""
        return [case for case in node.cases if self._works(case)]

    def _node(self, conjunction: Conjunction) -> Node:
        key = frozenset(map(id, conjunction))
        if key not in self._nodes:
            found = self._cases.original(conjunction)
            cases = [self._exclusive(case, others) for case, others in found if case.meant]
            self._size += 1 + len(cases)
            if self._size > NODES:
                raise OptionError(f"its parts combine in more than {NODES} ways; make it smaller")
            self._nodes[key] = Node(conjunction, cases)
        return self._nodes[key]

    def _exclusive(self, case: Case, others: Iterable[Any]) -> Case:
        """A case narrowed until no other branch of its `oneOf` allows any value of it. Raises OptionError."""
        for other in others:
            for rival, _ in self._cases.original(self._cases.conjunction(other)):
                if name := self._disjoint.tag(case, rival):
                    case = replace(case, required=(*case.required, name))
                if self._disjoint.apart(case, rival):
                    continue
                if name := self._disjoint.telling(case, rival):
                    case = replace(case, required=(*case.required, name))
                elif name := self._disjoint.without(case, rival):
                    case = replace(case, properties={**case.properties, name: NOTHING})
                else:
                    raise OptionError(
                        'keyword "oneOf" is enforced only where its schemas plainly exclude each other; use "anyOf"'
                    )
        return case

    def _explore(self, node: Node) -> None:
        """Find all nodes below a node, and those that some finite value satisfies (the least fixed point)."""
        fresh, places = [node], {id(node): ""}
        for outer in fresh:  # grows
            above = f"{places[id(outer)]}, " if places[id(outer)] else ""
            for own, child in (part for case in outer.cases for part in case.children()):
                place = (above + own)[-PLACE:]
                with named(place):
                    inner = self._node(child)
                if id(inner) not in places:
                    places[id(inner)] = place
                    fresh.append(inner)
        changed = True
        while changed:
            changed = False
            for inner in reversed(fresh):
                if not inner.productive and any(map(self._works, inner.cases)):
                    inner.productive = changed = True

    def _works(self, case: Case) -> bool:
        """Whether a finite value satisfies a case, as far as is known of its parts."""
        return self._fault(case) is _NONE

    def _fault(self, case: Case) -> Fault:
        """Why nothing satisfies a case, as far as is known of its parts."""
        if case.max_size is not None and case.min_size > case.max_size:
            size = {"string": "Length", "array": "Items", "object": "Properties"}[case.kind]
            return Fault(f"min{size} {case.min_size} is more than max{size} {case.max_size}")
        match case.kind:
            case "number" if case.number.empty:
                return Fault(case.number.shown)
            case "array":
                for index in range(min(case.min_size, len(case.prefix) + 1)):
                    if not self.works(case.item(index)):
                        return Fault(f"item {index} is required, but nothing satisfies its schema", case.item(index))
            case "object":
                return self._object_fault(case)
        return _NONE

    def _object_fault(self, case: Case) -> Fault:
        for name in case.required:
            if not self.works(case.properties[name]):
                return Fault(f"property {name!r} is required, but nothing satisfies its schema", case.properties[name])
        if case.max_size is not None and len(case.required) > case.max_size:
            return Fault(f"{len(case.required)} properties are required, but maxProperties is {case.max_size}")
        if case.min_size > len(case.required) and not self.open(case):
            there = sum(map(self.works, case.properties.values()))
            if case.min_size > there:
                return Fault(f"minProperties is {case.min_size}, but only {there} can be there")
        return _NONE

    def open(self, case: Case) -> bool:
        """Whether an object may have names that its schema does not list."""
        return any(map(self.works, case.patterns.values())) or (not case.closed and self.works(case.additional))

    def works(self, conjunction: Conjunction) -> bool:
        """Whether a finite value satisfies a conjunction, as far as is known."""
        return not conjunction or (
            (node := self._nodes.get(frozenset(map(id, conjunction)))) is not None and node.productive
        )

    def _count(self, cases: Iterable[Case]) -> None:
        """Count how often each node is used below some cases."""
        waiting = list(cases)
        while waiting:
            for _, child in waiting.pop().children():
                node = self.node(child)
                node.uses += 1
                if node.uses == 1:
                    waiting += self.working(node)


_CONTROL = re.compile(r"\\u00(?:[01]|7f)")


class _Writer:
    """Writes cases as JSON schema; nodes that need a definition of their own are added to `waiting`."""

    def __init__(self, schemas: ClosedSchemas, waiting: list[Node]) -> None:
        self._schemas = schemas
        self._waiting = waiting
        # Texts that need \\u escapes, and names that could then be written in two ways.
        self.escapes = self.aliases = False

    def any_of(self, cases: Sequence[Case], depth: int) -> dict[str, Any]:
        found: dict[str, dict[str, Any]] = {}
        for case in cases:
            written = self._case(case, depth)
            found[json.dumps(written)] = written
        ways = list(found.values())
        return ways[0] if len(ways) == 1 else {"anyOf": ways}

    def _of(self, conjunction: Conjunction, depth: int) -> Any:
        if not conjunction:
            return True
        if not self._schemas.works(conjunction):
            return False
        node = self._schemas.node(conjunction)
        inner = any(case.kind in ("array", "object") for case in node.cases)
        if not node.name and not (inner and (node.uses > 1 or depth >= INLINE)):
            return self.any_of(self._schemas.working(node), depth + 1)
        if not node.name:
            self._waiting.append(node)
            node.name = str(len(self._waiting))
        return {"$ref": f"#/$defs/{node.name}"}

    def _case(self, case: Case, depth: int) -> dict[str, Any]:
        if case.values is not None:
            self.escapes |= any(_CONTROL.search(json.dumps(value)) for value in case.values)
            return _together({"enum": list(case.values)}, case.texts)
        match case.kind:
            case "number":
                return case.number.schema()
            case "string":
                return _together({"type": "string", **_sizes(case, "Length")}, case.texts)
            case "array":
                found = {"type": "array", **_sizes(case, "Items"), "items": self._of(case.items, depth)}
                prefix = [self._of(one, depth) for one in case.prefix]
                return {**found, "prefixItems": prefix} if prefix else found
            case "object":
                return self._object(case, depth)
        return {"type": case.kind}

    def _object(self, case: Case, depth: int) -> dict[str, Any]:
        opened = self._schemas.open(case)
        properties = {name: self._of(one, depth) for name, one in case.properties.items()}
        found: dict[str, Any] = {"type": "object"}
        if properties:
            self.aliases |= opened
            found["properties"] = {name: one for name, one in properties.items() if opened or one is not False}
        if case.required:
            found["required"] = list(case.required)
        if case.patterns:
            found["patternProperties"] = {pattern: self._of(one, depth) for pattern, one in case.patterns.items()}
        if case.closed or case.additional:
            found["additionalProperties"] = False if case.closed else self._of(case.additional, depth)
        if case.min_size - len(case.required) > 1 and opened:
            raise OptionError(
                f'keyword "minProperties": {case.min_size} cannot be enforced, because names may come twice; '
                "leave it out"
            )
        if case.min_size > len(case.required):
            found["minProperties"] = case.min_size
        if case.max_size is not None and (opened or case.max_size < len(found.get("properties", ()))):
            found["maxProperties"] = case.max_size
        return found


def _sizes(case: Case, what: str) -> dict[str, int]:
    found = {f"min{what}": case.min_size} if case.min_size else {}
    return found if case.max_size is None else {**found, f"max{what}": case.max_size}


def _together(schema: dict[str, Any], texts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A schema of texts with patterns and formats that must hold together."""
    found = {**schema, **(texts[0] if texts else {})}
    return {**found, "allOf": [dict(text) for text in texts[1:]]} if len(texts) > 1 else found
