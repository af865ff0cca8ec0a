"""A free port for the ranks of a test to meet at."""

import random
import socket


def free_port():
    """A port that nobody listens at, below those that the kernel gives to outgoing connections."""
    numbers = random.SystemRandom()
    while True:
        port = numbers.randrange(10_000, 32_000)
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
