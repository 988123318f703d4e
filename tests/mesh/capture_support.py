"""A pod and its neighbour as two network namespaces, and connections that tell where they arrived.

Every listener sends one word to whoever connects: `outbound` and `inbound` are the proxy's two
ports, `dns` the agent's, `application` any other port of the pod, `outside` the neighbour. So the
fate of a connection is the word it reads.

Sockets are made by threads that have entered a namespace and taken a user and group; a socket keeps
both for its whole life, and so no process has to be started for a connection.
"""

import contextlib
import ctypes
import itertools
import os
import select
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar

from controlplane.demo.namespaces import owned

PREFIX: Final = owned("cap-")

POD: Final = {4: "10.44.0.2", 6: "fd44::2"}
NEIGHBOUR: Final = {4: "10.44.0.1", 6: "fd44::1"}
VIRTUAL: Final = {4: "10.45.0.2", 6: "fd45::2"}
SERVERS: Final = {4: ("10.96.0.10", "10.96.0.11"), 6: ("fd96::10", "fd96::11")}
APPLICATION_PORTS: Final = (53, 80, 8080, 9080, 15008, 15020, 15090)

_CLONE_NEWNET: Final = 0x40000000
_IP_TRANSPARENT: Final = 19
_IPV6_TRANSPARENT: Final = 75
_SO_ORIGINAL_DST: Final = 80
_PATIENCE: Final = 2.0

Fate = Literal["outbound", "inbound", "dns", "application", "outside"]

_Result = TypeVar("_Result")


def unavailable() -> str:
    """Return why these tests cannot run here; empty when they can."""
    if os.geteuid() != 0:
        return "needs root"
    for program in ("ip", "iptables-restore", "ip6tables-restore", "nsenter"):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            return f"needs {program}"
    name = f"{PREFIX}probe"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return "network namespaces cannot be made here"
    probe = "*nat\n:T - [0:0]\n-A T -m owner --uid-owner 1 -j RETURN\n-A OUTPUT -j T\nCOMMIT\n"
    loaded = run_in(name, "iptables-restore", "--noflush", stdin=probe, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return "" if loaded.returncode == 0 else f"iptables does not work here: {loaded.stderr.strip()}"


def run_in(
    namespace: str, *command: str, stdin: str = "", check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a program in a namespace and return what it printed."""
    done = subprocess.run(
        ["nsenter", f"--net=/var/run/netns/{namespace}", "--", *command],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
        env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
    )
    if check:
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done


@contextlib.contextmanager
def namespace(name: str) -> Iterator[str]:
    """Make a namespace with the loopback interface up, and remove it in any case."""
    full = PREFIX + name
    subprocess.run(["ip", "netns", "add", full], check=True, capture_output=True)
    try:
        run_in(full, "ip", "link", "set", "lo", "up")
        yield full
    finally:
        subprocess.run(["ip", "netns", "del", full], check=False, capture_output=True)


def tables(name: str) -> dict[str, list[str]]:
    """Return what is in the tables: of iptables for both families, without comments and counters,
    and of nftables what iptables does not show."""
    found = {
        tool: [
            line.partition(" [")[0]
            for line in run_in(name, tool).stdout.splitlines()
            if not line.startswith("#")
        ]
        for tool in ("iptables-save", "ip6tables-save")
    }
    if shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
        listed = run_in(name, "nft", "--stateless", "list", "ruleset").stdout.split("\n}\n")
        found["nft"] = [table for table in listed if "istio-proxy-" in table]
    return found


def routing(name: str) -> list[str]:
    """Return rules, routes and loopback addresses of both families."""
    lines: list[str] = []
    for version in ("-4", "-6"):
        for what in (("rule",), ("route", "show", "table", "all"), ("addr", "show", "dev", "lo")):
            shown = run_in(name, "ip", version, *what, check=False).stdout
            lines += [line.strip() for line in shown.splitlines()]
    return sorted(lines)


class Visitor:
    """A thread inside a namespace, which makes sockets for the process."""

    def __init__(self, name: str) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(f"/var/run/netns/{name}", os.O_RDONLY)

        def enter() -> None:
            assert libc.setns(descriptor, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())

        self._libc = libc
        self._pool = ThreadPoolExecutor(max_workers=1, initializer=enter)
        self._pool.submit(lambda: None).result()
        os.close(descriptor)

    def socket(self, family: int, kind: int, *, uid: int = 0, gid: int = 0) -> socket.socket:
        """Return a socket of the namespace that belongs to the user and group."""

        def make() -> socket.socket:
            self._libc.setfsgid(gid)
            self._libc.setfsuid(uid)
            try:
                return socket.socket(family, kind)
            finally:
                self._libc.setfsuid(0)
                self._libc.setfsgid(0)

        return self.do(make)

    def do(self, task: Callable[[], _Result]) -> _Result:
        """Run something inside the namespace."""
        return self._pool.submit(task).result()

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()


@dataclass(repr=False)
class Pair:
    """A pod and its neighbour, with listeners everywhere."""

    pod: str
    neighbour: str
    inside: Visitor
    outside: Visitor
    listeners: dict[socket.socket, str] = field(default_factory=dict)
    # A datagram from a port of a moment ago would join that flow and share its fate, whoever sent
    # it; each query has a port that no other had while the kernel remembers.
    _source_ports: Iterator[int] = field(
        default_factory=lambda: itertools.cycle(range(20_000, 60_000))
    )

    def fate_of_call(
        self,
        destination: str,
        port: int,
        *,
        uid: int = 1000,
        gid: int = 1000,
        source: str = "",
    ) -> str:
        """Return where a TCP connection of a process in the pod arrives."""
        return self._tcp(self.inside, destination, port, uid=uid, gid=gid, source=source)

    def fate_of_arrival(self, destination: str, port: int) -> str:
        """Return where a TCP connection of the neighbour to the pod arrives."""
        return self._tcp(self.outside, destination, port, uid=1000, gid=1000, source="")

    def fate_of_query(
        self, server: str, *, uid: int = 1000, gid: int = 1000, source_port: int = 0
    ) -> str:
        """Return who answers a UDP datagram of a process in the pod to port 53."""
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with self.inside.socket(family, socket.SOCK_DGRAM, uid=uid, gid=gid) as client:
            client.settimeout(_PATIENCE)
            client.bind(("", source_port or next(self._source_ports)))
            client.connect((server, 53))
            client.send(b"?")
            return client.recv(64).decode()

    def _tcp(
        self, visitor: Visitor, destination: str, port: int, *, uid: int, gid: int, source: str
    ) -> str:
        family = socket.AF_INET6 if ":" in destination else socket.AF_INET
        with visitor.socket(family, socket.SOCK_STREAM, uid=uid, gid=gid) as client:
            client.settimeout(_PATIENCE)
            if source:
                client.bind((source, 0))
            try:
                client.connect((destination, port))
                word, _, original = client.recv(256).decode().partition(" ")
            except OSError as error:
                return f"failed: {error}"
        if word in ("outbound", "inbound"):
            # A proxy that cannot tell where a connection was going is of no use.
            assert original == f"{destination} {port}", f"the proxy was told {original}"
        return word

    def close(self) -> None:
        """Close every listener."""
        for listener in self.listeners:
            listener.close()

    def serve(self) -> None:
        """Answer connections until a listener is closed."""
        while True:
            ready, _, _ = select.select(list(self.listeners), [], [])
            for listener in ready:
                word = self.listeners[listener]
                if word == "stop":
                    return
                if listener.type == socket.SOCK_DGRAM:
                    _, client = listener.recvfrom(64)
                    listener.sendto(word.encode(), client)
                else:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(f"{word} {_destination(connection)}".encode())


def _destination(connection: socket.socket) -> str:
    if connection.family == socket.AF_INET:
        with contextlib.suppress(OSError):
            raw = connection.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
            return f"{socket.inet_ntop(socket.AF_INET, raw[4:8])} {_port(raw)}"
    else:
        with contextlib.suppress(OSError):
            raw = connection.getsockopt(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, 28)
            return f"{socket.inet_ntop(socket.AF_INET6, raw[8:24])} {_port(raw)}"
    # Nothing was translated, as with TPROXY: the local address is the destination.
    address = connection.getsockname()
    return f"{address[0]} {address[1]}"


def _port(raw: bytes) -> int:
    return int(struct.unpack("!H", raw[2:4])[0])


@contextlib.contextmanager
def pair() -> Iterator[Pair]:
    """Make both namespaces, connect them, start the listeners, and remove everything after."""
    with namespace("pod") as pod, namespace("out") as neighbour, contextlib.ExitStack() as stack:
        _connect(pod, neighbour)
        inside, outside = Visitor(pod), Visitor(neighbour)
        stack.callback(inside.close)
        stack.callback(outside.close)
        made = Pair(pod, neighbour, inside, outside)
        stack.callback(made.close)
        for family in (socket.AF_INET, socket.AF_INET6):
            _listen(made, inside, family)
            _listen_outside(made, outside, family)
        stop, stopper = socket.socketpair()
        made.listeners[stop] = "stop"
        thread = threading.Thread(target=made.serve, daemon=True)
        thread.start()
        try:
            yield made
        finally:
            stopper.close()
            thread.join(timeout=5)


def _connect(pod: str, neighbour: str) -> None:
    links = (("eth0", "10.44.0", "fd44"), ("eth1", "10.45.0", "fd45"))
    for name, net, net6 in links:
        command = f"ip link add {name} type veth peer name {name} netns /var/run/netns/{neighbour}"
        run_in(pod, *command.split())
        for where, host in ((pod, "2"), (neighbour, "1")):
            run_in(where, *f"ip addr add {net}.{host}/24 dev {name}".split())
            run_in(where, *f"ip -6 addr add {net6}::{host}/64 dev {name} nodad".split())
            run_in(where, *f"ip link set {name} up".split())
    run_in(pod, *f"ip route add default via {NEIGHBOUR[4]}".split())
    run_in(pod, *f"ip -6 route add default via {NEIGHBOUR[6]}".split())
    # Every address is the neighbour's, so that it plays the whole rest of the world.
    for version in ("-4", "-6"):
        run_in(neighbour, *f"ip {version} route add local default dev lo table 100".split())
        for name, _, _ in links:
            run_in(neighbour, *f"ip {version} rule add iif {name} lookup 100".split())
    for server in (*SERVERS[4], *SERVERS[6]):
        length = "128 dev lo nodad" if ":" in server else "32 dev lo"
        run_in(neighbour, *f"ip addr add {server}/{length}".split())
    redirect = (
        "*nat\n-A PREROUTING -p tcp -j REDIRECT --to-ports 7777\n"
        "-A OUTPUT -o lo -j RETURN\nCOMMIT\n"
    )
    run_in(neighbour, "iptables-restore", "--noflush", stdin=redirect)
    run_in(neighbour, "ip6tables-restore", "--noflush", stdin=redirect)


def _listen(made: Pair, visitor: Visitor, family: int) -> None:
    words: dict[int, Fate] = {15001: "outbound", 15006: "inbound", 15053: "dns"}
    words |= dict.fromkeys(APPLICATION_PORTS, "application")
    for port, word in words.items():
        owner = 0 if word == "application" else 1337
        listener = visitor.socket(family, socket.SOCK_STREAM, uid=owner, gid=owner)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if word == "inbound":
            if family == socket.AF_INET:
                listener.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
            else:
                listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        listener.bind(("", port))
        listener.listen(64)
        made.listeners[listener] = word
    agent = visitor.socket(family, socket.SOCK_DGRAM, uid=1337, gid=1337)
    if family == socket.AF_INET6:
        agent.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    # The redirection leads to the loopback address, and the answer must come from there.
    agent.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 15053))
    made.listeners[agent] = "dns"


def _listen_outside(made: Pair, visitor: Visitor, family: int) -> None:
    listener = visitor.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind(("", 7777))
    listener.listen(64)
    made.listeners[listener] = "outside"
    # One socket for each server: the answer must come from the address that was asked.
    for server in SERVERS[4 if family == socket.AF_INET else 6]:
        server_socket = visitor.socket(family, socket.SOCK_DGRAM)
        server_socket.bind((server, 53))
        made.listeners[server_socket] = "outside"
