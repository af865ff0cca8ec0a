"""Memory that this process has held; for a child that a test starts, with this folder in its path."""

import re
from pathlib import Path


def peak():
    """Most bytes that were resident, of this program alone: `getrusage` counts the process that forked it as well."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
