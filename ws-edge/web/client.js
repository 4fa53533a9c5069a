/*
 * A client for Blackhole's events in browsers and Node, without dependencies.
 *
 *   <script src="http://EDGE:5555/client.js"></script>        defines BlackholeClient
 *   const { BlackholeClient } = require('./client.js');       or: import { BlackholeClient } from './client.js'
 *
 * It reconnects and resumes. Each binding's events arrive in order, without loss or duplicates; if that is impossible,
 * it calls `ongap`. docs/client.md describes its use, docs/protocol.md the protocol.
 *
 * A cursor is a position in the history. Usually all subscriptions share the cursor of the last event (`#sharesCursor`,
 * `#cursor`). Several requests with `since` bring past events out of order: then each subscription has its own cursor,
 * updated by the events of its request, until a reply's `cursor` says that the session has everything up to there.
 * Replies to pings contain one too, so that the cursor of a subscription without events does not leave the history.
 */
'use strict';

class BlackholeClient {
  #url; #options; #WebSocket; #online;
  #socket = null; #generation = 0; #timer = 0; #state = 'connecting'; #attempts = 0; #openedAt = 0;
  #token; #requests = new Map(); #lastId = 0; #receivedAt = 0; #sentAt = 0; #pings = 0;
  #subscriptions = new Map();        // by account and binding
  #sharesCursor = true; #cursor = null; #eventCount = 0;

  /**
   * Connects in the next microtask. docs/client.md describes all options.
   * @param {string} url such as `wss://events.example.com/?view=args`
   * @param {object} options
   * @param {string|function(): (string|Promise<string>)} options.token a token, or a function called for each connection
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
  subscribe(account, bindings, { since = null, state = false } = {}) {
    const all = [bindings].flat().map((binding) => this.#getOrAdd(account || null, binding));
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
    for (const [key, one] of this.#subscriptions) {
      if (!is(one)) continue;
      this.#subscriptions.delete(key);
      one.call?.reject(new Error('unsubscribed'));
    }
    if (this.#state !== 'open') return Promise.resolve({});
    if (account === undefined) return this.request('unsubscribe');
    return this.request('unsubscribe', { ...(account && { account_id: account }), ...(listed && { bindings: listed }) });
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
    this.#setState('ended', { code, reason });
    for (const call of calls) call.reject(new Error(reason || `closed with ${code}`));
  }

  #disconnect() {
    this.#generation += 1;
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    this.#splitCursors();
    this.#sharesCursor = true;
    const reset = { request: null, isActive: false, isRefused: false };
    for (const one of this.#subscriptions.values()) Object.assign(one, reset);
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
    const [{ account }] = subscriptions;
    this.#options.onpresent?.({ account, bindings: subscriptions.map((one) => one.binding), ...what });
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
      this.#subscriptions.delete(key);
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
        call: null,                           // the pending call of `subscribe`
        request: null, isActive: false,       // its request on this connection, and whether that succeeded
        isRefused: false, wasActive: false,   // whether it was active on any connection
        cursor: null, gap: null,
      });
    }
    return this.#subscriptions.get(key);
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
    for (const one of subscriptions) one.request = id;
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
    else if (reason) {
      const [{ account }] = subscriptions;
      this.#options.ongap?.({ account, bindings: subscriptions.map((one) => one.binding), reason });
    }
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

if (typeof module === 'object' && module.exports) module.exports = { BlackholeClient };
