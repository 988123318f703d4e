"""What an Envoy counts, how it tags it, and how it hands it out.

Owns the statistics of the bootstrap, from ProxyConfig and the pod's annotations.
Must not know the rest of the bootstrap.
Easy to break: an annotation takes the place of the ProxyConfig's list of its kind, as in Istio,
and neither takes away what the agent itself needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from controlplane.agent.bootstrap import XDS_CLUSTER, thawed
from controlplane.agent.values import duration, truth
from controlplane.errors import UsageError
from controlplane.model.base import Duration, FrozenDict
from controlplane.model.mesh import ProxyConfig

FLUSH_INTERVAL: Final = Duration(5_000_000_000)
ANNOTATION: Final = "sidecar.istio.io/"
# What Istio's agent keeps of Envoy's statistics; everything else costs memory for each cluster.
PREFIXES: Final = (
    "reporter=",
    "cluster_manager",
    "listener_manager",
    "server",
    f"cluster.{XDS_CLUSTER}",
    "control_plane",
    "wasm",
    "component",
    "istio",
)
SUFFIXES: Final = (
    "rbac.allowed",
    "rbac.denied",
    "shadow_allowed",
    "shadow_denied",
    # The drain ends when nobody is connected any more.
    "downstream_cx_active",
    # A rejected route or load assignment is found by these.
    "update_rejected",
)
REGEXES: Final = (
    r"vhost\..*\.route\..*",
    # Istio's own build counts requests by an extension. A stock Envoy has only these.
    r"(http|cluster)\..*_rq_([1-5]xx|total)",
)
COMPRESSIONS: Final = ("brotli", "zstd", "gzip")
"""In the order in which a client that takes all of them gets one."""


class StatsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for beyond what the agent needs; `buckets` are by prefix of a name."""

    prefixes: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    regexes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    flush_interval: Duration = FLUSH_INTERVAL
    eviction_interval: Duration = Duration(0)  # 0: nothing is forgotten
    buckets: FrozenDict[str, tuple[float, ...]] = FrozenDict()
    compression: bool = True


def stats_settings(config: ProxyConfig, annotations: Mapping[str, str]) -> StatsSettings:
    """Return what a pod asks for; raises UsageError naming the annotation.

    Source: getStatsOptions of Istio's bootstrap (pkg/bootstrap/config.go).
    """
    matcher = thawed(config.proxy_stats_matcher or {})

    def listed(annotation: str, field: str) -> tuple[str, ...]:
        text = annotations.get(ANNOTATION + annotation, "")
        return _words(text) if text else tuple(matcher.get(field, ()))

    def interval(annotation: str, default: int) -> Duration:
        name = ANNOTATION + annotation
        return duration(annotations.get(name, ""), f"the annotation {name}", default=default)

    tags = (*config.extra_stat_tags, *_words(annotations.get(f"{ANNOTATION}extraStatTags", "")))
    flush = interval("statsFlushInterval", FLUSH_INTERVAL)
    eviction = interval("statsEvictionInterval", 0)
    if eviction and (not flush or eviction % flush):
        raise UsageError(
            f"the annotation {ANNOTATION}statsEvictionInterval: {eviction} is not a multiple of "
            f"the flush interval, {flush}"
        )
    compression = annotations.get(f"{ANNOTATION}statsCompression", "")
    return StatsSettings(
        prefixes=listed("statsInclusionPrefixes", "inclusionPrefixes"),
        suffixes=listed("statsInclusionSuffixes", "inclusionSuffixes"),
        regexes=listed("statsInclusionRegexps", "inclusionRegexps"),
        tags=tuple(dict.fromkeys(tags)),
        flush_interval=flush,
        eviction_interval=eviction,
        buckets=_buckets(annotations.get(f"{ANNOTATION}statsHistogramBuckets", "")),
        compression=truth(compression) if compression else config.stats_compression,
    )


def add_stats(bootstrap: dict[str, Any], settings: StatsSettings, *, prometheus_port: int) -> None:
    """Put the settings into a bootstrap that `build_bootstrap` has made."""
    bootstrap["stats_flush_interval"] = str(settings.flush_interval)
    if settings.eviction_interval:
        bootstrap["stats_eviction_interval"] = str(settings.eviction_interval)
    stats = bootstrap["stats_config"]
    stats["stats_tags"] += [
        {"tag_name": tag, "regex": rf"(;?{tag}=\.=(.*?);\.;)"} for tag in settings.tags
    ]
    stats["stats_matcher"] = _matcher(settings)
    if settings.buckets:
        stats["histogram_bucket_settings"] = [
            {"match": {"prefix": prefix}, "buckets": list(buckets)}
            for prefix, buckets in settings.buckets.items()
        ]
    if settings.compression:
        for listener in bootstrap["static_resources"]["listeners"]:
            if listener["address"]["socket_address"]["port_value"] == prometheus_port:
                (manager,) = listener["filter_chains"][0]["filters"]
                filters = manager["typed_config"]["http_filters"]
                filters[:0] = map(_compressor, COMPRESSIONS)


def _matcher(settings: StatsSettings) -> dict[str, Any]:
    patterns: list[dict[str, Any]] = [
        {"prefix": text} for text in dict.fromkeys((*PREFIXES, *settings.prefixes))
    ]
    patterns += [{"suffix": text} for text in dict.fromkeys((*SUFFIXES, *settings.suffixes))]
    patterns += [
        {"safe_regex": {"regex": text}} for text in dict.fromkeys((*REGEXES, *settings.regexes))
    ]
    return {"inclusion_list": {"patterns": patterns}}


def _compressor(kind: str) -> dict[str, Any]:
    types = "type.googleapis.com/envoy.extensions"
    return {
        "name": f"envoy.filters.http.compressor.{kind}",
        "typed_config": {
            "@type": f"{types}.filters.http.compressor.v3.Compressor",
            "compressor_library": {
                "name": kind,
                "typed_config": {
                    "@type": f"{types}.compression.{kind}.compressor.v3.{kind.capitalize()}"
                },
            },
        },
    }


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _buckets(text: str) -> FrozenDict[str, tuple[float, ...]]:
    if not text:
        return FrozenDict()
    name = f"the annotation {ANNOTATION}statsHistogramBuckets"
    try:
        found = msgspec.json.decode(text, type=dict[str, tuple[float, ...]])
    except msgspec.MsgspecError as error:
        raise UsageError(f'{name}: it must be JSON such as {{"istio": [1, 10]}}: {error}') from None
    for prefix, buckets in found.items():
        if not buckets or buckets[0] <= 0 or list(buckets) != sorted(set(buckets)):
            raise UsageError(f"{name}: {prefix}: buckets are positive numbers that rise")
    return FrozenDict(found)
