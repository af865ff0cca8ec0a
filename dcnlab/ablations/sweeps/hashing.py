"""Hashes of JSON-like values: names of trials and sweeps, and keys of runs that are the same."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(value: Any) -> str:
    """SHA-256 of a JSON-like value, in hexadecimal; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=list).encode()).hexdigest()
