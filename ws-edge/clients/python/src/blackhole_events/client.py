"""The client: one connection at a time, and what is subscribed through all of them.

A cursor is a position in the history. Usually all subscriptions share the cursor of the last event. Several requests with
`since` bring past events out of order: then each subscription has its own cursor, updated by the events of its request,
until a reply's `cursor` says that the session has everything up to there. Replies to pings contain one too, so that the
cursor of a subscription without events does not leave the history.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import math
import random
import re
import ssl as tls
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Union

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI

from .watch import BlackholeError, Message, Watch

Token = Union[str, Callable[[], Union[str, Awaitable[str]]]]
Bindings = Union[str, Iterable[str]]

_MAX_FRAME = 32 * 1024 * 1024
_MAX_WAIT = 30.0


@dataclass(eq=False)
class _Call:
    """A call of `subscribe` or `watch` that the edge has not answered."""

    subscriptions: list[_Subscription]
    since: str | None
    answer: asyncio.Future[Message]


@dataclass(eq=False)
class _Subscription:
    account: str | None
    binding: str
    state: bool = False
    is_held: bool = False  # by a call of `subscribe`
    watches: dict[Watch, None] = field(default_factory=dict)
    call: _Call | None = None
    request: str | None = None  # its request on this connection
    is_active: bool = False
    is_refused: bool = False
    was_active: bool = False  # on any connection
    cursor: str | None = None
    gap: str | None = None


@dataclass(eq=False)
class _Request:
    action: str
    data: Message | None
    done: Callable[[BlackholeError | None, Message], None]
    sent: float
    events: int


class BlackholeClient:
    """A client of one edge, or of a proxy before several.

    `async with BlackholeClient(url, token=…) as client` connects, and closes at the end. docs/client.md describes all
    options and callbacks.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token,
        on_event: Callable[[Message, str], None] | None = None,
        on_state: Callable[[str, Message], None] | None = None,
        on_gap: Callable[[Message], None] | None = None,
        on_present: Callable[[Message], None] | None = None,
        on_revoked: Callable[[Message], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
        on_reply: Callable[[Message, Message, str], None] | None = None,
        name: str | None = None,
        ssl: tls.SSLContext | None = None,
        ping_interval: float = 30.0,
        timeout: float = 15.0,
    ) -> None:
        self._url = url
        self._token_source = token
        self._callbacks: dict[str, Callable[..., None] | None] = {
            "event": on_event,
            "state": on_state,
            "gap": on_gap,
            "present": on_present,
            "revoked": on_revoked,
            "error": on_error,
            "reply": on_reply,
        }
        self._name = name
        self._ssl = ssl
        self._ping_interval = ping_interval
        self._timeout = timeout
        self._state = "connecting"
        self._generation = 0
        self._attempts = 0
        self._opened_at = 0.0
        self._received_at = 0.0
        self._sent_at = 0.0
        self._pings = 0
        self._token = ""
        self._socket: ClientConnection | None = None
        self._outbox: asyncio.Queue[str] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests: dict[str, _Request] = {}
        self._last_id = 0
        self._subscriptions: dict[tuple[str | None, str], _Subscription] = {}
        self._routes: dict[tuple[str, str], _Subscription] = {}  # of this connection, by request and binding
        self._shares_cursor = True
        self._cursor: str | None = None
        self._event_count = 0
        self._ended: asyncio.Event | None = None

    async def __aenter__(self) -> BlackholeClient:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def start(self) -> None:
        """Connects, in the running loop. `async with` does it."""
        if self._ended is None:
            self._ended = asyncio.Event()
            self._connect()

    @property
    def state(self) -> str:
        """`connecting`, `open`, `waiting` or `ended`."""
        return self._state

    @property
    def subscriptions(self) -> list[Message]:
        """All subscriptions: account, binding, and state: `waiting`, `asked`, `active` or `refused`."""

        def state(one: _Subscription) -> str:
            if one.is_active:
                return "active"
            return "asked" if one.request is not None else "refused" if one.is_refused else "waiting"

        return [{"account": one.account, "binding": one.binding, "state": state(one)} for one in self._all()]

    def subscribe(
        self, account: str | None, bindings: Bindings, *, since: str | None = None, state: bool = False
    ) -> asyncio.Future[Message]:
        """Subscribes now or at the next connection, and again at every later one until `unsubscribe`.

        `account` is an id, `None` for the token's own (do not mix `None` and its id), or `*` for all. All bindings are
        subscribed, or none. `since`, a cursor or a time back such as `-5m`, asks for earlier events; with `state` the last
        event of each living thing comes first. The result is the reply's `data`; it raises BlackholeError if the edge
        refuses.
        """
        subscriptions = self._get_or_add_all(account, bindings)
        for one in subscriptions:
            one.is_held = True
        return self._subscribe(subscriptions, since, state)

    def watch(
        self,
        account: str | None,
        bindings: Bindings,
        *,
        since: str | None = None,
        state: bool = False,
        limit: int = 10000,
    ) -> Watch:
        """Subscribes, and returns an async iterator of what comes.

        Beside events there are `gap`, `present`, `revoked` and `refused` messages at their place. It ends when nothing is
        subscribed any more, and raises if the edge refuses the bindings, if the client ends, or if more than `limit`
        messages wait for the reader.
        """
        subscriptions = self._get_or_add_all(account, bindings)
        watch = Watch(limit, lambda watch: self._leave(watch, subscriptions))
        for one in subscriptions:
            one.watches[watch] = None

        def answered(answer: asyncio.Future[Message]) -> None:
            error = None if answer.cancelled() else answer.exception()
            if isinstance(error, Exception):
                watch._end(error)

        watch.subscribed = self._subscribe(subscriptions, since, state)
        watch.subscribed.add_done_callback(answered)
        return watch

    def unsubscribe(self, account: str | None = "", bindings: Bindings | None = None) -> asyncio.Future[Message]:
        """Ends these subscriptions; without bindings all of the account; without an account all.

        The result is the reply's `data`; empty if not connected.
        """
        listed = None if bindings is None else _listed(bindings)
        ended = []
        for key, one in list(self._subscriptions.items()):
            if account != "" and (one.account != account or (listed is not None and one.binding not in listed)):
                continue
            ended.append(one.binding)
            self._forget(key)
            if one.call is not None:
                _fail(one.call.answer, BlackholeError("unsubscribed"))
        if self._state != "open":
            return _resolved({})
        if account == "":
            return self.request("unsubscribe")
        if account is not None and listed is None:
            return self.request("unsubscribe", {"account_id": account})
        # Without an account and bindings, the edge ends all there are: so those of the own account are named.
        data: Message = {"bindings": ended if listed is None else listed}
        if not data["bindings"]:
            return _resolved({})
        if account is not None:
            data["account_id"] = account
        return self.request("unsubscribe", data)

    def request(self, action: str, data: Message | None = None) -> asyncio.Future[Message]:
        """Sends any other request, such as `api`.

        The result is the reply's `data`; it raises BlackholeError if the edge refuses or the connection is lost.
        """
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        if self._state != "open":
            answer.set_exception(BlackholeError("not connected"))
            return answer

        def done(error: BlackholeError | None, reply: Message) -> None:
            if error is not None:
                _fail(answer, error)
            else:
                _succeed(answer, reply)

        self._send(action, data, done)
        return answer

    def retry(self) -> None:
        """Reconnects now if it is waiting."""
        if self._state == "waiting":
            self._connect()

    async def close(self) -> None:
        """Closes the connection and does not reconnect."""
        if self._state != "ended":
            self._end(1000, "closed by the application")
        own = asyncio.current_task()
        for task in [task for task in self._tasks if task is not own]:
            await asyncio.wait([task], timeout=3)
            task.cancel()

    async def wait_ended(self) -> None:
        """Returns when the client has ended: see the states in docs/client.md."""
        if self._ended is not None:
            await self._ended.wait()

    # ---- The connection ----

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _connect(self) -> None:
        _cancel(self._timer)
        _cancel(self._renewal)
        self._generation += 1  # invalidates earlier attempts
        self._opened_at = 0.0
        self._set_state("connecting")
        if self._state == "connecting":
            self._spawn(self._attempt(self._generation))

    async def _new_token(self) -> str:
        token = self._token_source
        if callable(token):
            given = token()
            return await given if inspect.isawaitable(given) else given
        return token

    async def _attempt(self, generation: int) -> None:
        try:
            token = await asyncio.wait_for(self._new_token(), self._timeout)
        except Exception as error:
            if generation == self._generation:
                self._tell_error(error)
                self._reconnect_later(1006, "there is no token")
            return
        if generation != self._generation:
            return
        self._token = token
        options: Message = {"ssl": self._ssl} if self._ssl is not None else {}
        try:
            socket = await connect(
                self._url,
                open_timeout=self._timeout,
                close_timeout=2,
                ping_interval=None,
                compression=None,
                max_size=_MAX_FRAME,
                **options,
            )
        except Exception as error:
            if generation != self._generation:
                return
            # A certificate that cannot be verified is a `ValueError` too; it may be renewed.
            if isinstance(error, (InvalidURI, ValueError)) and not isinstance(error, tls.SSLError):
                self._end(None, str(error))
            elif isinstance(error, InvalidStatus):
                self._closed(1006, f"HTTP {error.response.status_code}", _retry_after(error))
            else:
                self._closed(1006, str(error) or "no connection in time")
            return
        if generation != self._generation:
            await socket.close()
            return
        self._socket = socket
        self._outbox = asyncio.Queue()
        writer = asyncio.get_running_loop().create_task(_write(socket, self._outbox))
        try:
            self._opened()
            while self._socket is socket:
                self._received(await socket.recv())
        except ConnectionClosed:
            pass
        finally:
            writer.cancel()
        if self._socket is socket:
            self._closed(socket.close_code or 1006, socket.close_reason or "")
        await socket.close()

    def _opened(self) -> None:
        self._opened_at = self._received_at = time.monotonic()
        self._pings = 0
        self._set_state("open")
        if self._state == "open":
            self._resume()
        if self._state == "open":
            self._keep_alive()
        if self._state == "open":
            self._renew_later()

    # A function is asked for the next token when a fifth of the token's life is left, at most a minute before its end. It
    # goes to the edge with a ping. If the function has no later one, it is asked again after half of what is left.
    def _renew_later(self) -> None:
        _cancel(self._renewal)
        left = _expiry_of(self._token) - time.time()
        if callable(self._token_source) and left > 1:
            self._renewal = self._later(max(left - 60, left * 0.8), lambda: self._spawn(self._renew()))

    async def _renew(self) -> None:
        generation, until = self._generation, _expiry_of(self._token)
        try:
            token = await self._new_token()
            if generation != self._generation:
                return
            if token != self._token and _expiry_of(token) > until:
                self._token = token
                self._send("ping", None, _ignore)
                self._renew_later()
                return
        except Exception as error:
            if generation != self._generation:
                return
            self._tell_error(error)
        left = until - time.time()
        if left > 1:
            self._renewal = self._later(left / 2, lambda: self._spawn(self._renew()))

    def _closed(self, code: int, reason: str, at_least: float = 0.0) -> None:
        if self._opened_at > 0 and time.monotonic() - self._opened_at > 5:
            self._attempts = 0
        # Codes that forbid reconnecting, errors that would repeat, and the expiry of a fixed token.
        is_final = 4500 <= code <= 4999 or code in (1002, 1007, 1009)
        if is_final or (code == 4401 and not callable(self._token_source)):
            self._end(code, reason)
        else:
            self._reconnect_later(code, reason, at_least)

    def _reconnect_later(self, code: int | None, reason: str, at_least: float = 0.0) -> None:
        self._disconnect()
        # Full jitter: clients that lost the same edge do not reconnect together.
        wait = random.random() * min(_MAX_WAIT, 0.25 * 2 ** min(self._attempts, 16)) + at_least
        self._attempts += 1
        self._timer = self._later(wait, self._connect)
        self._set_state("waiting", {"code": code, "reason": reason, "wait": wait})

    def _end(self, code: int | None, reason: str) -> None:
        self._disconnect()
        calls = {one.call: None for one in self._all() if one.call is not None}
        watches = {watch: None for one in self._all() for watch in one.watches}
        self._set_state("ended", {"code": code, "reason": reason})
        error = BlackholeError(reason or f"closed with {code}")
        for call in calls:
            _fail(call.answer, error)
        for watch in watches:
            watch._end(None if code == 1000 else error)
        if self._ended is not None:
            self._ended.set()

    def _disconnect(self) -> None:
        self._generation += 1
        _cancel(self._timer)
        _cancel(self._renewal)
        socket, self._socket = self._socket, None
        self._split_cursors()
        self._shares_cursor = True
        for one in self._all():
            one.request, one.is_active, one.is_refused = None, False, False
        self._routes.clear()
        requests = list(self._requests.values())
        self._requests.clear()
        for request in requests:
            if request.action != "subscribe":
                request.done(BlackholeError("the connection was lost"), {})
        if socket is not None:
            self._spawn(socket.close())

    def _set_state(self, state: str, detail: Message | None = None) -> None:
        self._state = state
        self._call_back("state", state, detail or {})

    # It sends a request after a silence, and gives the connection up if there is no reply. Pings also get a missing cursor:
    # soon at first, then rarely, since there may be no history.
    def _keep_alive(self) -> None:
        _cancel(self._timer)
        now = time.monotonic()
        oldest = next(iter(self._requests.values()), None)
        if oldest is not None and now - oldest.sent >= self._timeout:
            return self._closed(1006, "no answer in time")
        is_settled = self._shares_cursor and self._cursor is not None
        interval = self._ping_interval if is_settled else min(2.0 ** min(self._pings, 16), self._ping_interval)
        if oldest is not None:
            due = oldest.sent + self._timeout
        else:
            due = interval + (self._received_at if is_settled else self._sent_at)
        if due <= now:
            self._pings += 1
            self._send("ping", None, _ignore)  # sets the timer
            return
        self._timer = self._later(due - now, self._keep_alive)

    def _later(self, wait: float, what: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(wait, what)

    # ---- Requests, replies and events ----

    def _send(
        self, action: str, data: Message | None, done: Callable[[BlackholeError | None, Message], None]
    ) -> str:
        self._last_id += 1
        request_id = str(self._last_id)
        self._sent_at = time.monotonic()
        self._requests[request_id] = _Request(action, data, done, self._sent_at, self._event_count)
        frame: Message = {"action": action, "request_id": request_id, "auth_token": self._token}
        if data is not None:
            frame["data"] = data
        self._outbox.put_nowait(json.dumps(frame))
        if len(self._requests) == 1:
            self._keep_alive()
        return request_id

    def _received(self, text: str | bytes) -> None:
        self._received_at = time.monotonic()
        try:
            frame = json.loads(text)
        except ValueError:
            frame = None
        action = frame.get("action") if isinstance(frame, dict) else None
        if action == "event":
            self._event(frame, text)
        elif action == "reply":
            self._reply(frame, text)
        elif action == "state":
            self._present(frame)
        elif action == "revoked":
            self._revoked(frame["data"]["revoked"])
        else:
            self._tell_error(BlackholeError("an unknown frame came"))

    def _event(self, event: Message, text: str | bytes) -> None:
        self._event_count += 1
        cursor, request_id = event.get("cursor"), event.get("request_id")
        if cursor:
            self._cursor = cursor
            if not self._shares_cursor:
                for one in self._all():
                    if one.request == request_id:
                        one.cursor = cursor
        routed = self._routes.get((request_id or "", event["subscribed_key"]))
        if routed is not None:
            for watch in list(routed.watches):
                watch._push(event)
        self._call_back("event", event, text)

    # The kept events have come; what follows are the events after its cursor.
    def _present(self, frame: Message) -> None:
        subscriptions = [one for one in self._all() if one.request == frame.get("request_id")]
        cursor = frame.get("cursor")
        if cursor:
            for one in subscriptions:
                one.cursor = cursor
            if self._shares_cursor:
                self._cursor = cursor
        if subscriptions:
            self._tell("present", subscriptions, {"complete": True, "kept_since": frame.get("kept_since")})

    # To the callback, and to the watches, each of which hears of its own bindings only.
    def _tell(self, action: str, subscriptions: list[_Subscription], what: Message) -> None:
        account = subscriptions[0].account
        for watch in {watch: None for one in subscriptions for watch in one.watches}:
            own = [one.binding for one in subscriptions if watch in one.watches]
            watch._push({"action": action, "account": account, "bindings": own, **what})
        self._call_back(action, {"account": account, "bindings": [one.binding for one in subscriptions], **what})

    def _reply(self, reply: Message, text: str | bytes) -> None:
        request = self._requests.pop(reply.get("request_id") or "", None)
        data = reply.get("data") or {}
        error = None
        if reply.get("status") != "success":
            error = BlackholeError("; ".join(map(str, data.get("errors") or [])))
            error.reply = reply
        # The edge did not know of requests with `since` or `state` that are still unanswered.
        bring_past = any(
            (one.data or {}).get("since") or (one.data or {}).get("state") for one in self._requests.values()
        )
        if request is not None and data.get("cursor") and not bring_past:
            # The session has everything up to there. Events since the request may be later.
            self._shares_cursor = True
            self._pings = 0
            if request.events == self._event_count:
                self._cursor = data["cursor"]
        asked = {} if request is None else {"action": request.action, "data": request.data, "sent": request.sent}
        self._call_back("reply", reply, asked, text)
        if request is not None:
            request.done(error, data)
        if error is not None and _is_token_error(error):
            self._token_refused(error)
        if self._state == "open" and not self._requests:
            self._keep_alive()

    # Where the whole session is concerned, a close follows: 4401 asks for another token, 1013 for patience. Then the
    # subscriptions are renewed.
    def _revoked(self, revoked: list[Message]) -> None:
        for one in revoked:
            binding, reason = one["binding"], one["reason"]
            if re.match("failed to authenticate|the authentication service", reason):
                continue
            # The token's own account may be subscribed as `None`.
            for key in ((one["account_id"], binding), (None, binding)):
                subscription = self._subscriptions.get(key)
                if subscription is None or not subscription.is_active:
                    continue
                what = {"account": subscription.account, "binding": binding, "reason": reason}
                for watch in list(subscription.watches):
                    watch._push({"action": "revoked", **what})
                self._forget(key)
                self._call_back("revoked", what)
                break

    def _token_refused(self, error: BlackholeError) -> None:
        if self._state != "open":
            return
        if not callable(self._token_source):
            return self._end(None, str(error))
        self._tell_error(error)
        self._reconnect_later(None, str(error))

    # ---- Subscriptions ----

    def _all(self) -> list[_Subscription]:
        return list(self._subscriptions.values())

    def _get_or_add_all(self, account: str | None, bindings: Bindings) -> list[_Subscription]:
        def get_or_add(binding: str) -> _Subscription:
            new = _Subscription(account or None, binding)
            return self._subscriptions.setdefault((account or None, binding), new)

        return [get_or_add(binding) for binding in _listed(bindings)]

    def _subscribe(
        self, subscriptions: list[_Subscription], since: str | None, state: bool
    ) -> asyncio.Future[Message]:
        new = [one for one in subscriptions if one.call is None and (not one.was_active or one.is_refused)]
        if not new:
            return self._subscribed_already(subscriptions)
        call = _Call(new, since, asyncio.get_running_loop().create_future())
        for one in new:
            one.call, one.state, one.was_active, one.cursor = call, state, False, None
        if self._state == "open":
            self._send_subscribe(new, since)
        return call.answer

    def _subscribed_already(self, subscriptions: list[_Subscription]) -> asyncio.Future[Message]:
        answers = [one.call.answer for one in subscriptions if one.call is not None]
        data = {"subscribed": [one.binding for one in subscriptions]}
        if not answers:
            return _resolved(data)

        async def all_answered() -> Message:
            await asyncio.gather(*(asyncio.shield(answer) for answer in answers))
            return data

        return asyncio.ensure_future(all_answered())

    # A watch ends with the last of its subscriptions.
    def _forget(self, key: tuple[str | None, str]) -> None:
        gone = self._subscriptions.pop(key)
        for watch in list(gone.watches):
            if not any(watch in one.watches for one in self._all()):
                watch._end(None)

    # Ends what only this watch wanted.
    def _leave(self, watch: Watch, subscriptions: list[_Subscription]) -> None:
        wanted = self._still_wanted(subscriptions)
        for one in wanted:
            one.watches.pop(watch, None)
        unused = [one for one in wanted if not one.is_held and not one.watches]
        if unused and self._state != "ended":
            ended = self.unsubscribe(unused[0].account, [one.binding for one in unused])
            ended.add_done_callback(lambda one: one.cancelled() or one.exception())  # lost with the connection

    def _split_cursors(self) -> None:
        if self._shares_cursor:
            self._shares_cursor = False
            for one in self._all():
                if one.request is not None:
                    one.cursor = self._cursor

    # After connecting: first one request for each account and cursor, then new subscriptions.
    def _resume(self) -> None:
        self._cursor = None
        everything = self._all()
        known = sorted((one for one in everything if one.call is None), key=lambda one: one.cursor is None)
        groups: dict[tuple[Any, ...], list[_Subscription]] = {}
        for one in known:
            groups.setdefault((one.account, one.state, one.cursor), []).append(one)
        for group in groups.values():
            # A frame has at most 64 KiB, a binding 255 bytes.
            for start in range(0, len(group), 200):
                self._send_subscribe(group[start : start + 200], group[0].cursor)
        for call in {one.call: None for one in everything if one.call is not None}:
            self._send_subscribe(call.subscriptions, call.since)
        if not everything:
            self._send("ping", None, _ignore)  # checks the token

    def _send_subscribe(self, subscriptions: list[_Subscription], since: str | None) -> None:
        account, state = subscriptions[0].account, subscriptions[0].state
        if since or state:
            if any(one.request is not None for one in self._all()):
                self._split_cursors()
            else:
                self._cursor = since
        data: Message = {"bindings": [one.binding for one in subscriptions]}
        if account is not None:
            data["account_id"] = account
        if since:
            data["since"] = since
        if state:
            data["state"] = True
        if self._name:
            data["name"] = self._name

        def done(error: BlackholeError | None, answer: Message) -> None:
            if error is not None:
                self._not_subscribed(subscriptions, since, error)
            else:
                self._now_subscribed(subscriptions, since, answer)

        request_id = self._send("subscribe", data, done)
        for one in subscriptions:
            one.request = request_id
            self._routes[(request_id, one.binding)] = one

    def _now_subscribed(self, subscriptions: list[_Subscription], since: str | None, data: Message) -> None:
        reason = data.get("reason") if data.get("recovered") is False else None
        # What lives comes anew: nothing that matters is missing.
        is_anew = data.get("state") is True and data.get("recovered") is not True
        if reason and self._shares_cursor:
            self._cursor = None
        for one in subscriptions:
            if one.was_active and not since and not is_anew:
                reason = reason or one.gap or "no cursor"
            one.cursor = None if reason and since else since or self._cursor
            one.is_active, one.was_active, one.is_refused, one.gap = True, True, False, None
        self._settle(subscriptions, lambda answer: _succeed(answer, data))
        if is_anew:
            self._tell("present", subscriptions, {"complete": False, "kept_since": None})
        elif reason:
            self._tell("gap", subscriptions, {"reason": reason})

    def _not_subscribed(
        self, subscriptions: list[_Subscription], since: str | None, error: BlackholeError
    ) -> None:
        for one in subscriptions:
            one.request = None
        wanted = self._still_wanted(subscriptions)
        if not wanted or _is_token_error(error):
            return
        is_call = any(one.call is not None for one in wanted)
        text = str(error)
        if text.endswith("try again") or text.startswith("rate limiting"):
            generation = self._generation

            def again() -> None:
                left = self._still_wanted(wanted)
                if self._generation == generation and left:
                    self._send_subscribe(left, since)

            self._later(0.5 + random.random(), again)
        elif not is_call and since and re.match("invalid since|there is no history", text):
            for one in wanted:
                one.cursor, one.gap = None, text
            self._send_subscribe(wanted, None)
        elif is_call:
            self._settle(wanted, lambda answer: _fail(answer, error))
            for key, one in list(self._subscriptions.items()):
                if one in wanted:
                    del self._subscriptions[key]
        elif len(wanted) > 1:
            # One refused binding fails the whole request: send each one alone.
            for one in wanted:
                self._send_subscribe([one], since)
        else:
            (one,) = wanted
            one.is_refused = True
            for watch in list(one.watches):
                watch._push({"action": "refused", "account": one.account, "binding": one.binding, "reason": text})
            error.account, error.binding = one.account, one.binding
            self._tell_error(error)

    def _still_wanted(self, subscriptions: list[_Subscription]) -> list[_Subscription]:
        everything = set(self._all())
        return [one for one in subscriptions if one in everything]

    def _settle(
        self, subscriptions: list[_Subscription], finish: Callable[[asyncio.Future[Message]], object]
    ) -> None:
        calls = {one.call: None for one in subscriptions if one.call is not None}
        for one in subscriptions:
            one.call = None
        for call in calls:
            finish(call.answer)

    # ---- Callbacks ----

    def _tell_error(self, error: Exception) -> None:
        self._call_back("error", error)

    # An error in a callback is the application's: it goes to the loop's exception handler.
    def _call_back(self, name: str, *arguments: Any) -> None:
        callback = self._callbacks[name]
        if callback is None:
            return
        try:
            callback(*arguments)
        except Exception as error:
            context = {"message": f"on_{name} failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)


async def _write(socket: ClientConnection, outbox: asyncio.Queue[str]) -> None:
    try:
        while True:
            await socket.send(await outbox.get())
    except ConnectionClosed:
        pass  # the reader notices it too


def _listed(bindings: Bindings) -> list[str]:
    return [bindings] if isinstance(bindings, str) else list(bindings)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def _fail(answer: asyncio.Future[Message], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


def _succeed(answer: asyncio.Future[Message], data: Message) -> None:
    if not answer.done():
        answer.set_result(data)


def _resolved(data: Message) -> asyncio.Future[Message]:
    answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    answer.set_result(data)
    return answer


def _ignore(_error: BlackholeError | None, _data: Message) -> None:
    pass


def _is_token_error(error: BlackholeError) -> bool:
    return re.match("failed to authenticate|authentication token", str(error)) is not None


def _retry_after(error: InvalidStatus) -> float:
    try:
        seconds = float(error.response.headers.get("Retry-After", "0"))
    except ValueError:
        return 0.0
    # A proxy may say anything, also `nan`, which is neither.
    return min(seconds, _MAX_WAIT) if seconds > 0 else 0.0


def _expiry_of(token: str) -> float:
    """When a JWT ends, in seconds since 1970; NaN if it does not say."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"])
    except (ValueError, IndexError, KeyError, TypeError):
        return math.nan
