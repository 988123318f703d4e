"""Private keys and tokens never leave."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.debug.redact import REDACTED, redact

KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "Secret", "data": {"tls.key": "c2VjcmV0"}, "stringData": {"p": "c2VjcmV0"}},
        {
            "kind": "Secret",
            "metadata": {
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "c2VjcmV0"}
            },
        },
        {"private_key": {"inline_bytes": "c2VjcmV0"}},
        {"privateKey": {"inlineString": "c2VjcmV0"}},
        {"session_ticket_keys": {"keys": [{"inline_bytes": "c2VjcmV0"}]}},
        {"generic_secret": {"secret": {"inline_string": "c2VjcmV0"}}},
        {"tracing": {"lightstep": {"accessToken": "c2VjcmV0"}}},
        {"headers": {"request": {"set": {"Authorization": "Bearer c2VjcmV0"}}}},
        {"request_headers_to_add": [{"header": {"key": "authorization", "value": "c2VjcmV0"}}]},
        {"headers": [{"name": "authorization", "string_match": {"exact": "c2VjcmV0"}}]},
        {"inlineCode": KEY.replace("MIIB", "c2VjcmV0")},
    ],
)
def test_secret_is_taken_out(data: dict[str, Any]) -> None:
    shown = str(redact(data))
    assert "c2VjcmV0" not in shown
    assert REDACTED in shown


@pytest.mark.parametrize(
    "data",
    [
        {"privateKey": "/etc/certs/key.pem"},
        {"private_key": {"filename": "/etc/certs/key.pem"}},
        {"certificate_chain": {"inline_bytes": "cHVibGlj"}},
        {"kind": "Service", "metadata": {"name": "authorization", "labels": {"app": "token"}}},
        {"name": "authorization", "ports": [{"name": "http"}]},
        {"headers": {"end-user": {"exact": "jason"}, "cookie": {"regex": "user=jason"}}},
    ],
)
def test_what_is_no_secret_stays(data: dict[str, Any]) -> None:
    assert redact(data) == data


def test_names_of_a_secrets_entries_stay() -> None:
    shown = redact({"kind": "Secret", "data": {"tls.crt": "x", "tls.key": "y"}})
    assert shown["data"] == {"tls.crt": REDACTED, "tls.key": REDACTED}
