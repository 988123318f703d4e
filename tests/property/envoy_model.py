"""A model of an Envoy, strict about the protocol: what a client does with what it is sent.

It takes clusters, asks for their endpoints, takes listeners and asks for their routes, and
rejects whatever contains a resource that is marked as broken. It checks what a client can check:
nonces that are new, names that come once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from controlplane.ads.classes import Stream
from controlplane.ads.decisions import Decision
from controlplane.ads.machine import Session
from controlplane.ads.pusher import Pusher
from controlplane.ads.types import (
    ACKNOWLEDGE_LIMIT,
    CDS,
    EDS,
    LDS,
    RDS,
    TYPE_BY_URL,
    Send,
    TypeInfo,
)
from controlplane.ads.watch import Watch
from controlplane.ads.wire import DeltaRequest, Failure, Request
from controlplane.model.proxy import make_proxy
from controlplane.translate.envoy import (
    Cluster,
    ClusterLoadAssignment,
    DeltaDiscoveryResponse,
    DiscoveryResponse,
    Listener,
    RouteConfiguration,
)
from controlplane.translate.resources import Resource, serialise

ORDER = (CDS, EDS, LDS, RDS)
_MESSAGES: dict[str, Any] = {
    CDS.url: Cluster,
    EDS.url: ClusterLoadAssignment,
    LDS.url: Listener,
    RDS.url: RouteConfiguration,
}


class _Heard(NamedTuple):
    """A response, and what the view showed when it was sent: all clusters, and those that stay.

    `late` are the clusters that were sent so long before that nothing waits for them any more, and
    those that exist nowhere but at the client.
    """

    send: Send
    shown: Mapping[str, Resource]
    staying: Mapping[str, Resource]
    late: frozenset[str]
    hosts: Mapping[str, Mapping[str, bytes]]
    """The virtual hosts that each route configuration shall have."""


def _decide_alone_too(session: Session) -> None:
    """Check that what was decided for several streams is what each would have decided."""
    decide = session._decide

    def both(watch: Watch) -> Decision | None:
        alike = not (
            watch.is_special
            or session._adding
            or session._holding
            # What is left out then is decided for each stream alone.
            or session._shared.rejections.may_concern(watch.info.kind, session._node)
        )
        decision = decide(watch)
        if alike and decision is not None:
            wanted, absent = session._wanted(watch)
            assert wanted is decision.wanted
            assert watch.based is decision.base
            assert not absent
            assert session._content(watch, wanted) is decision.content
            assert watch.hold_until is None
        return decision

    session._decide = both  # type: ignore[method-assign]


class Envoy:
    """One node; it may connect, be cut off and come back with what it holds."""

    def __init__(
        self,
        pusher: Pusher,
        node: str,
        *,
        delta: bool,
        names_culprits: bool,
        clock: Callable[[], float],
    ) -> None:
        self.pusher = pusher
        self.clock = clock
        self.proxy = make_proxy(node, {}, user_agent="envoy")
        self.delta = delta
        self.names_culprits = names_culprits
        self.complaint = "missing ): ("  # what it says when it names nobody
        self.held: dict[str, dict[str, bytes]] = {info.url: {} for info in ORDER}
        self.version: dict[str, str] = {info.url: "" for info in ORDER}
        self.version_of: dict[bytes, str] = {}  # what content came under
        self.stream: Stream | None = None
        self.picky = False  # whether it rejects what others take
        self.started = False  # whether it ever took clusters
        self.rejected = 0  # responses, ever
        self.active: set[str] = set()  # clusters that were ready at some time
        self.newly_named: list[tuple[str, str]] = []  # (route, cluster) the client lacked
        self.cut_short: list[tuple[str, str]] = []  # (route, cluster) that went under it
        self.emptied: list[tuple[str, str]] = []  # (route, leaving cluster) that lost its endpoints
        self.lost: list[tuple[str, str]] = []  # (route, virtual host) that is still wanted
        self._forget_stream()

    def _forget_stream(self) -> None:
        self.nonce: dict[str, str] = {info.url: "" for info in ORDER}
        self.asked: dict[str, set[str]] = {info.url: set() for info in ORDER}
        self.subscribed: set[str] = set()
        self.nonces: set[str] = set()
        self.inbox: deque[_Heard] = deque()
        self.offered: dict[str, float] = {}  # when each cluster was sent that had not been there
        self.warming: set[str] = set()  # clusters whose endpoints have to come
        # Answers about clusters that came while some warmed.
        self.withheld: list[tuple[str, Failure | None]] = []

    def __repr__(self) -> str:
        watches = self.stream.session.watches.values() if self.stream else ()
        return (
            f"{self.proxy.id} delta={self.delta} warming={self.warming} withheld={self.withheld} "
            f"rejected={self.rejected} asked={self.asked} held={self.held} "
            + " ".join(
                f"{watch.info.short}: error={watch.error!r} sent={watch.nonce_sent} "
                f"acked={watch.nonce_acked} names={set(watch.names.names)} force={watch.force} "
                f"brought={watch.brought} refused={watch.refused!r}"
                for watch in watches
            )
        )

    # --- the stream -----------------------------------------------------------------------

    def connect(self) -> None:
        """Open a stream and ask for everything that is held or wanted at the start."""
        assert self.stream is None
        self._forget_stream()
        self.stream = self.pusher.connect(self.proxy, delta=self.delta, wake=lambda: None)
        _decide_alone_too(self.stream.session)
        self._ask(CDS, set())
        if self.held[CDS.url]:
            self._ask(EDS, set(self.held[CDS.url]))
        if self.version[CDS.url]:
            self._ask(LDS, set())
            self._ask(RDS, self._routes())

    def cut_off(self) -> None:
        """Lose the stream."""
        assert self.stream is not None
        self.pusher.disconnect(self.stream)
        self.stream = None
        self._forget_stream()

    def receive(self) -> bool:
        """Let the server write one response; return whether it had one."""
        assert self.stream is not None
        idle = self.pusher.idle(self.stream)
        send = self.pusher.take(self.stream)
        if send is None:
            return False
        assert not idle, "a stream that has something to send is not looked at"
        assert send.nonce not in self.nonces, "a nonce was used twice on one stream"
        self.nonces.add(send.nonce)
        assert len(set(send.names)) == len(send.names), "a name appears twice in one response"
        view = self.stream.session.view
        now = self.clock()
        if send.type_url == CDS.url:
            kept = self.offered if self.delta else {}
            self.offered = {
                name: self.offered.get(name, now)
                for name in (*kept, *send.names)
                if name not in send.removed
            }
        late = self.stream.session.returning.unknown.union(
            name for name, time in self.offered.items() if time + ACKNOWLEDGE_LIMIT <= now
        )
        hosts: dict[str, Mapping[str, bytes]] = {}
        if send.type_url == RDS.url:
            watch = self.stream.session.watches[RDS.kind]
            routes = view.collection(RDS.kind, watch.names).by_name
            hosts = {name: virtual_hosts(routes[name].body) for name in send.names}
        self.inbox.append(
            _Heard(send, view.clusters.by_name, view.base.clusters.by_name, late, hosts)
        )
        return True

    def rejects(self, body: bytes) -> bool:
        """Whether it takes no response with that resource in it."""
        return b"broken" in body or (self.picky and b"disliked" in body)

    def answer(self) -> bool:
        """Take the oldest unanswered response; return whether there was one."""
        if not self.inbox:
            return False
        send, shown, staying, late, hosts = self.inbox.popleft()
        info = TYPE_BY_URL[send.type_url]
        resources, removed, nonce, version = self._decode(send)
        self.nonce[info.url] = nonce
        broken = sorted(name for name, body in resources.items() if self.rejects(body))
        if broken:
            self.rejected += 1
            names = ", ".join(broken) if self.names_culprits else self.complaint
            failure = Failure(13, names)
            if info is CDS and self.warming:
                self.withheld.append((nonce, failure))
                if not self.delta:
                    self._stop_warming(self.warming - resources.keys())
            else:
                self._reply(info, nonce, failure)
            return True
        held = self.held[info.url]
        if info is RDS:
            for name, body in resources.items():
                lacking = clusters_of(body) - clusters_of(held.get(name, b""))
                self.newly_named += [
                    (name, cluster)
                    for cluster in sorted(lacking)
                    if (cluster not in self.held[CDS.url] or self._still_warms(name, cluster))
                    and cluster in shown
                    and cluster not in late
                    and not self.rejects(shown[cluster].body)
                ]
                self.lost += [
                    (name, host)
                    for host in virtual_hosts(held.get(name, b"")).keys() - virtual_hosts(body)
                    if host in hosts[name] and not self.rejects(hosts[name][host])
                ]
        if info is EDS:
            self.cut_short += [
                (route, name)
                for route, routed in self.held[RDS.url].items()
                for name in sorted(clusters_of(routed) & resources.keys() - shown.keys())
            ]
            self.emptied += [
                (route, name)
                for route, routed in self.held[RDS.url].items()
                for name in sorted(clusters_of(routed) & resources.keys() - staying.keys())
                if _has_endpoints(held.get(name)) and not _has_endpoints(resources[name])
            ]
        before = dict(held)
        if not self.delta and info.complete:
            held.clear()
        asked = self.asked[info.url]
        held.update(
            (name, body) for name, body in resources.items() if info.wildcard or name in asked
        )
        for name in removed:
            held.pop(name, None)
        self.version[info.url] = version
        if info is CDS:
            self._take_clusters(nonce, before, held)
            return True
        self._reply(info, nonce, None)
        if info is LDS:
            self._follow(RDS, self._routes())
        elif info is EDS:
            self.warming -= resources.keys()
            self._say_what_was_withheld()
        return True

    def _take_clusters(self, nonce: str, before: dict[str, bytes], held: dict[str, bytes]) -> None:
        """Warm what changed; as a real Envoy does, say nothing about it until that is done."""
        changed = {name for name, body in held.items() if before.get(name) != body}
        gone = before.keys() - held.keys()
        self.cut_short += [
            (name, cluster)
            for name, body in self.held[RDS.url].items()
            for cluster in sorted(clusters_of(body) & gone)
        ]
        self.warming = (self.warming | changed) & held.keys()
        self.withheld.append((nonce, None))
        known = set(self.asked[EDS.url])
        self._follow(EDS, set(held))
        if changed and known == self.asked[EDS.url] and not self.delta:
            # The question for the endpoints of a changed cluster: it looks like an ACK.
            self._reply(EDS, self.nonce[EDS.url], None)
        if not self.started:
            self.started = True
            self._acknowledge_clusters()  # an Envoy that starts does not wait for them
        self._say_what_was_withheld()
        self._start(LDS)

    def _stop_warming(self, gone: set[str]) -> None:
        """A rejected response is half applied: what warms and is not in it is gone all the same."""
        for name in gone:
            del self.held[CDS.url][name]
        self.warming -= gone
        self._say_what_was_withheld()

    def _still_warms(self, route: str, cluster: str) -> bool:
        """Whether traffic would go to a cluster that never was ready; a new route has none."""
        return cluster not in self.active and route in self.held[RDS.url]

    def _say_what_was_withheld(self) -> None:
        self.active = (self.active | (self.held[CDS.url].keys() - self.warming)) & self.held[
            CDS.url
        ].keys()
        if not self.warming:
            self._acknowledge_clusters()

    def _acknowledge_clusters(self) -> None:
        """Answer what was withheld, in order.

        In state of the world only the newest nonce is answered, with an older error if there is
        one: the version then says whether the newest was taken (seen with Envoy 1.40).
        """
        answers, self.withheld = self.withheld, []
        if answers and not self.delta:
            errors = [failure for _, failure in answers if failure is not None]
            answers = [(answers[-1][0], errors[-1] if errors else None)]
        for nonce, failure in answers:
            self._reply(CDS, nonce, failure)

    # --- requests -------------------------------------------------------------------------

    def _routes(self) -> set[str]:
        return {name for name in self.held[LDS.url] if name.startswith("r")}

    def _start(self, info: TypeInfo) -> None:
        if info.url not in self.subscribed:
            self._ask(info, set())

    def _follow(self, info: TypeInfo, names: set[str]) -> None:
        """Change the subscription; what is no longer subscribed is no longer held."""
        asked = self.asked[info.url]
        for name in set(self.held[info.url]) - names:
            del self.held[info.url][name]
        if info.url not in self.subscribed:
            if names:
                self._ask(info, names)
            return
        if names == asked:
            return
        self.asked[info.url] = set(names)
        if self.delta:
            self._send_delta(
                DeltaRequest(
                    type_url=info.url,
                    subscribe=tuple(sorted(names - asked)),
                    unsubscribe=tuple(sorted(asked - names)),
                )
            )
        else:
            self._reply(info, self.nonce[info.url], None)

    def _ask(self, info: TypeInfo, names: set[str]) -> None:
        if not info.wildcard and not names:
            return
        self.subscribed.add(info.url)
        self.asked[info.url] = set(names)
        if self.delta:
            held = self.held[info.url]
            initial = {
                name: self.version_of[body]
                for name, body in held.items()
                if info.wildcard or name in names
            }
            self._send_delta(
                DeltaRequest(type_url=info.url, subscribe=tuple(sorted(names)), initial=initial)
            )
        else:
            self._send(
                Request(
                    type_url=info.url,
                    names=tuple(sorted(names)),
                    version=self.version[info.url],
                )
            )

    def _reply(self, info: TypeInfo, nonce: str, failure: Failure | None) -> None:
        if self.delta:
            self._send_delta(DeltaRequest(type_url=info.url, nonce=nonce, error=failure))
        else:
            self._send(
                Request(
                    type_url=info.url,
                    names=tuple(sorted(self.asked[info.url])),
                    version=self.version[info.url],
                    nonce=nonce,
                    error=failure,
                )
            )

    def _send(self, request: Request | DeltaRequest) -> None:
        assert self.stream is not None
        self.pusher.on_request(self.stream, request)

    _send_delta = _send

    def _decode(self, send: Send) -> tuple[dict[str, bytes], tuple[str, ...], str, str]:
        message: Any
        if self.delta:
            message = DeltaDiscoveryResponse.FromString(send.payload)
            for entry in message.resources:
                # Versions depend on the content alone.
                known = self.version_of.setdefault(entry.resource.value, entry.version)
                assert entry.version == known
            resources = {entry.name: entry.resource.value for entry in message.resources}
            removed = tuple(message.removed_resources)
            return resources, removed, message.nonce, message.system_version_info
        message = DiscoveryResponse.FromString(send.payload)
        found: dict[str, bytes] = {}
        for entry in message.resources:
            parsed = _MESSAGES[send.type_url].FromString(entry.value)
            name = parsed.cluster_name if send.type_url == EDS.url else parsed.name
            found[name] = entry.value
        return found, (), message.nonce, message.version_info


def clusters_of(body: bytes) -> set[str]:
    """The clusters that a route configuration of the test world names."""
    message: Any = RouteConfiguration.FromString(body) if body else RouteConfiguration()
    try:
        return {route.route.cluster for host in message.virtual_hosts for route in host.routes}
    except AttributeError:
        return set()


def virtual_hosts(body: bytes) -> dict[str, bytes]:
    """The virtual hosts of a route configuration by name."""
    message: Any = RouteConfiguration.FromString(body)
    return {host.name: serialise(host) for host in message.virtual_hosts}


def _has_endpoints(body: bytes | None) -> bool:
    """Whether a load assignment names an endpoint."""
    if body is None:
        return False
    message: Any = ClusterLoadAssignment.FromString(body)
    return any(locality.lb_endpoints for locality in message.endpoints)
