"""Whether wandb's server can be reached is known soon, whatever keeps it from answering."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from dcnlab.training.loggers import wandb_start


class Refusing(BaseHTTPRequestHandler):
    """Answers with a refusal, which is an answer."""

    def do_GET(self):
        self.send_error(404)

    def log_message(self, *words):
        pass


@pytest.fixture
def reason(monkeypatch):
    """A function that gives the reason why the server at an address cannot be reached; a quarter second is waited."""
    monkeypatch.setattr(wandb_start, "SERVER_SECONDS", 0.25)

    def reason_of(address):
        settings = SimpleNamespace(settings=SimpleNamespace(base_url=address))
        monkeypatch.setattr("wandb.setup", lambda settings_given: settings)
        return wandb_start.unreachable()

    return reason_of


def test_a_server_that_does_not_answer_is_unreachable(reason):
    """A closed port, a server that takes the connection and is silent, and an unknown name give their reasons."""
    with socket.socket() as silent, socket.socket() as closed:
        for listener in (silent, closed):
            listener.bind(("127.0.0.1", 0))
        silent.listen()
        assert "timed out" in reason(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "refused" in reason(f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert "http://nowhere.invalid: " in reason("http://nowhere.invalid")


def test_a_server_that_refuses_is_reachable(reason):
    """A status of 404 is an answer."""
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert reason(f"http://127.0.0.1:{server.server_port}") is None
        server.shutdown()
