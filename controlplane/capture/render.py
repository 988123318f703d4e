"""Rules as text for iptables-restore: from nothing, and from what is installed.

Owns: the input of `iptables-restore --noflush` for one family.
Must not know: settings, families, processes.
Easy to break: one COMMIT is one transaction of the kernel, so everything that changes in a table
stands in one section; a chain is emptied by naming it (`:CHAIN - [0:0]`) and refilled in the same
transaction, and no packet ever meets a half-filled chain.
"""

from collections.abc import Iterable, Mapping

from controlplane.capture.canonical import join_rule
from controlplane.capture.installed import Installed, OwnTable, wanted_tables
from controlplane.capture.rules import Rule, Table


def restore_text(rules: Iterable[Rule]) -> str:
    """Return the text that loads the rules into tables that hold none of them.

    Sections are in the order of `Table`; the result is empty when there are no rules.
    """
    listed = tuple(rules)
    lines: list[str] = []
    for table in Table:
        own = [rule for rule in listed if rule.table is table]
        if not own:
            continue
        lines.append(f"*{table.value}")
        wanted = wanted_tables(own, ())[table.value]
        lines += [f":{chain} - [0:0]" for chain in wanted.chains if chain.startswith("ISTIO_")]
        lines += [
            f"{f'-I {rule.chain} 1' if rule.first else f'-A {rule.chain}'} {join_rule(rule.args)}"
            for rule in own
        ]
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def transition_text(
    installed: Installed, wanted: Mapping[str, OwnTable], *, force: bool = False
) -> str:
    """Return the text that leads from what is installed to exactly what is wanted.

    Tables that already are as wanted do not appear (unless `force`), so nothing to do is an empty
    text. Rules of others keep their place; ours go to the end of a built-in chain or to its front.
    """
    names = [table.value for table in Table]
    names += sorted(set(installed.own) - set(names))
    lines: list[str] = []
    for name in names:
        before = installed.own.get(name, OwnTable())
        after = wanted.get(name, OwnTable())
        if not before.same_as(after) or (force and after.chains):
            lines += _section(name, before, after)
    return "".join(f"{line}\n" for line in lines)


def _section(name: str, before: OwnTable, after: OwnTable) -> list[str]:
    stale = [chain for chain in before.chains if chain not in after.chains]
    lines = [f"*{name}"]
    lines += [f":{chain} - [0:0]" for chain in after.chains]
    lines += [f"-D {hook.chain} {join_rule(hook.args)}" for hook in before.hooks]
    # Chains can only go when they are empty and no other one jumps to them.
    lines += [f"-F {chain}" for chain in stale]
    lines += [f"-X {chain}" for chain in stale]
    for chain, rules in after.chains.items():
        lines += [f"-A {chain} {join_rule(args)}" for args in rules]
    for hook in after.hooks:
        place = f"-A {hook.chain}" if hook.position is None else f"-I {hook.chain} {hook.position}"
        lines.append(f"{place} {join_rule(hook.args)}")
    lines.append("COMMIT")
    return lines
