"""Filters, access logs and the settings of connection managers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controlplane.model.base import NO_LABELS
from controlplane.model.mesh import MeshConfig, PathNormalization
from controlplane.model.proxy import ProxyType
from controlplane.model.services import Protocol
from controlplane.translate import envoy
from controlplane.translate.access_log import (
    DEFAULT_JSON,
    DEFAULT_TEXT,
    access_log_problems,
    access_log_settings,
    access_logs,
    listener_access_logs,
)
from controlplane.translate.filters import Direction, not_on_ports, on_ports
from controlplane.translate.http_connection_manager import http_connection_manager
from controlplane.translate.inbound_chains import (
    ChainMatch,
    http_inspection,
    tls_inspection,
)
from controlplane.translate.listener_settings import listener_settings
from controlplane.translate.scope import OutboundClass

CLASS = OutboundClass(
    type=ProxyType.SIDECAR,
    namespace="default",
    dns_domain="default.svc.cluster.local",
    labels=NO_LABELS,
)


def manager(mesh: MeshConfig, cls: OutboundClass = CLASS) -> Any:
    made = http_connection_manager(
        listener_settings(mesh, cls),
        Direction.SIDECAR_OUTBOUND,
        stat_prefix="test;",
        protocol=Protocol.HTTP,
        route="80",
    )
    return envoy.HttpConnectionManager.FromString(made.typed_config.value)


def file_log(mesh: MeshConfig) -> Any:
    (log,) = access_logs(access_log_settings(mesh))
    return envoy.FileAccessLog.FromString(log.typed_config.value)


@pytest.mark.parametrize(
    ("normalization", "normalize", "merge", "action"),
    [
        ("DEFAULT", True, False, "KEEP_UNCHANGED"),
        ("NONE", False, False, "KEEP_UNCHANGED"),
        ("BASE", True, False, "KEEP_UNCHANGED"),
        ("MERGE_SLASHES", True, True, "KEEP_UNCHANGED"),
        ("DECODE_AND_MERGE_SLASHES", True, True, "UNESCAPE_AND_FORWARD"),
    ],
)
def test_paths_are_normalized_as_the_mesh_says(
    normalization: Any, normalize: bool, merge: bool, action: str
) -> None:
    made = manager(MeshConfig(path_normalization=PathNormalization(normalization=normalization)))
    assert made.HasField("normalize_path")
    assert made.normalize_path.value is normalize
    assert made.merge_slashes is merge
    names = envoy.HttpConnectionManager.PathWithEscapedSlashesAction
    assert names.Name(made.path_with_escaped_slashes_action) == action


def test_idle_timeout_and_http10_come_from_the_proxy() -> None:
    cls = msgspec.structs.replace(CLASS, idle_timeout="1m30s", http10=True)
    made = manager(MeshConfig(), cls)
    assert made.common_http_protocol_options.idle_timeout.seconds == 90
    assert made.http_protocol_options.accept_http_10
    plain = manager(MeshConfig(), msgspec.structs.replace(CLASS, idle_timeout="soon"))
    assert not plain.HasField("common_http_protocol_options")
    assert not plain.HasField("http_protocol_options")


def test_no_access_log_without_a_file() -> None:
    settings = access_log_settings(MeshConfig(access_log_format="%PROTOCOL%"))
    assert access_logs(settings) == []
    assert listener_access_logs(settings) == []


def test_a_text_format_ends_in_a_newline() -> None:
    assert DEFAULT_TEXT.endswith("\n")
    log = file_log(MeshConfig(access_log_file="/log", access_log_format="%PROTOCOL%"))
    assert log.path == "/log"
    assert log.log_format.text_format_source.inline_string == "%PROTOCOL%\n"


def test_a_format_without_the_query_brings_its_formatter() -> None:
    text = "%REQ_WITHOUT_QUERY(:PATH)%"
    log = file_log(MeshConfig(access_log_file="/log", access_log_format=text))
    names = [formatter.name for formatter in log.log_format.formatters]
    assert names == ["envoy.formatter.req_without_query"]


def test_a_json_format_of_the_user_replaces_the_default() -> None:
    mesh = MeshConfig(
        access_log_file="/log", access_log_encoding="JSON", access_log_format='{"p": "%PROTOCOL%"}'
    )
    assert dict(file_log(mesh).log_format.json_format) == {"p": "%PROTOCOL%"}
    assert access_log_problems(mesh) == ()


def test_a_broken_json_format_gives_the_default_and_a_diagnostic() -> None:
    mesh = MeshConfig(
        access_log_file="/log", access_log_encoding="JSON", access_log_format="%PROTOCOL%"
    )
    assert dict(file_log(mesh).log_format.json_format) == dict(DEFAULT_JSON)
    (problem,) = access_log_problems(mesh)
    assert problem.field == "accessLogFormat"


def test_listener_logs_can_be_switched_off() -> None:
    mesh = MeshConfig(access_log_file="/log", disable_envoy_listener_log=True)
    settings = access_log_settings(mesh)
    assert len(access_logs(settings)) == 1
    assert listener_access_logs(settings) == []


def test_a_predicate_of_one_port_is_no_set() -> None:
    assert on_ports([80]).destination_port_range.end == 81
    rules = on_ports([90, 80]).or_match.rules
    assert [rule.destination_port_range.start for rule in rules] == [80, 90]
    assert not_on_ports([80]).not_match.destination_port_range.start == 80


PLAIN = ChainMatch("raw_buffer", (), http=False)
TLS = ChainMatch("tls", (), http=False)
SNIFFED = ChainMatch("raw_buffer", ("http/1.1", "h2c"), http=True)


def test_tls_is_looked_for_everywhere_but_on_plaintext_ports() -> None:
    found = tls_inspection([(0, PLAIN), (0, TLS), (80, PLAIN), (90, PLAIN), (90, TLS)])
    assert (found.needed, found.ports, found.only) == (True, (80,), False)


def test_tls_is_looked_for_on_named_ports_when_unknown_ports_are_plaintext() -> None:
    found = tls_inspection([(0, PLAIN), (80, PLAIN), (90, TLS)])
    assert (found.needed, found.ports, found.only) == (True, (90,), True)
    assert not tls_inspection([(0, PLAIN), (80, PLAIN)]).needed


def test_http_is_looked_for_where_it_is_not_declared() -> None:
    found = http_inspection([(0, SNIFFED), (0, PLAIN), (80, PLAIN), (90, SNIFFED)])
    assert (found.needed, found.ports, found.only) == (True, (80,), False)
