"""Which cluster is meant, and with which credentials."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from controlplane.errors import UsageError
from controlplane.kubernetes.access import NoClusterError, PodAccess, find_access, is_loopback
from controlplane.kubernetes.client import Client
from controlplane.kubernetes.errors import UnavailableError
from tests.kubernetes.certificates import Certificates
from tests.unit.kubernetes.fake_server import serving


def write(path: Path, **changes: Any) -> Path:
    """A kubeconfig of one context `here` with the user `me`."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "me"}},
            {"name": "there", "context": {"cluster": "d", "user": "me"}},
        ],
        "clusters": [
            {"name": "c", "cluster": {"server": "http://127.0.0.1:1"}},
            {"name": "d", "cluster": {"server": "http://127.0.0.1:2/"}},
        ],
        "users": [{"name": "me", "user": {"token": "secret"}}],
    } | changes
    path.write_text(yaml.safe_dump(config))
    return path


async def test_a_named_kubeconfig_and_a_context_are_used(tmp_path: Path) -> None:
    file = write(tmp_path / "config")
    access = await find_access(file, environ={})
    assert (access.server, await access.authorization()) == ("http://127.0.0.1:1", "Bearer secret")
    assert (await find_access(file, "there", environ={})).server == "http://127.0.0.1:2"


async def test_the_usual_places_are_looked_at_in_their_order(tmp_path: Path) -> None:
    usual = tmp_path / ".kube"
    usual.mkdir()
    write(usual / "config")
    other = write(tmp_path / "other", **{"current-context": "there"})
    home = {"HOME": str(tmp_path)}
    assert (await find_access(environ=home)).server == "http://127.0.0.1:1"
    environ = home | {"KUBECONFIG": f"{tmp_path / 'missing'}:{other}"}
    assert (await find_access(environ=environ)).server == "http://127.0.0.1:2"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty|the form of a kubeconfig"),
        ("[1, 2]", "the form of a kubeconfig"),
        ("words", "the form of a kubeconfig"),
        ("a: [", "kubeconfig"),
        ("kind: Config\n", "current-context"),
        ("\x00", "kubeconfig"),
    ],
)
async def test_a_broken_kubeconfig_is_a_usage_error(
    tmp_path: Path, content: str, says: str
) -> None:
    file = tmp_path / "config"
    file.write_text(content)
    with pytest.raises(UsageError, match=says) as caught:
        await find_access(file, environ={})
    assert str(file) in str(caught.value)


async def test_a_user_without_a_home_has_no_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose user has no name."""
    (tmp_path / ".kube").mkdir()
    write(tmp_path / ".kube" / "config")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(NoClusterError, match="no cluster is known"):
        await find_access(environ={})


async def test_what_is_missing_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "config")
    with pytest.raises(UsageError, match="nowhere"):
        await find_access(file, "nowhere", environ={})
    with pytest.raises(UsageError, match="there is no file"):
        await find_access(tmp_path / "missing", environ={})
    with pytest.raises(UsageError, match="KUBECONFIG: there is no file"):
        await find_access(environ={"KUBECONFIG": "/missing"})
    with pytest.raises(UsageError, match="no cluster is known"):
        await find_access(environ={"HOME": str(tmp_path / "nobody")})
    bad = write(tmp_path / "bad", clusters=[{"name": "c", "cluster": {"server": "ftp://x"}}])
    with pytest.raises(UsageError, match="no URL of HTTP"):
        await find_access(bad, environ={})
    cert = {"certificate-authority": "missing.crt", "server": "https://x"}
    bad = write(tmp_path / "worse", clusters=[{"name": "c", "cluster": cert}])
    with pytest.raises(UsageError, match=r"missing\.crt"):
        await find_access(bad, environ={})


async def test_a_token_file_is_read_again_when_its_token_was_refused(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one")
    file = write(tmp_path / "config", users=[{"name": "me", "user": {"tokenFile": str(token)}}])
    access = await find_access(file, environ={})
    token.write_text("two")
    assert await access.authorization() == "Bearer one"
    assert await access.authorization(renew=True) == "Bearer two"
    token.unlink()
    with pytest.raises(UnavailableError, match="no credentials now"):
        await access.authorization(renew=True)


async def test_a_plugin_is_run_for_its_token(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    version = "client.authentication.k8s.io/v1"
    plugin.write_text(
        f'#!/bin/sh\necho \'{{"apiVersion":"{version}","kind":"ExecCredential",'
        '"status":{"token":"of-a-plugin"}}\'\n'
    )
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    runs = {"exec": {"command": str(plugin), "apiVersion": version}}
    file = write(tmp_path / "config", users=[{"name": "me", "user": runs}])
    assert await (await find_access(file, environ={})).authorization() == "Bearer of-a-plugin"
    plugin.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(UsageError, match="process returned 3"):
        await find_access(file, environ={})


async def test_a_pod_uses_its_account_and_reads_the_token_again(tmp_path: Path) -> None:
    authority = Certificates(tmp_path).authority
    authority.rename(tmp_path / "ca.crt")
    token = tmp_path / "token"
    token.write_text("one\n")
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    found = await find_access(environ=environ | {"HOME": "/nobody"}, account=tmp_path)
    assert (found.server, await found.authorization()) == ("https://[fd00::1]:443", "Bearer one")

    now = 0.0
    access = PodAccess(environ, account=tmp_path, clock=lambda: now)
    assert await access.authorization() == "Bearer one"
    token.write_text("two")
    now = 59.0
    assert await access.authorization() == "Bearer one"
    now = 60.0
    assert await access.authorization() == "Bearer two"
    token.unlink()
    with pytest.raises(UnavailableError, match="cannot be read"):
        await access.authorization(renew=True)
    with pytest.raises(UsageError, match="service account"):
        PodAccess(environ, account=tmp_path)


async def test_a_pod_trusts_the_authority_that_its_files_hold_now(tmp_path: Path) -> None:
    def directory(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    old, new = Certificates(directory("old")), Certificates(directory("new"))
    account = directory("account")
    authorities, now = account / "ca.crt", 0.0
    (account / "token").write_text("token")
    authorities.write_bytes(old.authority.read_bytes())
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*old.server("before", "127.0.0.1"))

    async def answer(_: web.Request) -> web.Response:
        return web.Response(headers={"Connection": "close"})

    async with serving(answer, tls=tls) as url:
        environ = {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": url.rpartition(":")[2],
        }
        access = PodAccess(environ, account=account, clock=lambda: now)
        async with Client(access) as client:
            await client.request("GET", "/api")
            tls.load_cert_chain(*new.server("after", "127.0.0.1"))
            for spoilt in (b"", b"no certificate", None):
                authorities.unlink() if spoilt is None else authorities.write_bytes(spoilt)
                now += 60.0
                with pytest.raises(UnavailableError, match="certificate is not accepted"):
                    await client.request("GET", "/api")
            authorities.write_bytes(new.authority.read_bytes())
            now += 60.0
            await client.request("GET", "/api")


def test_loopback_servers_need_no_proxy() -> None:
    assert is_loopback("https://127.0.0.1:6443")
    assert is_loopback("http://localhost:8001")
    assert is_loopback("https://[::1]:1")
    assert not is_loopback("https://10.0.0.1:6443")
    assert not is_loopback("https://kubernetes.default")
