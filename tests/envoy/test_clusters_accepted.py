"""A real Envoy takes every golden cluster and load assignment."""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

GOLDEN = Path(__file__).parents[1] / "golden"
# These are for a proxy that has Istio's own extensions, which a stock Envoy has not.
FOR_ISTIO_PROXY = {"metadata_exchange"}

pytestmark = pytest.mark.envoy


def _features(folder: str) -> list[str]:
    found = sorted(path.name.partition(".")[0] for path in (GOLDEN / folder).glob("*.out.yaml"))
    return [feature for feature in found if feature not in FOR_ISTIO_PROXY]


def _resources(folder: str, feature: str, kind: str) -> list[dict[str, Any]]:
    content = yaml.safe_load((GOLDEN / folder / f"{feature}.out.yaml").read_text())
    found: list[dict[str, Any]] = content.get(kind, [])
    return found


def _local(name: str) -> dict[str, Any]:
    """A cluster that the clusters under test refer to."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 9}}
    return {
        "name": name,
        "type": "STATIC",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/"
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def _bootstrap(clusters: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "node": {"id": "sidecar~127.0.0.1~test.default~default.svc.cluster.local", "cluster": "t"},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
            }
        },
        "static_resources": {"clusters": [_local("xds-grpc"), _local("sds-grpc"), *clusters]},
    }


def _validate(bootstrap: dict[str, Any], directory: Path) -> subprocess.CompletedProcess[str]:
    beside = Path(sys.executable).with_name("envoy")
    program = str(beside) if beside.exists() else shutil.which("envoy")
    assert program is not None
    file = directory / "bootstrap.json"
    file.write_text(json.dumps(bootstrap))
    return subprocess.run(
        [program, "--mode", "validate", "-c", str(file), "-l", "error"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Real files in the place of those that the golden clusters name."""
    directory = tmp_path_factory.mktemp("certificates")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem, private = directory / "certificate.pem", directory / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return {
        "/etc/certs/client.pem": str(pem),
        "/etc/certs/client.key": str(private),
        "/etc/certs/ca.pem": str(pem),
        "/etc/ssl/certs/ca-certificates.crt": str(pem),
    }


def _with_files(value: Any, files: dict[str, str]) -> Any:
    match value:
        case {"filename": str(name)} if name in files:
            return {**value, "filename": files[name]}
        case dict():
            return {key: _with_files(entry, files) for key, entry in value.items()}
        case list():
            return [_with_files(entry, files) for entry in value]
        case _:
            return value


@pytest.mark.parametrize("feature", _features("clusters"))
def test_a_stock_envoy_takes_the_clusters(
    feature: str, tmp_path: Path, certificates: dict[str, str]
) -> None:
    clusters = _resources("clusters", feature, "clusters")
    assert clusters
    done = _validate(_bootstrap(_with_files(clusters, certificates)), tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("feature", _features("endpoints"))
def test_a_stock_envoy_takes_the_load_assignments(feature: str, tmp_path: Path) -> None:
    clusters = [
        {
            "name": assignment["cluster_name"],
            "type": "STATIC",
            "lb_policy": "LEAST_REQUEST",
            "common_lb_config": {"locality_weighted_lb_config": {}},
            "load_assignment": assignment,
        }
        for assignment in _resources("endpoints", feature, "endpoints")
    ]
    assert clusters
    done = _validate(_bootstrap(clusters), tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_wrong_cluster_is_not_taken(tmp_path: Path) -> None:
    wrong = {"name": "wrong", "type": "LOGICAL_DNS", "load_assignment": {"cluster_name": "wrong"}}
    done = _validate(_bootstrap([wrong]), tmp_path)
    assert done.returncode != 0
