"""What a loop over some bindings gets, and errors."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]


class BlackholeError(Exception):
    """What the edge has refused, or why the connection is gone. The text is the edge's."""

    reply: Message | None = None
    account: str | None = None
    binding: str | None = None


class Watch:
    """What comes for some bindings, from `BlackholeClient.watch`: an async iterator of messages.

    Use it with `async with`, so that leaving it unsubscribes what nobody else has subscribed.
    """

    #: The reply's `data`, once the edge has confirmed the subscription.
    subscribed: asyncio.Future[Message]

    def __init__(self, limit: int, left: Callable[[Watch], None]) -> None:
        self._limit = limit
        self._left = left
        self._waiting: deque[Message] = deque()
        self._news = asyncio.Event()
        self._has_ended = False
        self._error: Exception | None = None

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Message:
        while not self._waiting:
            if self._has_ended:
                error, self._error = self._error, None
                raise error or StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends it, and unsubscribes what nobody else has subscribed."""
        self._waiting.clear()
        self._end(None)
        self._error = None

    def _push(self, message: Message) -> None:
        if self._has_ended:
            return
        if len(self._waiting) >= self._limit:
            self._end(BlackholeError(f"the reader is too slow: {self._limit} messages wait"))
            return
        self._waiting.append(message)
        self._news.set()

    # What waits is read first.
    def _end(self, error: Exception | None) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        self._error = error
        self._news.set()
        self._left(self)
