"""Which namespaces the mesh looks at: MeshConfig's discoverySelectors.

Source: Istio's pkg/kube/namespace/filter.go. The rules that are easy to break: without selectors
every namespace counts, an empty selector matches every namespace as everywhere in Kubernetes,
and a namespace without a Namespace object has no labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, assert_never

from controlplane.model.base import NO_LABELS, Labels
from controlplane.model.core import Namespace
from controlplane.model.mesh import LabelSelector, LabelSelectorRequirement
from controlplane.model.meta import ObjectRef, Record


class Passed(NamedTuple):
    """What comes in and what goes out."""

    upserts: tuple[Record, ...] = ()
    removals: tuple[ObjectRef, ...] = ()


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Return whether labels fulfil every part of a label selector."""
    equal: Mapping[str, str] = selector.match_labels or {}
    return all(labels.get(key) == value for key, value in equal.items()) and all(
        _fulfils(requirement, labels) for requirement in selector.match_expressions
    )


def _fulfils(requirement: LabelSelectorRequirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value is not None and value in requirement.values
        case "NotIn":
            return value is None or value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:
            assert_never(requirement.operator)


class Discovery:
    """Lets objects of selected namespaces through and holds the others back.

    `present` gives everything that was let through and not taken back.
    """

    def __init__(
        self, selectors: tuple[LabelSelector, ...], present: Callable[[], Iterable[Record]]
    ) -> None:
        self._selectors = selectors
        self._present: Final = present
        self._labels: dict[str, Labels] = {}
        self._answers: dict[str, bool] = {}
        self._held: dict[ObjectRef, Record] = {}

    def upsert(self, record: Record) -> Passed:
        """Take an object; returns what to put in and what to take out because of it."""
        item, ref = record.item, record.ref
        passed = Passed()
        if isinstance(item, Namespace):
            passed = self._relabel(ref.name, item.metadata.labels)
        if self._selected(ref.namespace):
            self._held.pop(ref, None)
            return Passed((*passed.upserts, record), passed.removals)
        self._held[ref] = record
        return Passed(passed.upserts, (*passed.removals, ref))

    @property
    def hidden(self) -> Iterable[Record]:
        """Everything that is held back."""
        return self._held.values()

    def held(self, ref: ObjectRef) -> Record | None:
        """Return the record of an object that was held back."""
        return self._held.get(ref)

    def remove(self, ref: ObjectRef) -> Passed:
        """Take the news that an object is gone."""
        self._held.pop(ref, None)
        passed = self._relabel(ref.name, None) if ref.kind == Namespace.KIND else Passed()
        return Passed(passed.upserts, (*passed.removals, ref))

    def select(self, selectors: tuple[LabelSelector, ...]) -> Passed:
        """Take other selectors."""
        if selectors == self._selectors:
            return Passed()
        self._selectors = selectors
        self._answers.clear()
        return self._sort(lambda _: True)

    def _relabel(self, namespace: str, labels: Labels | None) -> Passed:
        before = self._selected(namespace)
        if labels is None:
            self._labels.pop(namespace, None)
        else:
            self._labels[namespace] = labels
        self._answers.pop(namespace, None)
        if self._selected(namespace) is before:
            return Passed()
        return self._sort(lambda ref: ref.namespace == namespace)

    def _selected(self, namespace: str) -> bool:
        if not self._selectors or not namespace:
            return True
        found = self._answers.get(namespace)
        if found is None:
            labels = self._labels.get(namespace, NO_LABELS)
            found = any(matches(selector, labels) for selector in self._selectors)
            self._answers[namespace] = found
        return found

    def _sort(self, concerns: Callable[[ObjectRef], bool]) -> Passed:
        """Look again at all objects that a change concerns."""
        hidden = [
            record
            for record in self._present()
            if concerns(record.ref) and not self._selected(record.ref.namespace)
        ]
        released = tuple(
            record
            for ref, record in self._held.items()
            if concerns(ref) and self._selected(ref.namespace)
        )
        for record in released:
            del self._held[record.ref]
        self._held.update((record.ref, record) for record in hidden)
        return Passed(released, tuple(record.ref for record in hidden))
