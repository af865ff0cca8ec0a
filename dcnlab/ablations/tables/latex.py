"""Writes a table in LaTeX, with caption and label, for a paper; needs the package booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dcnlab.io.text import visible

_ESCAPES = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"±": r"$\pm$", "–": "--", "<": r"\textless{}", ">": r"\textgreater{}"},
}
_LEFT_OUT = ("seconds", "MACs (M)")
"""Columns of the machine, which papers do not print."""
_CONCLUSION = re.compile(r"^(\S+ \[[^]]*\]) (no conclusion|better|worse)$")
_SIGNED = re.compile(r"(?<![\w.])([+-])(\d+(?:[.,]\d+)*)")


def table(caption: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """One table environment.

    Differences are in math mode; a difference whose interval excludes zero is bold.

    Args:
        caption: of the table; its first words make the label.
        header: names of the columns.
        lines: cells of the rows.
    """
    kept = [at for at, name in enumerate(header) if name not in _LEFT_OUT]
    rows = [" & ".join(_cell(line[at]) for at in kept) + r" \\" for line in lines]
    words = re.findall(r"[a-z0-9]+", caption.partition(";")[0].lower())
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(caption) or 'Results'}.}}",
            rf"\label{{tab:{'-'.join(words[:6]) or 'results'}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(kept) - 1)}}}",
            r"\toprule",
            " & ".join(escaped(header[at].replace("_", " ")) for at in kept) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_ESCAPES.get(sign, sign) for sign in visible(text))


def _cell(text: str) -> str:
    match = _CONCLUSION.match(text)
    made = _SIGNED.sub(r"$\1\2$", escaped(match[1] if match else text))
    return rf"\textbf{{{made}}}" if match and match[2] != "no conclusion" else made
