/*
 * A client for Blackhole's events in browsers and Node, without dependencies: the npm package's module. Edges serve it at
 * /client.mjs, and at /client.js as a classic script that defines BlackholeClient.
 *
 * It reconnects and resumes. Each binding's events arrive in order, without loss or duplicates; if that is impossible,
 * it tells of a gap. docs/client.md describes its use, docs/protocol.md the protocol.
 *
 * A cursor is a position in the history. Usually all subscriptions share the cursor of the last event (`#sharesCursor`,
 * `#cursor`). Several requests with `since` bring past events out of order: then each subscription has its own cursor,
 * updated by the events of its request, until a reply's `cursor` says that the session has everything up to there.
 * Replies to pings contain one too, so that the cursor of a subscription without events does not leave the history.
 */

export class BlackholeClient {
  #url; #options; #WebSocket; #online;
  #socket = null; #generation = 0; #timer = 0; #renewal = 0; #state = 'connecting'; #attempts = 0; #openedAt = 0;
  #token; #requests = new Map(); #lastId = 0; #receivedAt = 0; #sentAt = 0; #pings = 0;
  #subscriptions = new Map();        // by account and binding
  #routes = new Map();               // the subscriptions of this connection, by request and binding
  #sharesCursor = true; #cursor = null; #eventCount = 0;

  /**
   * Connects in the next microtask. docs/client.md describes all options.
   * @param {string} url such as `wss://events.example.com/?view=args`
   * @param {object} options
   * @param {string|function(): (string|Promise<string>)} options.token a token, or a function: called for
   *   each connection, and before the token ends
   * @param {function(object, string)} [options.onevent] an event, and its frame's text
   * @param {function(string, object)} [options.onstate] `connecting`, `open`, `waiting` to reconnect, or `ended`
   * @param {function({ account, bindings, reason })} [options.ongap] events may be missing: read the current state
   * @param {function({ account, bindings, complete, keptSince })} [options.onpresent] with `state`: what lives now is about
   *   to come, so forget what you knew (`complete` is false), or has come
   * @param {function({ account, binding, reason })} [options.onrevoked] a subscription has ended: it is no longer granted
   * @param {function(Error)} [options.onerror] an error that no promise reports
   * @param {function(object, object, string)} [options.onreply] every reply, its request, and the frame's text
   * @param {string} [options.name] the session's name in listings
   * @param {function} [options.WebSocket] the class to use if there is no global one (Node before 22: that of `ws`)
   * @param {number} [options.pingInterval] ms without a frame after which it sends a ping
   * @param {number} [options.timeout] ms without a reply after which it closes the connection
   */
  constructor(url, options = {}) {
    this.#url = url;
    this.#options = { pingInterval: 30000, timeout: 15000, ...options };
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket;
    if (!this.#WebSocket) throw new TypeError('there is no WebSocket here: give one in the options');
    this.#online = () => this.retry();
    globalThis.addEventListener?.('online', this.#online);
    queueMicrotask(() => { if (this.#state !== 'ended') this.#connect(); });
  }

  /** `connecting`, `open`, `waiting` or `ended`. */
  get state() { return this.#state; }

  /** All subscriptions: `{ account, binding, state }`; the state is `waiting`, `asked`, `active` or `refused`. */
  get subscriptions() {
    return [...this.#subscriptions.values()].map(({ account, binding, isActive, request, isRefused }) => {
      const state = isActive ? 'active' : request !== null ? 'asked' : isRefused ? 'refused' : 'waiting';
      return { account, binding, state };
    });
  }

  /**
   * Subscribes now or at the next connection, and again at every later one until `unsubscribe`.
   * @param {string|null} account the account's id; `null`: the token's own (do not mix `null` and its id); `*`: all
   * @param {string|string[]} bindings all of them are subscribed, or none; existing subscriptions do not change
   * @param {object} [options]
   * @param {string} [options.since] a cursor, or a duration such as `-5m`: past events after it come first
   * @param {boolean} [options.state] the last event of each living thing comes first, with `state: true`
   * @returns {Promise<object>} the reply's `data`; rejects with the edge's text if it refuses
   */
  subscribe(account, bindings, options = {}) {
    const all = [bindings].flat().map((binding) => this.#getOrAdd(account || null, binding));
    for (const one of all) one.isHeld = true;
    return this.#subscribe(all, options);
  }

  /**
   * Subscribes, and returns an async iterator of what comes: events, and `gap`, `present`, `revoked` and `refused`
   * messages at their place between them. Leaving the loop unsubscribes what nobody else has subscribed. The loop ends when
   * nothing is subscribed any more, and throws if the edge refuses the bindings or the client ends.
   * @param {string|null} account as for `subscribe`
   * @param {string|string[]} bindings
   * @param {object} [options] `since` and `state` as for `subscribe`
   * @param {number} [options.limit] how many messages may wait for the reader; more end the loop with an error
   * @returns {AsyncIterableIterator<object>} with a promise `subscribed`: the reply's `data`
   */
  watch(account, bindings, { limit = 10000, ...options } = {}) {
    const all = [bindings].flat().map((binding) => this.#getOrAdd(account || null, binding));
    const watch = new Watch(limit, () => this.#leave(watch, all));
    for (const one of all) one.watches.add(watch);
    watch.subscribed = this.#subscribe(all, options);
    watch.subscribed.catch((error) => watch.end(error));
    return watch.iterator();
  }

  #subscribe(all, { since = null, state = false }) {
    const subscriptions = all.filter((one) => !one.call && (!one.wasActive || one.isRefused));
    if (subscriptions.length === 0) {
      const calls = all.filter((one) => one.call).map((one) => one.call.promise);
      return Promise.all(calls).then(() => ({ subscribed: all.map((one) => one.binding) }));
    }
    const call = { subscriptions, since };
    call.promise = new Promise((resolve, reject) => Object.assign(call, { resolve, reject }));
    for (const one of subscriptions) Object.assign(one, { call, state, wasActive: false, cursor: null });
    if (this.#state === 'open') this.#sendSubscribe(subscriptions, since);
    return call.promise;
  }

  /**
   * Ends these subscriptions; without bindings all of the account; without an account all.
   * @param {string|null} [account]
   * @param {string|string[]} [bindings]
   * @returns {Promise<object>} the reply's `data`; empty if not connected
   */
  unsubscribe(account, bindings) {
    const listed = bindings === undefined ? undefined : [bindings].flat();
    const is = (one) => account === undefined || (one.account === (account || null) && (listed?.includes(one.binding) ?? true));
    const ended = [...this.#subscriptions].filter(([, one]) => is(one));
    for (const [key, one] of ended) {
      this.#forget(key);
      one.call?.reject(new Error('unsubscribed'));
    }
    if (this.#state !== 'open') return Promise.resolve({});
    if (account === undefined) return this.request('unsubscribe');
    if (account && !listed) return this.request('unsubscribe', { account_id: account });
    // Without an account and bindings, the edge ends all there are: so those of the own account are named.
    const named = listed ?? ended.map(([, one]) => one.binding);
    if (named.length === 0) return Promise.resolve({});
    return this.request('unsubscribe', { ...(account && { account_id: account }), bindings: named });
  }

  /**
   * Sends any other request, such as `api`.
   * @returns {Promise<object>} the reply's `data`; rejects if the edge refuses or the connection is lost
   */
  request(action, data) {
    return new Promise((resolve, reject) => {
      if (this.#state !== 'open') throw new Error('not connected');
      this.#send(action, data, (error, answer) => (error ? reject(error) : resolve(answer)));
    });
  }

  /** Reconnects now if it is waiting. */
  retry() {
    if (this.#state === 'waiting') this.#connect();
  }

  /** Closes the connection and does not reconnect. */
  close() {
    if (this.#state !== 'ended') this.#end(1000, 'closed by the application');
  }

  /* ---- The connection ---- */

  async #connect() {
    clearTimeout(this.#timer);
    clearTimeout(this.#renewal);
    const generation = this.#generation += 1;   // invalidates earlier attempts
    this.#setState('connecting');
    const { token, timeout } = this.#options;
    this.#timer = setTimeout(() => this.#closed(1006, 'no connection in time'), timeout);
    this.#openedAt = 0;
    try {
      this.#token = typeof token === 'function' ? await token() : token;
    } catch (error) {
      if (generation !== this.#generation) return;
      this.#options.onerror?.(error);
      this.#reconnectLater(1006, 'there is no token');
      return;
    }
    if (generation !== this.#generation) return;
    let socket;
    try {
      socket = new this.#WebSocket(this.#url);
    } catch (error) {                   // not a WebSocket URL
      this.#end(undefined, error.message);
      return;
    }
    this.#socket = socket;
    const ifCurrent = (handle) => (event) => { if (this.#socket === socket) handle(event); };
    socket.onopen = ifCurrent(() => this.#opened());
    socket.onmessage = ifCurrent((event) => this.#received(event.data));
    socket.onclose = ifCurrent((event) => this.#closed(event.code, event.reason));
    socket.onerror = () => {};          // the close event follows
  }

  #opened() {
    this.#openedAt = this.#receivedAt = Date.now();
    this.#pings = 0;
    this.#setState('open');
    if (this.#state === 'open') this.#resume();
    if (this.#state === 'open') this.#keepAlive();
    if (this.#state === 'open') this.#renewLater();
  }

  // A function is asked for the next token when a fifth of the token's life is left, at most a minute before its end. It goes
  // to the edge with a ping. If the function has no later one, it is asked again after half of what is left.
  #renewLater() {
    clearTimeout(this.#renewal);
    const left = expiryOf(this.#token) - Date.now();
    if (typeof this.#options.token !== 'function' || !(left > 1000)) return;
    const wait = Math.max(left - 60000, left * 0.8);
    this.#renewal = setTimeout(() => this.#renew(), Math.min(wait, 2 ** 31 - 1));
  }

  async #renew() {
    const generation = this.#generation;
    const until = expiryOf(this.#token);
    try {
      const token = await this.#options.token();
      if (generation !== this.#generation) return;
      if (token !== this.#token && expiryOf(token) > until) {
        this.#token = token;
        this.#send('ping', undefined, () => {});
        this.#renewLater();
        return;
      }
    } catch (error) {
      if (generation !== this.#generation) return;
      this.#options.onerror?.(error);
    }
    const left = until - Date.now();
    if (left > 1000) this.#renewal = setTimeout(() => this.#renew(), left / 2);
  }

  #closed(code, reason) {
    if (this.#openedAt > 0 && Date.now() - this.#openedAt > 5000) this.#attempts = 0;
    // Codes that forbid reconnecting, errors that would repeat, and the expiry of a fixed token.
    const isFinal = (code >= 4500 && code <= 4999) || [1002, 1007, 1009].includes(code)
      || (code === 4401 && typeof this.#options.token !== 'function');
    if (isFinal) this.#end(code, reason);
    else this.#reconnectLater(code, reason);
  }

  #reconnectLater(code, reason) {
    this.#disconnect();
    // Full jitter: clients that lost the same edge do not reconnect together.
    const wait = Math.random() * Math.min(30000, 250 * 2 ** this.#attempts);
    this.#attempts += 1;
    this.#timer = setTimeout(() => this.#connect(), wait);
    this.#setState('waiting', { code, reason, wait });
  }

  #end(code, reason) {
    this.#disconnect();
    globalThis.removeEventListener?.('online', this.#online);
    const calls = new Set([...this.#subscriptions.values()].map((one) => one.call).filter(Boolean));
    const watches = new Set([...this.#subscriptions.values()].flatMap((one) => [...one.watches]));
    this.#setState('ended', { code, reason });
    for (const call of calls) call.reject(new Error(reason || `closed with ${code}`));
    for (const watch of watches) watch.end(code === 1000 ? null : new Error(reason || `closed with ${code}`));
  }

  #disconnect() {
    this.#generation += 1;
    clearTimeout(this.#timer);
    clearTimeout(this.#renewal);
    const socket = this.#socket;
    this.#socket = null;
    this.#splitCursors();
    this.#sharesCursor = true;
    const reset = { request: null, isActive: false, isRefused: false };
    for (const one of this.#subscriptions.values()) Object.assign(one, reset);
    this.#routes.clear();
    const requests = [...this.#requests.values()];
    this.#requests.clear();
    for (const request of requests) {
      if (request.action !== 'subscribe') request.done(new Error('the connection was lost'));
    }
    try { socket?.close(1000); } catch { /* it was never open */ }
  }

  #setState(state, detail = {}) {
    this.#state = state;
    this.#options.onstate?.(state, detail);
  }

  // Browsers cannot send WebSocket pings, so it sends a request after a silence, and gives the connection up if there is
  // no reply. Pings also get a missing cursor: soon at first, then rarely, since there may be no history.
  #keepAlive() {
    clearTimeout(this.#timer);
    const { pingInterval, timeout } = this.#options;
    const oldest = this.#requests.values().next().value;
    if (oldest && Date.now() - oldest.sent >= timeout) return this.#closed(1006, 'no answer in time');
    const isSettled = this.#sharesCursor && this.#cursor !== null;
    const interval = isSettled ? pingInterval : Math.min(1000 * 2 ** this.#pings, pingInterval);
    const next = oldest ? oldest.sent + timeout : interval + (isSettled ? this.#receivedAt : this.#sentAt);
    const wait = next - Date.now();
    if (wait <= 0) {
      this.#pings += 1;
      return this.#send('ping', undefined, () => {});   // sets the timer
    }
    this.#timer = setTimeout(() => this.#keepAlive(), wait);
  }

  /* ---- Requests, replies and events ---- */

  #send(action, data, done) {
    const id = `${this.#lastId += 1}`;
    this.#sentAt = Date.now();
    this.#requests.set(id, { action, data, done, sent: this.#sentAt, events: this.#eventCount });
    this.#socket.send(JSON.stringify({ action, request_id: id, auth_token: this.#token, data }));
    if (this.#requests.size === 1) this.#keepAlive();
    return id;
  }

  #received(text) {
    this.#receivedAt = Date.now();
    let frame;
    try { frame = JSON.parse(text); } catch { /* reported below */ }
    if (frame?.action === 'event') this.#event(frame, text);
    else if (frame?.action === 'reply') this.#reply(frame, text);
    else if (frame?.action === 'state') this.#present(frame);
    else if (frame?.action === 'revoked') this.#revoked(frame.data.revoked);
    else this.#options.onerror?.(new Error('an unknown frame came'));
  }

  #event(event, text) {
    this.#eventCount += 1;
    if (event.cursor) {
      this.#cursor = event.cursor;
      if (!this.#sharesCursor) {
        for (const one of this.#subscriptions.values()) if (one.request === event.request_id) one.cursor = event.cursor;
      }
    }
    for (const watch of this.#routes.get(`${event.request_id}\n${event.subscribed_key}`)?.watches ?? []) watch.push(event);
    this.#options.onevent?.(event, text);
  }

  // The kept events have come; what follows are the events after its cursor.
  #present({ request_id: id, cursor, kept_since: keptSince }) {
    const all = [...this.#subscriptions.values()].filter((one) => one.request === id);
    if (cursor) {
      for (const one of all) one.cursor = cursor;
      if (this.#sharesCursor) this.#cursor = cursor;
    }
    if (all.length > 0) this.#tellPresent(all, { complete: true, keptSince });
  }

  #tellPresent(subscriptions, what) {
    this.#tell('present', subscriptions, what);
  }

  // To the callback, and to the watches, each of which hears of its own bindings only.
  #tell(action, subscriptions, what) {
    const [{ account }] = subscriptions;
    for (const watch of new Set(subscriptions.flatMap((one) => [...one.watches]))) {
      const own = subscriptions.filter((one) => one.watches.has(watch)).map((one) => one.binding);
      watch.push({ action, account, bindings: own, ...what });
    }
    this.#options[`on${action}`]?.({ account, bindings: subscriptions.map((one) => one.binding), ...what });
  }

  #reply(reply, text) {
    const request = this.#requests.get(reply.request_id);
    this.#requests.delete(reply.request_id);
    const data = reply.data ?? {};
    const error = reply.status === 'success' ? null : Object.assign(new Error([data.errors].flat().join('; ')), { reply });
    // The edge did not know of requests with `since` or `state` that are still unanswered.
    const bringsPast = ({ data: asked }) => asked?.since || asked?.state;
    if (request && data.cursor && ![...this.#requests.values()].some(bringsPast)) {
      // The session has everything up to there. Events since the request may be later.
      this.#sharesCursor = true;
      this.#pings = 0;
      if (request.events === this.#eventCount) this.#cursor = data.cursor;
    }
    this.#options.onreply?.(reply, request ?? {}, text);
    request?.done(error, data);
    if (error && BlackholeClient.#isTokenError(error)) this.#tokenRefused(error);
    if (this.#state === 'open' && this.#requests.size === 0) this.#keepAlive();
  }

  // Where the whole session is concerned, a close follows: 4401 asks for another token, 1013 for patience. Then the
  // subscriptions are renewed.
  #revoked(all) {
    for (const { account_id: account, binding, reason } of all) {
      if (/^(failed to authenticate|the authentication service)/.test(reason)) continue;
      // The token's own account may be subscribed as `null`.
      const key = [account, ''].map((id) => `${id}\n${binding}`).find((id) => this.#subscriptions.get(id)?.isActive);
      if (key === undefined) continue;
      const one = this.#subscriptions.get(key);
      for (const watch of one.watches) watch.push({ action: 'revoked', account: one.account, binding, reason });
      this.#forget(key);
      this.#options.onrevoked?.({ account: one.account, binding, reason });
    }
  }

  static #isTokenError(error) {
    return /^(failed to authenticate|authentication token)/.test(error.message);
  }

  #tokenRefused(error) {
    if (this.#state !== 'open') return;
    if (typeof this.#options.token !== 'function') return this.#end(undefined, error.message);
    this.#options.onerror?.(error);
    this.#reconnectLater(undefined, error.message);
  }

  /* ---- Subscriptions ---- */

  #getOrAdd(account, binding) {
    const key = `${account ?? ''}\n${binding}`;
    if (!this.#subscriptions.has(key)) {
      this.#subscriptions.set(key, {
        account, binding, state: false,
        isHeld: false, watches: new Set(),    // who wants it: calls of `subscribe`, and of `watch`
        call: null,                           // the pending call of `subscribe`
        request: null, isActive: false,       // its request on this connection, and whether that succeeded
        isRefused: false, wasActive: false,   // whether it was active on any connection
        cursor: null, gap: null,
      });
    }
    return this.#subscriptions.get(key);
  }

  // A watch ends with the last of its subscriptions.
  #forget(key) {
    const one = this.#subscriptions.get(key);
    this.#subscriptions.delete(key);
    const left = [...this.#subscriptions.values()];
    for (const watch of one.watches) if (!left.some((other) => other.watches.has(watch))) watch.end(null);
  }

  // Ends what only this watch wanted.
  #leave(watch, all) {
    const wanted = this.#stillWanted(all);
    for (const one of wanted) one.watches.delete(watch);
    const unused = wanted.filter((one) => !one.isHeld && one.watches.size === 0);
    if (unused.length === 0 || this.#state === 'ended') return;
    this.unsubscribe(unused[0].account, unused.map((one) => one.binding)).catch(() => {});   // lost with the connection
  }

  #splitCursors() {
    if (!this.#sharesCursor) return;
    this.#sharesCursor = false;
    for (const one of this.#subscriptions.values()) if (one.request !== null) one.cursor = this.#cursor;
  }

  // After connecting: first one request for each account and cursor, then new subscriptions.
  #resume() {
    this.#cursor = null;
    const all = [...this.#subscriptions.values()];
    const known = all.filter((one) => !one.call).sort((one, other) => (one.cursor === null) - (other.cursor === null));
    const groups = new Map();
    for (const one of known) {
      const key = `${one.account} ${one.state} ${one.cursor}`;
      groups.set(key, [...(groups.get(key) ?? []), one]);
    }
    for (const group of groups.values()) {
      // A frame has at most 64 KiB, a binding 255 bytes.
      for (let i = 0; i < group.length; i += 200) this.#sendSubscribe(group.slice(i, i + 200), group[0].cursor);
    }
    const calls = new Set(all.map((one) => one.call).filter(Boolean));
    for (const call of calls) this.#sendSubscribe(call.subscriptions, call.since);
    if (all.length === 0) this.#send('ping', undefined, () => {});   // checks the token
  }

  #sendSubscribe(subscriptions, since) {
    const [{ account, state }] = subscriptions;
    if (since || state) {
      if ([...this.#subscriptions.values()].some((one) => one.request !== null)) this.#splitCursors();
      else this.#cursor = since;
    }
    const data = { bindings: subscriptions.map((one) => one.binding) };
    if (account !== null) data.account_id = account;
    if (since) data.since = since;
    if (state) data.state = true;
    if (this.#options.name) data.name = this.#options.name;
    const id = this.#send('subscribe', data, (error, answer) => {
      if (error) this.#notSubscribed(subscriptions, since, error);
      else this.#subscribed(subscriptions, since, answer);
    });
    for (const one of subscriptions) {
      one.request = id;
      this.#routes.set(`${id}\n${one.binding}`, one);
    }
  }

  #subscribed(subscriptions, since, data) {
    let reason = data.recovered === false ? data.reason : null;
    // What lives comes anew: nothing that matters is missing.
    const isAnew = data.state === true && data.recovered !== true;
    if (reason && this.#sharesCursor) this.#cursor = null;
    for (const one of subscriptions) {
      if (one.wasActive && !since && !isAnew) reason ??= one.gap ?? 'no cursor';
      one.cursor = reason && since ? null : since ?? this.#cursor;
      Object.assign(one, { isActive: true, wasActive: true, isRefused: false, gap: null });
    }
    this.#settle(subscriptions, (call) => call.resolve(data));
    if (isAnew) this.#tellPresent(subscriptions, { complete: false });
    else if (reason) this.#tell('gap', subscriptions, { reason });
  }

  #notSubscribed(subscriptions, since, error) {
    for (const one of subscriptions) one.request = null;
    const wanted = this.#stillWanted(subscriptions);
    if (wanted.length === 0 || BlackholeClient.#isTokenError(error)) return;
    const isCall = wanted.some((one) => one.call);
    if (/try again$|^rate limiting/.test(error.message)) {
      const generation = this.#generation;
      setTimeout(() => {
        const left = this.#stillWanted(wanted);
        if (this.#generation === generation && left.length > 0) this.#sendSubscribe(left, since);
      }, 500 + Math.random() * 1000);
    } else if (!isCall && since && /^invalid since|^there is no history/.test(error.message)) {
      for (const one of wanted) Object.assign(one, { cursor: null, gap: error.message });
      this.#sendSubscribe(wanted, null);
    } else if (isCall) {
      this.#settle(wanted, (call) => call.reject(error));
      for (const [key, one] of this.#subscriptions) if (wanted.includes(one)) this.#subscriptions.delete(key);
    } else if (wanted.length > 1) {
      // One refused binding fails the whole request: send each one alone.
      for (const one of wanted) this.#sendSubscribe([one], since);
    } else {
      const [one] = wanted;
      one.isRefused = true;
      for (const watch of one.watches) watch.push({ action: 'refused', account: one.account, binding: one.binding, reason: error.message });
      this.#options.onerror?.(Object.assign(error, { account: one.account, binding: one.binding }));
    }
  }

  #stillWanted(subscriptions) {
    const all = new Set(this.#subscriptions.values());
    return subscriptions.filter((one) => all.has(one));
  }

  #settle(subscriptions, finish) {
    const calls = new Set(subscriptions.map((one) => one.call).filter(Boolean));
    for (const one of subscriptions) one.call = null;
    calls.forEach(finish);
  }
}

// What waits for the reader of one `watch`.
class Watch {
  #limit; #left; #waiting = []; #readers = []; #isEnded = false; #error = null;

  constructor(limit, left) {
    this.#limit = limit;
    this.#left = left;
  }

  push(message) {
    if (this.#isEnded) return;
    const reader = this.#readers.shift();
    if (reader) reader.resolve({ value: message, done: false });
    else if (this.#waiting.length < this.#limit) this.#waiting.push(message);
    else this.end(new Error(`the reader is too slow: ${this.#limit} messages wait`));
  }

  // What waits is read first.
  end(error) {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#error = this.#readers.length === 0 ? error : null;
    const [first, ...others] = this.#readers.splice(0);
    if (error) first?.reject(error);
    else first?.resolve({ value: undefined, done: true });
    for (const reader of others) reader.resolve({ value: undefined, done: true });
    this.#left();
  }

  #next() {
    if (this.#waiting.length > 0) return Promise.resolve({ value: this.#waiting.shift(), done: false });
    if (!this.#isEnded) return new Promise((resolve, reject) => this.#readers.push({ resolve, reject }));
    const error = this.#error;
    this.#error = null;
    return error ? Promise.reject(error) : Promise.resolve({ value: undefined, done: true });
  }

  iterator() {
    return {
      subscribed: this.subscribed,
      next: () => this.#next(),
      return: (value) => {
        this.#waiting = [];
        this.end(null);
        this.#error = null;
        return Promise.resolve({ value, done: true });
      },
      [Symbol.asyncIterator]() { return this; },
    };
  }
}

// When a JWT ends, in ms since 1970; NaN if it does not say.
function expiryOf(token) {
  try {
    return JSON.parse(atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/'))).exp * 1000;
  } catch {
    return NaN;
  }
}
