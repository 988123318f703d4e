"""Whatever happens to lists and watches, the store is what the API server has.

Hypothesis chooses changes on the server and what becomes of each request: pages that expire,
watches that end anywhere, events in any batches, answers that say no. After each step the store
must be exactly the server's state at the version that the reflector names, and who follows the
changes must have seen each difference once.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from controlplane.kubernetes.errors import KubernetesError, UnavailableError
from controlplane.kubernetes.lines import Lines
from controlplane.model.kinds import KINDS
from controlplane.model.meta import Object, ObjectRef
from controlplane.sources.kubernetes.decode import ObjectDecoder
from controlplane.sources.kubernetes.reflector import LONGEST_PAUSE, Reflector, Step
from controlplane.sources.kubernetes.store import Store
from tests.unit.kubernetes.model_server import SERVICES, ModelServer, bookmark

NAMES = st.sampled_from([f"s{index}" for index in range(5)])
SERVICE = KINDS["", "Service"]


class ReflectorMachine(RuleBasedStateMachine):
    """A reflector, a server, and somebody who only sees the changes."""

    @initialize(streams=st.booleans(), seed=st.integers(0, 99), page=st.integers(1, 3))
    def start(self, streams: bool, seed: int, page: int) -> None:
        """Begin with nothing known."""
        self.server = ModelServer()
        self.store = Store(ObjectDecoder(SERVICE))
        self.reflector = Reflector(SERVICES, self.store, streams=streams, dice=random.Random(seed))
        self.seen: dict[ObjectRef, tuple[Object, str]] = {}
        self.step: Step | None = None
        self.sent = 0  # up to which version the open watch has told
        self.initial: list[bytes] = []  # events of the first state that are still to come
        self.page = page
        self.lines = Lines()

    @rule(name=NAMES, port=st.integers(1, 3))
    def put(self, name: str, port: int) -> None:
        """Somebody creates or updates, perhaps without a change."""
        self.server.put(name, spec={"clusterIP": "1.1.1.1", "ports": [{"port": port}]})

    @rule(name=NAMES)
    def put_broken(self, name: str) -> None:
        """Somebody writes an object that is left out."""
        self.server.put(name, spec={"ports": [{"port": -1}]})

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        """Somebody deletes."""
        self.server.delete(name)

    @rule()
    def compact(self) -> None:
        """The server forgets."""
        self.server.compact()

    @rule()
    def go_on(self) -> None:
        """Do the next step: answer a page, or open a watch."""
        if self.step is not None:
            return
        step = self.reflector.next()
        assert 0 <= step.wait <= LONGEST_PAUSE
        if not step.watch:
            query = step.query | ({"limit": str(self.page)} if step.query.get("limit") else {})
            self._answer(lambda: self.reflector.on_page(self.server.page(query)))
            return
        assert step.query["allowWatchBookmarks"] == "true"
        self.step, self.lines = step, Lines()
        if step.query.get("sendInitialEvents"):
            self.initial = list(self.server.first())
            self.sent = self.server.version
        else:
            self.initial = []
            self.sent = int(step.query["resourceVersion"])

    @rule(batch=st.integers(1, 4))
    def deliver(self, batch: int) -> None:
        """The open watch tells some events."""
        if self.step is None:
            return
        if self.initial:
            lines, self.initial = self.initial[:batch], self.initial[batch:]
        else:
            lines = self.server.since(self.sent)[:batch]
            for change in self.server.history:
                if change.version > self.sent and self.sent >= self.server.compacted:
                    self.sent = change.version
                    batch -= 1
                    if not batch:
                        break
        self._tell(lines)

    @rule()
    def tell_how_far(self) -> None:
        """A bookmark, when everything was told."""
        if self.step is not None and not self.initial and not self.server.since(self.sent):
            self.sent = self.server.version
            self._tell([bookmark(self.sent)])

    def _tell(self, lines: list[bytes]) -> None:
        complete = self.lines.feed(b"".join(line + b"\n" for line in lines)) if lines else []
        if complete:
            self._answer(lambda: self.reflector.on_lines(complete))

    @rule(lasted=st.sampled_from([0.0, 0.5, 10.0, 4000.0]))
    def close(self, lasted: float) -> None:
        """The server ends the watch in an orderly way; after long ones states are compared."""
        if self.step is not None:
            self.step = None
            self.reflector.on_closed(lasted)

    @rule(cut=st.integers(1, 30), lasted=st.sampled_from([0.0, 10.0]))
    def truncate(self, cut: int, lasted: float) -> None:
        """The connection breaks within a line."""
        if self.step is None:
            return
        coming = (self.initial or self.server.since(self.sent))[:1]
        for line in coming:
            assert self.lines.feed(line[:cut]) == []
            assert self.lines.truncated
        self.step = None
        self.reflector.on_error(UnavailableError("the stream ended within a line"), lasted)

    @rule(code=st.sampled_from([0, 400, 403, 404, 429, 500, 504]))
    def refuse(self, code: int) -> None:
        """The server answers with a failure, or does not answer."""
        if self.step is None:
            self.reflector.next()
        self.step = None
        error = self.server.refusal(code, "ResourceVersionTooLarge" if code == 504 else "")
        self.reflector.on_error(error if code else UnavailableError("no answer"), 0.1)

    def _answer(self, give: Callable[[], None]) -> None:
        try:
            give()
        except KubernetesError as error:
            self.step = None
            self.reflector.on_error(error, 1.0)

    @invariant()
    def nothing_is_lost_and_nothing_doubled(self) -> None:
        """The changes lead from what was seen to what is there, each told once."""
        changes = self.store.take()
        for ref in changes.removals:
            assert ref in self.seen
            del self.seen[ref]
        for item, origin in ((record.item, record.origin) for record in changes.upserts):
            assert self.seen.get(item.ref) != (item, origin.uid), "told twice"
            self.seen[item.ref] = (item, origin.uid)
        assert self.seen == {
            entry.item.ref: (entry.item, entry.identity.uid)
            for entry in self.store.entries.values()
            if entry.item is not None
        }
        assert self.reflector.healed == 0

    @invariant()
    def the_store_is_the_state_at_its_version(self) -> None:
        """Every object with its version, as the server had them."""
        if not self.reflector.version:
            return
        expected = self.server.at(int(self.reflector.version))
        assert {
            key: entry.identity.resource_version for key, entry in self.store.entries.items()
        } == {key: item["metadata"]["resourceVersion"] for key, item in expected.items()}

    def teardown(self) -> None:
        """Without further trouble, the store becomes what the server has."""
        if not hasattr(self, "server"):
            return
        if self.step is not None:
            self.close(10.0)
        for _ in range(60):
            self.go_on()
            while self.step is not None and (self.initial or self.server.since(self.sent)):
                self.deliver(3)
            if self.step is not None:
                break
        self.nothing_is_lost_and_nothing_doubled()
        assert self.reflector.synced
        assert int(self.reflector.version or 0) >= max(
            (change.version for change in self.server.history), default=0
        )
        self.the_store_is_the_state_at_its_version()


TestReflector = ReflectorMachine.TestCase
TestReflector.settings = settings(stateful_step_count=60)
