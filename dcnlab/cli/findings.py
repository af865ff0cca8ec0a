"""Findings of `dcnlab doctor`: a mark and a text each."""

from __future__ import annotations

from collections.abc import Callable

OK, ABSENT, BROKEN = "ok", "--", "FAILED"

Findings = list[tuple[str, str]]


def attempt(what: str, check: Callable[[], str]) -> tuple[str, str]:
    """Run a check; an exception becomes a finding and does not end the command."""
    try:
        return OK, f"{what}: {check()}"
    except Exception as error:
        return BROKEN, f"{what}: {type(error).__name__}: {' '.join(str(error).split())}"
