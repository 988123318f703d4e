"""Loading rules into the kernel, replacing them and taking them away.

Owns: the order of the steps, and going back when one of them fails.
Must not know: flags, the text of rules, which programs do the work.
Easy to break: everything is compared with what is installed first, so that a second run of the same
settings changes nothing; and both families are checked before the first is touched.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping

import msgspec

from controlplane.capture.config import CaptureSettings
from controlplane.capture.errors import CaptureError
from controlplane.capture.installed import (
    LO_ADDRESS,
    NEW_TABLE,
    Installed,
    OwnTable,
    read_tables,
    wanted_tables,
)
from controlplane.capture.nftables import is_current, native_text, record_text, removing_text
from controlplane.capture.render import transition_text
from controlplane.capture.routes import Routes, Step, read_routes, route_steps, wanted_routes
from controlplane.capture.rules import Family, Table, capture_rules
from controlplane.capture.shell import Host

Wanted = Mapping[str, OwnTable]


class Outcome(msgspec.Struct, frozen=True):
    """What a run did: whether anything changed, and the text loaded for each family."""

    changed: bool
    texts: dict[Family, str]


def apply(
    settings: CaptureSettings, host: Host, *, force: bool = False, native: bool = False
) -> Outcome:
    """Make the tables and routes of the namespace hold exactly the rules of the settings.

    Whatever an earlier run left is replaced; nothing is touched when it is already right, unless
    `force`. `native` makes tables of nftables instead of rules of iptables, and takes those away.
    Raises CaptureError, and then everything is as before.
    """
    with host.locked():
        state = _read(host, needs=() if native else _families(settings))
        routes = wanted_routes(settings)
        if native:
            text = _native(settings, state)
            if not force and is_current(text, state.native):
                load = ""
            else:
                load = removing_text(state.native) + text
            nothing: dict[Family, Wanted] = {family: {} for family in state.tables}
            outcome = _change(host, state, nothing, routes, native=load)
            if load:
                _record(host, text)
            return outcome
        wanted = {family: _wanted(settings, family, state) for family in state.tables}
        text = removing_text(state.native)
        return _change(host, state, wanted, routes, native=text, force=force)


def clean(host: Host) -> Outcome:
    """Take away every rule, route and address that `apply` made, whatever its settings were.

    Raises CaptureError, and then everything is as before.
    """
    with host.locked():
        state = _read_for_cleaning(host)
        nothing: dict[Family, Wanted] = {family: {} for family in state.tables}
        return _change(host, state, nothing, Routes(), native=removing_text(state.native))


def cleaning_texts(host: Host) -> tuple[dict[Family, str], str]:
    """Return what `clean` would load, for iptables and for nft, without changing anything."""
    with host.locked():
        state = _read_for_cleaning(host)
        texts = {family: transition_text(tables, {}) for family, tables in state.tables.items()}
        return texts, removing_text(state.native)


class _State(msgspec.Struct, frozen=True):
    tables: dict[Family, Installed]
    native: str
    routes: Routes

    @property
    def address_is_ours(self) -> bool:
        ipv6 = self.tables.get(Family.IPV6, Installed())
        return ipv6.has_marker(Table.NAT, LO_ADDRESS) or LO_ADDRESS in self.native


def _families(settings: CaptureSettings) -> tuple[Family, ...]:
    return (Family.IPV4, Family.IPV6) if settings.ipv6 else (Family.IPV4,)


def _read(host: Host, *, needs: Collection[Family]) -> _State:
    """The state; the iptables of families that are not needed may be absent."""
    tables: dict[Family, Installed] = {}
    for family in Family:
        try:
            tables[family] = read_tables(host.save(family))
        except CaptureError:
            # Without its program there can be no rule of ours in a family.
            if family in needs:
                raise
    return _State(tables, host.native_tables(), read_routes(host))


def _read_for_cleaning(host: Host) -> _State:
    # Where native tables are, iptables need not be installed.
    return _read(host, needs=() if host.native_tables() else (Family.IPV4,))


def _native(settings: CaptureSettings, state: _State) -> str:
    rules = {family: capture_rules(settings, family) for family in Family}
    return native_text(rules, marked=state.address_is_ours or not state.routes.address)


def _wanted(settings: CaptureSettings, family: Family, state: _State) -> Wanted:
    installed = state.tables[family]
    rules = capture_rules(settings, family)
    markers = [
        (table, NEW_TABLE)
        for table in dict.fromkeys(rule.table for rule in rules)
        if table.value not in installed.tables or installed.has_marker(table, NEW_TABLE)
    ]
    if family is Family.IPV6 and rules and (state.address_is_ours or not state.routes.address):
        markers.append((Table.NAT, LO_ADDRESS))
    return wanted_tables(rules, markers)


def _change(
    host: Host,
    state: _State,
    wanted: Mapping[Family, Wanted],
    routes: Routes,
    *,
    native: str,
    force: bool = False,
) -> Outcome:
    texts = {
        family: transition_text(installed, wanted[family], force=force)
        for family, installed in state.tables.items()
    }
    steps = route_steps(state.routes, routes, address_is_ours=state.address_is_ours)
    pending = {family: text for family, text in texts.items() if text}
    for family, text in pending.items():
        host.restore(family, text, test=True)
    if native:
        host.load_native(native, test=True)
    with _undone_on_failure(host) as done, _restored_on_failure(host, state, pending):
        for step in steps:
            host.ip(step.family, *step.do)
            done.append(step)
        for family, text in pending.items():
            host.restore(family, text)
        if native:
            # The last step, and one transaction: it leaves nothing to be undone.
            host.load_native(native)
    for family in pending:
        _drop_tables_we_made(host, family, state.tables[family], wanted[family])
    return Outcome(bool(pending or steps or native), texts)


def _record(host: Host, text: str) -> None:
    # Without the record the next run loads the same again, which does no harm.
    with contextlib.suppress(CaptureError):
        host.load_native(record_text(text, host.native_tables()))


@contextlib.contextmanager
def _undone_on_failure(host: Host) -> Iterator[list[Step]]:
    done: list[Step] = []
    try:
        yield done
    except CaptureError:
        for step in reversed(done):
            with contextlib.suppress(CaptureError):
                host.ip(step.family, *step.undo)
        raise


@contextlib.contextmanager
def _restored_on_failure(
    host: Host, state: _State, pending: Mapping[Family, str]
) -> Iterator[None]:
    try:
        yield
    except CaptureError as error:
        for family in pending:
            try:
                _put_back(host, family, state.tables[family])
            except CaptureError as second:
                raise CaptureError(
                    f"{error}; the rules of before could not be put back: {second}"
                ) from error
        raise CaptureError(f"{error}; nothing was changed") from error


def _put_back(host: Host, family: Family, before: Installed) -> None:
    now = read_tables(host.save(family))
    text = transition_text(now, before.own)
    if text:
        host.restore(family, text)
        _drop_tables_we_made(host, family, now, before.own)


def _drop_tables_we_made(host: Host, family: Family, before: Installed, after: Wanted) -> None:
    # The nf_tables variant shows a table from its first use on; one that only we used must not
    # be left, or the tables would not be as before.
    gone = [
        table
        for table in before.own
        if table not in after and NEW_TABLE in before.own[table].chains
    ]
    if not gone:
        return
    bare = read_tables(host.save(family)).bare
    for table in gone:
        if table in bare:
            host.delete_table(family, table)
