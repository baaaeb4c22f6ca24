"""`oneOf` needs to know whether two cases exclude each other; this module proves it where it can."""

from __future__ import annotations

from pocketvlm.guided.cases import Case, Cases, Conjunction
from pocketvlm.guided.validity import valid

DEPTH = 6  # of properties and items inside each other that are compared
COMPARISONS = 200_000  # of two cases, for one root schema


class Disjoint:
    """Compares the cases of one root schema."""

    def __init__(self, cases: Cases) -> None:
        """cases: resolves the conjunctions of parts into cases."""
        self._cases = cases
        self._left = COMPARISONS

    def apart(self, written: Case, other: Case, depth: int = 0) -> bool:
        """Whether no text under `written` is valid under `other`; False if this cannot be proved easily.

        `closed` counts for `written` alone: `other` stands for all that the original schema allows.
        """
        self._left -= 1
        if written.kind != other.kind:
            return True
        if written.values is not None:
            return all(self._rejects(other, value) for value in written.values)
        if other.values is not None:
            return all(self._rejects(written, value) for value in other.values)
        if _sizes_apart(written, other):
            return True
        match written.kind:
            case "number":
                return written.number.excludes(other.number)
            case "array":
                there = min(written.min_size, max(len(written.prefix), len(other.prefix)) + 1)
                return any(self._parts_apart(written.item(n), other.item(n), depth) for n in range(there))
            case "object":
                always = dict.fromkeys((*written.required, *other.required))
                return any(self._missing(written, name) for name in other.required) or any(
                    self._differ(written, other, name, depth) for name in always
                )
        return False

    def tag(self, written: Case, other: Case) -> str | None:
        """The first property with constant values that tell an object from the other, if it is optional."""
        if written.kind != "object" or other.kind != "object":
            return None
        for name, one in written.properties.items():
            if name in other.properties and self._constant(one) and self._differ(written, other, name, 0):
                return None if name in written.required else name
        return None

    def telling(self, written: Case, other: Case) -> str | None:
        """A property whose values would tell the two objects apart if it were required."""
        if written.kind != "object" or other.kind != "object":
            return None
        names = (name for name in written.properties if name in other.properties)
        return next((name for name in names if self._differ(written, other, name, 0)), None)

    def _constant(self, conjunction: Conjunction) -> bool:
        return all(case.values is not None for case, _ in self._cases.original(conjunction))

    def without(self, written: Case, other: Case) -> str | None:
        """An optional property without which the other object, that requires it, excludes this one."""
        if written.kind != "object" or other.kind != "object":
            return None
        return next((name for name in other.required if name not in written.required), None)

    def _parts_apart(self, written: Conjunction, other: Conjunction, depth: int) -> bool:
        if depth >= DEPTH or self._left <= 0 or not written or not other:
            return False
        rivals = self._cases.original(other)
        return all(self.apart(one, two, depth + 1) for one, _ in self._cases.original(written) for two, _ in rivals)

    def _differ(self, written: Case, other: Case, name: str, depth: int) -> bool:
        one, two = written.named(name), other.properties.get(name, () if other.patterns else other.additional)
        return one is not None and self._parts_apart(one, two, depth)

    def _missing(self, written: Case, name: str) -> bool:
        """Whether an object never has a property of some name."""
        one = written.named(name)
        return bool(one) and one is not None and not self._cases.original(one)

    def _rejects(self, case: Case, value: object) -> bool:
        """Whether a case surely does not allow a value."""
        return any(valid(self._cases.reader, part, value) is False for part in case.parts)


def _sizes_apart(one: Case, two: Case) -> bool:
    return (one.max_size is not None and one.max_size < two.min_size) or (
        two.max_size is not None and two.max_size < one.min_size
    )
