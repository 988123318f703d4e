"""Whether a pattern is one of RE2, as far as that can be told without RE2.

Knows patterns only, no fields. The rule that is easy to break: a pattern is never matched against
anything here, because Python's matching may take for ever where RE2's does not.
"""

from __future__ import annotations

import re
from typing import Final

_LONGEST: Final = 1024  # characters
_MOST_REPEATS: Final = 1000  # RE2 refuses more, one repetition inside of the other multiplied

# What RE2 does not have and Python's `re` has: looking around, references back, atoms.
_NOT_RE2: Final = re.compile(r"\(\?(<?[=!]|>|P=|\()|\\[1-9]|[*+?}]\+")
# What RE2 spells differently, or Python does not know.
_OTHER_CLASSES: Final = re.compile(r"\\[pP](\{[^}]*\}|\w)|\\C|\\Q.*?\\E|\[\[:\^?\w+:\]")
_SET: Final = re.compile(r"\\.|\[(\^?\]?(?:\\.|[^\]\\])*)\]", re.DOTALL)
_DOUBLED: Final = re.compile(r"([-&~|])(?=\1)")
_REPEAT: Final = re.compile(r"\{(?P<least>\d+)(?:,(?P<most>\d*))?\}|.", re.DOTALL)


def re2_problem(pattern: str) -> str:
    """Return why RE2 would refuse the pattern, as the end of a sentence; empty if it would not."""
    if len(pattern) > _LONGEST:
        return f"is longer than {_LONGEST} characters"
    outline = _outline(pattern)
    found = _NOT_RE2.search(outline)
    if found:
        return f"uses {found[0]!r}, which RE2 does not have"
    if "[" in outline:
        return "is not valid: a set of characters has no end"
    if _largest_repeat(outline) > _MOST_REPEATS:
        return f"repeats more than {_MOST_REPEATS} times, which RE2 does not"
    try:
        re.compile(_SET.sub(_plain_set, _OTHER_CLASSES.sub("a", pattern)))
    except (re.error, RecursionError, OverflowError) as problem:
        # What Python cannot read because RE2 spells it differently is let be.
        if "global flags" not in str(problem) and "bad escape \\z" not in str(problem):
            return f"is not valid: {problem}"
    return ""


def _outline(pattern: str) -> str:
    r"""Return the pattern without escaped backslashes, `\Q..\E` and sets of characters."""
    text = re.sub(r"\\\\|\\[pP]\{[^}]*\}", "a", pattern)
    text = re.sub(r"\\Q.*?(\\E|$)", "", text)
    return re.sub(r"(?<!\\)\[\^?\]?(\\.|[^\]\\])*\]", "a", re.sub(r"\\[^1-9]", "a", text))


def _plain_set(found: re.Match[str]) -> str:
    """Return a set of characters without what Python warns of: that it may mean more one day."""
    if found[1] is None:  # an escaped character outside of sets
        return found[0]
    inside = re.sub(r"(\\.)|\[", lambda part: part[1] or r"\[", found[1])
    return "[" + _DOUBLED.sub(r"\\\1", inside) + "]"


def _largest_repeat(outline: str) -> int:
    """Return how often counted repetitions, one inside of the other, repeat a part at most."""
    groups = [1]
    last = 1
    for part in _REPEAT.finditer(outline):
        if part[0] == "(":
            groups.append(1)
            continue
        if part[0] == ")" and len(groups) > 1:
            last = groups.pop()
        elif part["least"] is not None:
            last *= max(1, int(part["most"] or part["least"]))
        else:
            last = 1
        groups[-1] = max(groups[-1], last)
    return max(groups)
