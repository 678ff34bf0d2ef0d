"""A websocket that is connected again and again, until its task is cancelled."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp
import structlog

from data_io.feeds.limits import Limits
from data_io.feeds.port import ConnectionUselessError

log = structlog.get_logger()

_LARGEST_MESSAGE = 4 << 20
_SHOWN = 200  # characters of what a venue says
_ENDS = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)

Sleep = Callable[[float], Awaitable[None]]


class Listener(Protocol):
    """Who hears what comes."""

    def connected(self) -> None:
        """Called once a connection stands, before its first message."""
        ...

    async def received(self, payload: bytes) -> None:
        """Called with each message; nothing more is read until it returns.

        Raises:
            ConnectionUselessError: Another connection is to be tried.
            TickwiseError: The feed is at its end.
        """
        ...

    def lost(self, reason: str) -> None:
        """Called when a connection has ended, or an attempt has failed."""
        ...


class Session:
    """The connection to one URL."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: str,
        hello: bytes | None,
        limits: Limits,
        *,
        silence_s: float,
        sleep: Sleep = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """Connect to ``url`` and send ``hello``; a connection that is silent for ``silence_s`` is dead."""
        self._http, self._url, self._hello, self._limits, self._silence_s = http, url, hello, limits, silence_s
        self._sleep, self._monotonic, self._rng = sleep, monotonic, rng or random.Random()  # noqa: S311  # jitter

    async def run(self, listener: Listener) -> None:
        """Tell ``listener`` what comes, for ever; raises what it raises."""
        failures = 0
        while True:
            started_s = self._monotonic()
            reason = await self._connection(listener)
            listener.lost(reason)
            if self._monotonic() - started_s >= self._limits.stable_s:
                failures = 0
            pause_s = backoff(failures, self._limits.first_pause_s, self._limits.longest_pause_s, self._rng)
            failures += 1
            said = {"reason": reason, "pause_s": round(pause_s, 3)}
            log.warning("connection lost", action="feed", url=shown(self._url), **said)
            await self._sleep(pause_s)

    async def _connection(self, listener: Listener) -> str:
        """Return why the connection has ended."""
        try:
            async with asyncio.timeout(self._limits.connect_s):
                socket = await self._http.ws_connect(
                    self._url,
                    heartbeat=self._limits.ping_s,
                    timeout=aiohttp.ClientWSTimeout(ws_close=self._limits.close_s),
                    max_msg_size=_LARGEST_MESSAGE,
                    decode_text=False,
                )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return f"no connection: {type(error).__name__}"
        try:
            async with asyncio.timeout(self._limits.connect_s):
                if self._hello is not None:
                    await socket.send_str(self._hello.decode())
            log.info("connected", action="feed", url=shown(self._url))
            listener.connected()
            while True:
                async with asyncio.timeout(self._silence_s):
                    message = await socket.receive()
                if message.type in _ENDS:
                    return f"closed: {socket.close_code}"
                await listener.received(message.data)
        except ConnectionUselessError as error:
            log.warning("the venue reports an error", action="feed", url=shown(self._url), error=str(error)[:_SHOWN])
            return "error of the venue"
        except TimeoutError:
            return "silence"
        except (aiohttp.ClientError, OSError) as error:
            return f"broken: {type(error).__name__}"
        finally:
            await socket.close()


def shown(url: str) -> str:
    """Return ``url`` without what is secret in it.

    >>> shown("wss://me:secret@venue/stream?key=1")
    'wss://venue/stream'
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a URL that is none"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def backoff(failures: int, first_s: float, longest_s: float, rng: random.Random) -> float:
    """Return a pause: anything up to ``first_s`` doubled ``failures`` times, so that many clients do not come at once.

    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return rng.uniform(0, min(longest_s, first_s * 2.0 ** min(failures, 60)))
