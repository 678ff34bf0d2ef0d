"""Does a Kafka answer? Asked in a few bytes, so that nobody needs an event loop to know."""

import socket
import struct
import time
from collections.abc import Callable

# a Metadata request of version 1 for no topics: api key 3, version 1, correlation id 1, client id, empty array
_BODY = struct.pack(">hhih", 3, 1, 1, len(b"tickwise")) + b"tickwise" + struct.pack(">i", 0)
_REQUEST = struct.pack(">i", len(_BODY)) + _BODY
_EVERY_S = 0.05


def brokers(address: str, timeout_s: float = 2.0) -> int:
    """Return how many brokers the cluster at ``address`` says it has; 0 when it does not answer.

    Args:
        address: Bootstrap servers, ``host:port``, comma separated; the first that answers counts.
        timeout_s: Bound for each of them.
    """
    return next((count for each in address.split(",") if (count := _ask(each.strip(), timeout_s))), 0)


def wait(address: str, timeout_s: float, *, alive: Callable[[], bool] = lambda: True) -> bool:
    """Return whether a Kafka answers at ``address`` within ``timeout_s``; give up early once ``alive`` says no."""
    end = time.monotonic() + timeout_s
    while alive() and (left := end - time.monotonic()) > 0:
        if brokers(address, min(2.0, left)):
            return True
        time.sleep(_EVERY_S)
    return False


def _ask(server: str, timeout_s: float) -> int:
    host, _, port = server.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s) as connection:
            connection.sendall(_REQUEST)
            head = b""
            while len(head) < 12:  # size, correlation id, number of brokers
                part = connection.recv(12 - len(head))
                if not part:
                    return 0
                head += part
    except (OSError, ValueError):  # nobody there, or no port number
        return 0
    _, correlation, count = struct.unpack(">iii", head)
    return int(count) if correlation == 1 and 0 < count < 1 << 16 else 0
