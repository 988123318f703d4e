"""Injection of a file: documents in, documents out.

Owns what `pylot inject` prints. Must not know the command line. The rule that is easy to break:
a document that is not injected comes out as it went in, byte for byte, with its comments; one
that is injected is written anew, and loses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from controlplane.inject.config import InjectConfig
from controlplane.inject.names import INJECTION, REVISION
from controlplane.inject.sidecar import Injected, Refused, Untouched, inject
from controlplane.inject.workloads import Workload, find_workload, with_pod
from controlplane.inject.yaml_text import cut, dump
from controlplane.model.mesh import MeshConfig
from controlplane.sources.positions import Document, yaml_documents
from controlplane.sources.text import UnreadableError


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided about one workload."""

    subject: str
    injected: bool
    text: str


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One document that came out, with what is to be said about the workloads in it."""

    text: str
    explanations: tuple[Explanation, ...] = ()
    warnings: tuple[str, ...] = ()


class FileResult(msgspec.Struct, frozen=True, kw_only=True):
    """The documents of a file; when there are problems they must not be used."""

    pieces: tuple[Piece, ...]
    problems: tuple[str, ...] = ()


class FileInjector:
    """Injects files, one after the other, with the same settings.

    `namespaces` limits injection to workloads of these namespaces; objects that name none belong
    to the first of them. The labels istio-injection and istio.io/rev of Namespace objects count
    from the file on that holds them.
    """

    def __init__(
        self, config: InjectConfig, mesh: MeshConfig, *, namespaces: tuple[str, ...] = ()
    ) -> None:
        self.config = config
        self.mesh = mesh
        self.namespaces = namespaces
        self.labels: dict[str, Mapping[str, str]] = {}

    def inject(self, file: str, text: str) -> FileResult:
        """Return the documents of a file; never raises for what is in it.

        Raises InjectConfigError when the template does not fit.
        """
        read: list[tuple[str, int, Document | None]] = []
        problems: list[str] = []
        for chunk, line in cut(text):
            try:
                found = [one for one in yaml_documents(chunk) if one.value is not None]
            except UnreadableError as error:
                problems.append(f"{file}:{line + error.line - 1}: {error}")
                continue
            document = found[0] if found else None
            read.append((chunk, line, document))
            if document is not None:
                self._note_namespaces(document.value)
        pieces = []
        for chunk, line, document in read:
            visit = _Visit(self, file, document, line)
            made = visit.value(document.value, ()) if document is not None else None
            if visit.changed:
                head = "---\n" if chunk.startswith("---") else ""
                # What the separator of the next document needs is in `dump`: a line end.
                chunk = head + dump(made)  # noqa: PLW2901  # the injected text takes its place
            problems.extend(visit.problems)
            pieces.append(
                Piece(
                    text=chunk,
                    explanations=tuple(visit.explanations),
                    warnings=tuple(visit.warnings),
                )
            )
        return FileResult(pieces=tuple(pieces), problems=tuple(problems))

    def _note_namespaces(self, value: Any) -> None:
        match value:
            case {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": str(name)} as meta}:
                labels = meta.get("labels")
                # Without a label of injection it says nothing, and asking by hand counts.
                if isinstance(labels, dict) and (INJECTION in labels or REVISION in labels):
                    self.labels[name] = labels
            case {"kind": str(kind), "items": list(items)} if kind.endswith("List"):
                for item in items:
                    self._note_namespaces(item)
            case _:
                pass


class _Visit:
    """One document: its workloads are found and injected, also inside of a List."""

    def __init__(
        self, injector: FileInjector, file: str, document: Document | None, line: int
    ) -> None:
        self.injector = injector
        self.file = file
        self.document = document
        self.line = line
        self.changed = False
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.explanations: list[Explanation] = []

    def value(self, value: Any, path: tuple[str | int, ...]) -> Any:
        """Return the object with its pods injected; itself when there is nothing to do."""
        if not isinstance(value, dict):
            return value
        items = value.get("items")
        kind = value.get("kind")
        if isinstance(items, list) and isinstance(kind, str) and kind.endswith("List"):
            made = [self.value(item, (*path, "items", index)) for index, item in enumerate(items)]
            return {**value, "items": made}
        namespaces = self.injector.namespaces
        workload = find_workload(value, namespaces[0] if namespaces else "default")
        match workload:
            case None:
                return value
            case str():
                self._problem(value, path, workload)
                return value
            case Workload():
                if namespaces and workload.namespace not in namespaces:
                    return value
                return self._inject(value, workload, path)

    def _inject(
        self, value: dict[str, Any], workload: Workload, path: tuple[str | int, ...]
    ) -> Any:
        for mistake in self.document.problems if self.document else ():
            # Ambiguous text, such as a key that is there twice, cannot be written anew.
            self._problem(value, path, mistake.message)
            return value
        outcome = inject(
            workload.pod,
            namespace=workload.namespace,
            config=self.injector.config,
            mesh=self.injector.mesh,
            owner=workload.owner,
            namespace_labels=self.injector.labels.get(workload.namespace),
        )
        subject = _subject(value, workload.namespace)
        match outcome:
            case Injected(pod=pod, decision=decision, warnings=warnings):
                self.changed = True
                self.warnings.extend(f"{subject}: {warning}" for warning in warnings)
                self._explain(subject, str(decision), injected=True)
                return with_pod(value, workload.path, pod)
            case Untouched(decision=decision):
                self._explain(subject, str(decision), injected=False)
            case Refused(problems=problems):
                for problem in problems:
                    inside = problem.startswith(("spec", "metadata"))
                    place = ".".join((*workload.path, "")) if inside else ""
                    self._problem(value, path, place + problem)
        return value

    def _explain(self, subject: str, text: str, *, injected: bool) -> None:
        self.explanations.append(Explanation(subject=subject, injected=injected, text=text))

    def _problem(self, value: Mapping[str, Any], path: tuple[str | int, ...], text: str) -> None:
        below = self.document.tree.locate(path) if self.document else 1
        namespaces = self.injector.namespaces
        subject = _subject(value, namespaces[0] if namespaces else "default")
        self.problems.append(f"{self.file}:{self.line + below - 1} {subject} {text}")


def _subject(value: Mapping[str, Any], default_namespace: str) -> str:
    metadata = value.get("metadata")
    meta = metadata if isinstance(metadata, dict) else {}
    name = meta.get("name") or meta.get("generateName") or "(no name)"
    return f"{value['kind']} {meta.get('namespace') or default_namespace}/{name}"
