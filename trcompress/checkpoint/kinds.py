"""LSTM, GRU or RNN: told by shapes where they tell, by names where they do not, by the user in any case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from trcompress.errors import InputFileError, UsageError, nearest
from trcompress.model.kinds import KINDS, kind_of_gates

_NAMED = re.compile("|".join(KINDS), re.IGNORECASE)

_WISHES: dict[str, tuple[str, str | None]] = {name: (name, None) for name in KINDS} | {
    mode.lower(): (name, nonlinearity)
    for name, kind in KINDS.items()
    for mode, nonlinearity in kind.modes.items()
    if kind.nonlinearities
}
"""What a user may call a kind: by its name, or by the `mode` of its torch.nn module where that says more."""


@dataclass(frozen=True)
class Decision:
    """What a layer is, and how that was decided, in one plain sentence."""

    kind: str
    hidden_size: int
    decided_by: str


@dataclass(frozen=True)
class KindRule:
    """The user's word: every stack that matches `glob` is of this kind, and of this nonlinearity."""

    glob: str
    kind: str
    nonlinearity: str | None = None

    def matches(self, stack: str) -> bool:
        """Return True where the rule is about this stack."""
        return fnmatchcase(stack, self.glob)


def parse_kinds(text: str | None) -> tuple[KindRule, ...]:
    """Read a `kind`: one kind for every stack, or `glob=kind` pairs joined by commas.

    Raises:
        UsageError: not one of lstm, gru, rnn, rnn_tanh, rnn_relu.

    Example:
        >>> parse_kinds("enc*=gru,dec=lstm")[0]
        KindRule(glob='enc*', kind='gru', nonlinearity=None)
        >>> parse_kinds("rnn_relu")[0].nonlinearity
        'relu'
    """
    rules = []
    for part in (text or "").split(",") if text is not None else ():
        glob, equals, kind = part.strip().rpartition("=")
        wish = _WISHES.get(kind.lower().replace("-", "_"))
        if wish is None:
            known = sorted(_WISHES)
            raise UsageError(
                f"`kind` must be one of {', '.join(known)}, or STACK=kind pairs: got {part!r}{nearest(kind, known)}"
            )
        rules.append(KindRule(glob if equals else "*", *wish))
    return tuple(rules)


def told_nonlinearity(stack: str, rules: Sequence[KindRule]) -> str | None:
    """Return the nonlinearity that the user named for a stack."""
    return next((rule.nonlinearity for rule in rules if rule.matches(stack)), None)


def decide(
    stack: str,
    rows: int,
    hidden_shape: tuple[int, ...] | None,
    proj_shape: tuple[int, ...] | None,
    *,
    rules: Sequence[KindRule] = (),
    hint: str | None = None,
) -> Decision | None:
    """Decide what one layer is.

    Args:
        stack: its module path; a word in it may help.
        rows: of weight_ih: gates times hidden size.
        hidden_shape: of weight_hh: (gates * hidden, hidden or projection); None where there is none.
        proj_shape: of weight_hr: (projection, hidden).
        rules: what the user said.
        hint: the class of the pickled module, where there was one.

    Returns:
        The decision, or None where the shapes are of no layer that PyTorch has (a cell of two gates, say).

    Raises:
        InputFileError: the user's word contradicts the shapes.
    """
    wish = next((rule.kind for rule in rules if rule.matches(stack)), None)
    if proj_shape is not None:
        decision = _by_hidden(rows, proj_shape[1], "weight_hr") if proj_shape[1] else None
    elif hidden_shape is not None:
        decision = _by_hidden(rows, hidden_shape[1], "weight_hh") if hidden_shape[1] else None
    else:
        return _without_hidden(stack, rows, wish, hint)
    if decision is not None and wish not in (None, decision.kind):
        raise InputFileError(
            f"`kind={wish}` contradicts the shapes of stack {stack!r}: {decision.decided_by}; "
            f"leave `kind` out, or name the stacks it is for (`kind=STACK={wish}`)"
        )
    return decision


def _by_hidden(rows: int, hidden: int, told_by: str) -> Decision | None:
    gates = rows // hidden
    found = kind_of_gates(gates)
    if rows % hidden or found is None:
        return None
    kind = found.name
    stacked = "one matrix" if gates == 1 else f"{gates} gates"
    return Decision(
        kind,
        hidden,
        f"{kind.upper()} by its shapes: {rows:,} rows over the {hidden:,} hidden units of {told_by} make {stacked}",
    )


def _without_hidden(stack: str, rows: int, wish: str | None, hint: str | None) -> Decision:
    """Only weight_ih is there: 4H rows may be one LSTM, or an RNN four times as wide."""
    possible = [kind for kind in KINDS if rows % KINDS[kind].gates == 0]
    named = _NAMED.findall(stack)
    if wish is not None:
        kind, why = wish, "`kind` says so"
    elif hint in possible:
        kind, why = str(hint), "the pickled module is of that class"
    elif named and named[-1].lower() in possible:
        kind, why = named[-1].lower(), f"the name {stack!r} says so"
    else:
        others = " or ".join(kind.upper() for kind in possible[1:])
        kind, why = (
            possible[0],
            f"{rows:,} rows could also be {others} and nothing tells" if others else "by its rows",
        )
    if kind not in possible:
        raise InputFileError(
            f"`kind={kind}` contradicts the shapes of stack {stack!r}: "
            f"its {rows:,} rows do not divide by {KINDS[kind].gates} gates"
        )
    hidden = rows // KINDS[kind].gates
    advice = "" if wish else "; `kind` overrides"
    sentence = f"{kind.upper()} of {hidden:,} units, though there is no weight_hh to tell by: {why}{advice}"
    return Decision(kind, hidden, sentence)
