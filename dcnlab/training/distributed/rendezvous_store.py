"""The store on rank 0 in which the ranks of a run meet, before torch opens its own."""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any

POLL_SECONDS = 0.25
LISTEN_SECONDS = 30.0
"""For which rank 0 waits for the others, to tell them that a rank failed before all had met."""
FAILED = "dcnlab/failed"
"""Key of the failure of a rank."""
_CONNECT_SECONDS = 5.0
"""For one attempt to reach rank 0."""


class Rendezvous:
    """Whether the ranks of this process's run have met, or know already that they will not."""

    met = False
    failure_known = False


def open_store(port: int) -> Any:
    """Rank 0's store; torch's own store then shares its server, which listens at all addresses of this machine."""
    from torch.distributed import TCPStore

    return TCPStore("localhost", port, is_master=True, multi_tenant=True, **_options())


def connect(address: str, port: int) -> Any:
    """A connection to rank 0's store.

    Raises:
        OSError, RuntimeError: nothing answers there.
    """
    from torch.distributed import TCPStore

    with socket.create_connection((address, port), _CONNECT_SECONDS):
        pass  # first by a plain socket, because torch reports each failure at length
    return TCPStore(address, port, is_master=False, **_options())


def _options() -> dict[str, Any]:
    return {"wait_for_workers": False, "timeout": timedelta(seconds=_CONNECT_SECONDS)}
