"""Prometheus metrics under istiod's names, in a registry of their own.

Owns the names, labels and buckets. Must not know who reports: the serving side, the registry
and the sources call the methods. The rule that is easy to break: no label may hold a proxy, an
object or anything else without a small fixed set of values.
"""

from __future__ import annotations

import re
import time
from collections import Counter as Counts
from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from controlplane.ads.status import ServingStatus
from controlplane.debug.conflicts import DUPLICATE_SUBSETS, DUPLICATE_SUBSETS_TEXT, GAUGES
from controlplane.debug.responses import PUSHES, TIMES, ResponseMetrics
from controlplane.model.snapshot import Snapshot
from controlplane.translate.resources import ResourceType

_SHORT: Final = {
    ResourceType.CLUSTER.url: "cds",
    ResourceType.ENDPOINT.url: "eds",
    ResourceType.LISTENER.url: "lds",
    ResourceType.ROUTE.url: "rds",
    ResourceType.NAME_TABLE.url: "nds",
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret": "sds",
    "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig": "ecds",
    "type.googleapis.com/istio.networking.nds.v1.NameTable": "nds",
}
OTHER: Final = "other"
TRIGGERS: Final = frozenset(
    {"config", "endpoint", "endpoints", "full", "mesh", "namespace", "proxy", "secret", "service"}
)
_CREATED: Final = re.compile(r"^(?:# (?:HELP|TYPE) )?\w+_created[ {]")

_DEBOUNCE: Final = (0.01, 0.1, 0.5, 1, 2, 3, 5, 10, 20)  # seconds


def short_type(type_url: str) -> str:
    """Return `cds` for the cluster type URL and so on; `other` for a type we do not serve.

    A client chooses the URLs that it asks for, so an unknown one must not become a label.
    """
    return _SHORT.get(type_url, OTHER)


def _endpointless(snapshot: Snapshot) -> int:
    return sum(
        1
        for service in snapshot.services
        for port in service.ports
        if not snapshot.endpoints_of(service.host).at(port.name)
    )


class Metrics:
    """Everything that `/metrics` shows. Methods are called on the event loop."""

    def __init__(self, *, version: str, clock: Callable[[], float] = time.time) -> None:
        self.registry: Final = CollectorRegistry(auto_describe=False)
        self._version = version
        self._counter_names: Final[list[str]] = [PUSHES]
        self.responses: Final = ResponseMetrics(short_type)
        self.registry.register(self.responses)
        started = clock()
        self._describe(version)
        self._gauge("istiod_uptime_seconds", "Seconds since the start.").set_function(
            lambda: clock() - started
        )
        self._counters()
        self._histograms()
        self._collectors()
        names = "|".join(self._counter_names)
        self._suffix = re.compile(rf"^(# (?:HELP|TYPE) )?({names})_total(?=[ {{])")

    def _describe(self, version: str) -> None:
        info = self._gauge("pilot_info", "Version of the control plane.", "version")
        info.labels(version=version).set(1)
        self._connected = self._gauge("pilot_xds", "Connected xDS clients.", "version")
        self._connected.labels(version=version).set(0)
        self._services = self._gauge("pilot_services", "Services known.")
        self._virtual_services = self._gauge("pilot_virt_services", "VirtualServices known.")
        self._endpointless = self._gauge(
            "pilot_eds_no_instances", "Service ports without endpoints."
        )
        self._file_errors = self._gauge(
            "pylot_config_errors", "Objects and files with errors.", "level"
        )
        # istiod counts refused configurations per type in gauges of this name.
        self._rejecting = {
            short: self._gauge(
                f"pilot_xds_{short}_reject", f"Proxies that refuse a part of {short.upper()}."
            )
            for short in ("cds", "lds", "rds", "eds")
        }

        self._conflicts = {
            name: self._gauge(name, text)
            for name, text in (
                *((name, text) for name, (text, _) in GAUGES.items()),
                (DUPLICATE_SUBSETS, DUPLICATE_SUBSETS_TEXT),
            )
        }

    def _counters(self) -> None:
        self._rejects = self._counter("pilot_total_xds_rejects", "Responses refused.", "type")
        self._expired = self._counter(
            "pilot_xds_expired_nonce", "Requests that answered an older response.", "type"
        )
        # istiod has none: it does not notice a cluster that never gets warm.
        self._warming = self._counter(
            "pylot_xds_warming_timeouts", "Clusters that a proxy did not acknowledge in 5 s."
        )
        self._internal = self._counter(
            "pilot_total_xds_internal_errors", "Errors of ours while serving."
        )
        self._triggers = self._counter("pilot_push_triggers", "Reasons for a push.", "type")
        self._inbound = self._counter("pilot_inbound_updates", "Changes received.", "type")
        self._rejected_configs = self._counter(
            "pilot_total_rejected_configs", "Objects left out because they are invalid."
        )
        self._validation_failed = self._counter(
            "galley_validation_failed",
            "Objects that failed validation.",
            "group",
            "version",
            "resource",
            "reason",
        )
        self._validation_passed = self._counter(
            "galley_validation_passed",
            "Objects that passed validation.",
            "group",
            "version",
            "resource",
        )
        self._validation_errors = self._counter(
            "galley_validation_http_error", "Requests to validate that are none.", "status"
        )
        self._config_events = self._counter(
            "pilot_k8s_cfg_events", "Events of configuration objects.", "type", "event"
        )
        self._registry_events = self._counter(
            "pilot_k8s_reg_events", "Events of services, endpoints, pods, nodes.", "type", "event"
        )
        # istiod's names, which call an address an endpoint.
        self._pending_pods = self._gauge(
            "pilot_k8s_endpoints_pending_pod", "Endpoints that are left out until their pod comes."
        )
        self._without_pods = self._counter(
            "pilot_k8s_endpoints_with_no_pods", "Endpoints that came before their pod."
        )
        self._relists = self._counter(
            "pylot_k8s_relists", "Whole states compared after a gap in a watch.", "type"
        )
        self._healed = self._counter(
            "pylot_k8s_healed", "Objects that a comparison without any gap put right.", "type"
        )

    def _histograms(self) -> None:
        self._debounce = self._histogram(
            "pilot_debounce_time", "Seconds that a change waited for others.", _DEBOUNCE
        )
        self._snapshot_time = self._histogram(
            "pilot_pushcontext_init_seconds", "Seconds to make a snapshot.", TIMES
        )

    def _collectors(self) -> None:
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def connected(self) -> None:
        """A stream has begun."""
        self._connected.labels(version=self._version).inc()

    def disconnected(self) -> None:
        """A stream has ended."""
        self._connected.labels(version=self._version).dec()

    def rejected(self, type_url: str) -> None:
        """A proxy has refused a response."""
        self._rejects.labels(type=short_type(type_url)).inc()

    def rejecting(self, serving: ServingStatus) -> None:
        """How many proxies refuse something now, by type."""
        counts = Counts(
            short_type(url)
            for connection in serving.connections
            for url, watch in connection.watches.items()
            if watch.rejections
        )
        for short, gauge in self._rejecting.items():
            gauge.set(counts[short])

    def conflicts(self, counts: Mapping[str, int]) -> None:
        """What loses against another now, by the name of the gauge."""
        for name, count in counts.items():
            self._conflicts[name].set(count)

    def expired_nonce(self, type_url: str) -> None:
        """A request answered a response that is not the newest."""
        self._expired.labels(type=short_type(type_url)).inc()

    def warming(self, clusters: int) -> None:
        """So many clusters were not acknowledged in time, probably because they warm."""
        self._warming.inc(clusters)

    def internal_error(self) -> None:
        """Serving failed by a mistake of ours."""
        self._internal.inc()

    def updated(self, kind: str) -> None:
        """A source delivered a change: `config`, `eds`, `svc` or `svcdelete`."""
        self._inbound.labels(type=kind).inc()

    def triggered(self, reason: str) -> None:
        """A push was caused by one of `TRIGGERS`; anything else counts as `other`."""
        self._triggers.labels(type=reason if reason in TRIGGERS else OTHER).inc()

    def made_snapshot(self, waited: float, making: float) -> None:
        """A snapshot was made in so many seconds; its first change waited for others before."""
        self._debounce.observe(waited)
        self._snapshot_time.observe(making)

    def published(self, snapshot: Snapshot) -> None:
        """A snapshot is now the current one."""
        self._services.set(len(snapshot.services))
        self._virtual_services.set(len(snapshot.virtual_services))
        # Counting walks all services, so it waits until somebody reads the metrics.
        self._endpointless.set_function(lambda: _endpointless(snapshot))
        levels: dict[str, int] = {"Error": 0, "Warning": 0, "Info": 0}
        for diagnostic in snapshot.diagnostics:
            levels[diagnostic.level.value] += 1
        for level, count in levels.items():
            self._file_errors.labels(level=level).set(count)

    def waiting_for_pods(self, now: int, new: int) -> None:
        """So many endpoints wait for their pods, and so many of them did not before."""
        self._pending_pods.set(now)
        self._without_pods.inc(new)

    def refused_object(self) -> None:
        """An object was left out because it is invalid."""
        self._rejected_configs.inc()

    def validated(self, group: str, version: str, resource: str, *, failure: str) -> None:
        """The webhook has checked an object; `failure` is why it was refused, empty if not."""
        labels = {"group": group, "version": version, "resource": resource}
        if failure:
            self._validation_failed.labels(**labels, reason=failure).inc()
        else:
            self._validation_passed.labels(**labels).inc()

    def validation_http_error(self, status: int) -> None:
        """The webhook was sent something that is no question about an object."""
        self._validation_errors.labels(status=str(status)).inc()

    def source_events(self, kind: str, event: str, number: int, *, config: bool) -> None:
        """An API server told `number` times `add`, `update`, `updatesame` or `delete` of a kind."""
        counter = self._config_events if config else self._registry_events
        counter.labels(type=kind, event=event).inc(number)

    def relisted(self, kind: str) -> None:
        """The whole state of a kind was compared after a gap."""
        self._relists.labels(type=kind).inc()

    def healed(self, kind: str, objects: int) -> None:
        """A comparison found so many objects that were not as the API server has them."""
        self._healed.labels(type=kind).inc(objects)

    def state_age(self, seconds: Callable[[], float]) -> None:
        """Show for how long nothing vouches for what the API server said; asked when read."""
        self._gauge(
            "pylot_k8s_state_age_seconds", "Seconds since the oldest watch was lost, 0 for none."
        ).set_function(seconds)

    def render(self) -> bytes:
        """Return the text format of Prometheus, counters under istiod's names.

        The client library insists on `_total` at the end of a counter and adds the time at
        which each series began; istiod's names have neither.
        """
        lines = generate_latest(self.registry).decode().splitlines(keepends=True)
        return "".join(
            self._suffix.sub(r"\1\2", line) for line in lines if not _CREATED.match(line)
        ).encode()

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        self._counter_names.append(name)
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)
