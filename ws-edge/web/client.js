/*
 * A client for Blackhole's events, for browsers and Node: one file, no dependencies.
 *
 *   <script src="http://EDGE:5555/client.js"></script>        defines BlackholeClient
 *   const { BlackholeClient } = require('./client.js');       or: import { BlackholeClient } from './client.js'
 *
 * It comes back when the connection is lost, and resumes: no event is missing, none comes twice, those of a binding
 * come in order. Where that cannot be had, `ongap` tells. How to use it: docs/client.md; the protocol: docs/protocol.md.
 *
 * How it resumes. A cursor is a place in the history. As long as the session's frames come in one order, the last cursor
 * that was seen is where all subscriptions are (`#whole`, `#last`). Several requests with `since` break that order: each
 * subscription then has a cursor of its own, moved by the frames of its own request, until the edge tells in a reply's
 * `cursor` that the session has had everything up to there. These come in replies to pings too, so that a quiet
 * subscription's cursor does not leave the history.
 */
'use strict';

class BlackholeClient {
  #url; #options; #WebSocket; #online;
  #socket = null; #turn = 0; #timer = 0; #state = 'connecting'; #attempt = 0; #openedAt = 0;
  #token; #requests = new Map(); #lastId = 0; #heard = 0; #asked = 0; #beats = 0;
  #wanted = new Map();              // every subscription, by account and binding
  #whole = true; #last = null; #events = 0;

  /**
   * Connects, in the next turn of the event loop.
   *
   * @param {string} url such as `wss://events.example.com/?view=args`
   * @param {object} options
   * @param {string|function(): (string|Promise<string>)} options.token the token, or what gives one: it is called before
   *   each connection, so that a token that has ended is replaced
   * @param {function(object, string)} [options.onevent] an event, and its frame's text
   * @param {function(string, object)} [options.onstate] `connecting`; `open`; `waiting` with `{ code, reason, wait }`: it
   *   comes back in `wait` ms; `ended` with `{ code, reason }`: it does not
   * @param {function({ account, bindings, reason })} [options.ongap] events may be missing: read the present state
   * @param {function(Error)} [options.onerror] what nobody waits for: a subscription that is refused when it is resumed
   *   (`account` and `binding` tell which), a token function that fails
   * @param {function(object, object, string)} [options.onreply] every reply, the request it answers, and its text
   * @param {string} [options.name] the session's name where sessions are listed
   * @param {function} [options.WebSocket] the class to use where there is no global one (Node before 22: that of `ws`)
   * @param {number} [options.pingInterval] ms of silence after which the edge is asked whether it is there
   * @param {number} [options.timeout] ms without an answer after which the connection is taken for dead
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

  /** What is subscribed to, or will be: `{ account, binding, state }`, which is `waiting`, `asked`, `active` or `refused`. */
  get subscriptions() {
    const stateOf = (one) => (one.active ? 'active' : one.request !== null ? 'asked' : one.refused ? 'refused' : 'waiting');
    return [...this.#wanted.values()].map((one) => ({ account: one.account, binding: one.binding, state: stateOf(one) }));
  }

  /**
   * Subscribes now or, while away, at the next connection, and again at every further one until `unsubscribe`.
   *
   * @param {string|null} account the account's id; `null`: the token's own, which must not be given by its id as well;
   *   `*`: all
   * @param {string|string[]} bindings all of them are subscribed to, or none; those that are already stay as they are
   * @param {object} [options]
   * @param {string} [options.since] a cursor, or a time back such as `-5m`: what came after it comes first
   * @returns {Promise<object>} the reply's `data`; an `Error` with the edge's text where it refuses
   */
  subscribe(account, bindings, { since = null } = {}) {
    const all = [bindings].flat().map((binding) => this.#want(account || null, binding));
    const subscriptions = all.filter((one) => !one.call && (!one.was || one.refused));
    if (subscriptions.length === 0) {
      const calls = all.filter((one) => one.call).map((one) => one.call.promise);
      return Promise.all(calls).then(() => ({ subscribed: all.map((one) => one.binding) }));
    }
    const call = { subscriptions, since };
    call.promise = new Promise((resolve, reject) => Object.assign(call, { resolve, reject }));
    for (const one of subscriptions) Object.assign(one, { call, was: false, cursor: null });
    if (this.#state === 'open') this.#ask(subscriptions, since);
    return call.promise;
  }

  /**
   * Ends subscriptions: these; without bindings all of the account; without an account all there are.
   *
   * @param {string|null} [account]
   * @param {string|string[]} [bindings]
   * @returns {Promise<object>} the reply's `data`; while away there is nobody to ask, and it is empty
   */
  unsubscribe(account, bindings) {
    const listed = bindings === undefined ? undefined : [bindings].flat();
    const is = (one) => account === undefined || (one.account === (account || null) && (listed?.includes(one.binding) ?? true));
    for (const [key, one] of this.#wanted) {
      if (!is(one)) continue;
      this.#wanted.delete(key);
      one.call?.reject(new Error('unsubscribed'));
    }
    if (this.#state !== 'open') return Promise.resolve({});
    if (account === undefined) return this.request('unsubscribe');
    return this.request('unsubscribe', { ...(account && { account_id: account }), ...(listed && { bindings: listed }) });
  }

  /**
   * Sends any request, such as `api`.
   *
   * @returns {Promise<object>} the reply's `data`; an `Error` where it is none, or the connection ends before it
   */
  request(action, data) {
    return new Promise((resolve, reject) => {
      if (this.#state !== 'open') throw new Error('not connected');
      this.#send(action, data, (error, answer) => (error ? reject(error) : resolve(answer)));
    });
  }

  /** Comes back at once, where it waits to. */
  retry() {
    if (this.#state === 'waiting') this.#connect();
  }

  /** Ends it for good. */
  close() {
    if (this.#state !== 'ended') this.#end(1000, 'closed by the application');
  }

  /* ---- The connection ---- */

  async #connect() {
    clearTimeout(this.#timer);
    const turn = this.#turn += 1;       // whatever was under way before counts no more
    this.#tell('connecting');
    const { token, timeout } = this.#options;
    this.#timer = setTimeout(() => this.#closed(1006, 'no connection in time'), timeout);
    this.#openedAt = 0;
    try {
      this.#token = typeof token === 'function' ? await token() : token;
    } catch (error) {
      if (turn !== this.#turn) return;
      this.#options.onerror?.(error);
      this.#comeBack(1006, 'there is no token');
      return;
    }
    if (turn !== this.#turn) return;
    let socket;
    try {
      socket = new this.#WebSocket(this.#url);
    } catch (error) {                   // no URL of a WebSocket
      this.#end(undefined, error.message);
      return;
    }
    this.#socket = socket;
    const current = (handle) => (event) => { if (this.#socket === socket) handle(event); };
    socket.onopen = current(() => this.#opened());
    socket.onmessage = current((event) => this.#received(event.data));
    socket.onclose = current((event) => this.#closed(event.code, event.reason));
    socket.onerror = () => {};          // what there is to know comes with the close
  }

  #opened() {
    this.#openedAt = this.#heard = Date.now();
    this.#beats = 0;
    this.#tell('open');
    if (this.#state === 'open') this.#resume();
    if (this.#state === 'open') this.#beat();
  }

  #closed(code, reason) {
    if (this.#openedAt > 0 && Date.now() - this.#openedAt > 5000) this.#attempt = 0;
    // Codes that say do not come back, that nothing but another client mends, and the end of the only token.
    const isFinal = (code >= 4500 && code <= 4999) || [1002, 1007, 1009].includes(code)
      || (code === 4401 && typeof this.#options.token !== 'function');
    if (isFinal) this.#end(code, reason);
    else this.#comeBack(code, reason);
  }

  #comeBack(code, reason) {
    this.#drop();
    // Full jitter: clients that lost the same edge do not come back together.
    const wait = Math.random() * Math.min(30000, 250 * 2 ** this.#attempt);
    this.#attempt += 1;
    this.#timer = setTimeout(() => this.#connect(), wait);
    this.#tell('waiting', { code, reason, wait });
  }

  #end(code, reason) {
    this.#drop();
    globalThis.removeEventListener?.('online', this.#online);
    const calls = new Set([...this.#wanted.values()].map((one) => one.call).filter(Boolean));
    this.#tell('ended', { code, reason });
    for (const call of calls) call.reject(new Error(reason || `closed with ${code}`));
  }

  // Lets go of the connection: nothing that still comes from it is heard.
  #drop() {
    this.#turn += 1;
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    this.#part();
    this.#whole = true;
    for (const one of this.#wanted.values()) Object.assign(one, { request: null, active: false, refused: false });
    const requests = [...this.#requests.values()];
    this.#requests.clear();
    for (const request of requests) {
      if (request.action !== 'subscribe') request.done(new Error('the connection was lost'));
    }
    try { socket?.close(1000); } catch { /* it was never open */ }
  }

  #tell(state, detail = {}) {
    this.#state = state;
    this.#options.onstate?.(state, detail);
  }

  // Browsers cannot send pings of the WebSocket protocol: silence is ended by a request, and what is not answered is
  // dead. Pings also bring the cursor that is still missing; soon at first, then rarely: there may be no history.
  #beat() {
    clearTimeout(this.#timer);
    const { pingInterval, timeout } = this.#options;
    const oldest = this.#requests.values().next().value;
    if (oldest && Date.now() - oldest.sent >= timeout) return this.#closed(1006, 'no answer in time');
    const isSettled = this.#whole && this.#last !== null;
    const pause = isSettled ? pingInterval : Math.min(1000 * 2 ** this.#beats, pingInterval);
    const next = oldest ? oldest.sent + timeout : pause + (isSettled ? this.#heard : this.#asked);
    const wait = next - Date.now();
    if (wait <= 0) {
      this.#beats += 1;
      return this.#send('ping', undefined, () => {});   // which sets the timer
    }
    this.#timer = setTimeout(() => this.#beat(), wait);
  }

  /* ---- Requests and what comes ---- */

  #send(action, data, done) {
    const id = `${this.#lastId += 1}`;
    this.#asked = Date.now();
    this.#requests.set(id, { action, data, done, sent: this.#asked, events: this.#events });
    this.#socket.send(JSON.stringify({ action, request_id: id, auth_token: this.#token, data }));
    if (this.#requests.size === 1) this.#beat();
    return id;
  }

  #received(text) {
    this.#heard = Date.now();
    let frame;
    try { frame = JSON.parse(text); } catch { /* told below */ }
    if (frame?.action === 'event') this.#event(frame, text);
    else if (frame?.action === 'reply') this.#reply(frame, text);
    else this.#options.onerror?.(new Error('what came is neither an event nor a reply'));
  }

  #event(event, text) {
    this.#events += 1;
    if (event.cursor) {
      this.#last = event.cursor;
      if (!this.#whole) {
        for (const one of this.#wanted.values()) if (one.request === event.request_id) one.cursor = event.cursor;
      }
    }
    this.#options.onevent?.(event, text);
  }

  #reply(reply, text) {
    const request = this.#requests.get(reply.request_id);
    this.#requests.delete(reply.request_id);
    const data = reply.data ?? {};
    const error = reply.status === 'success' ? null : Object.assign(new Error([data.errors].flat().join('; ')), { reply });
    // A request for the past that the edge has not seen yet is not in its answer.
    if (request && data.cursor && ![...this.#requests.values()].some((other) => other.data?.since)) {
      // The session has had everything up to there. Events that came since the request may lie beyond.
      this.#whole = true;
      this.#beats = 0;
      if (request.events === this.#events) this.#last = data.cursor;
    }
    this.#options.onreply?.(reply, request ?? {}, text);
    request?.done(error, data);
    if (error && BlackholeClient.#isAboutToken(error)) this.#tokenRefused(error);
    if (this.#state === 'open' && this.#requests.size === 0) this.#beat();
  }

  static #isAboutToken(error) {
    return /^(failed to authenticate|authentication token)/.test(error.message);
  }

  // Another token may be better; the same never is.
  #tokenRefused(error) {
    if (this.#state !== 'open') return;
    if (typeof this.#options.token !== 'function') return this.#end(undefined, error.message);
    this.#options.onerror?.(error);
    this.#comeBack(undefined, error.message);
  }

  /* ---- Subscriptions ---- */

  #want(account, binding) {
    const key = `${account ?? ''}\n${binding}`;
    if (!this.#wanted.has(key)) {
      this.#wanted.set(key, {
        account, binding, call: null,     // the call of `subscribe` that waits for an answer
        request: null, active: false,     // what asked for it on this connection, and whether that was answered
        refused: false, was: false,       // whether it was active on any connection
        cursor: null, gap: null,
      });
    }
    return this.#wanted.get(key);
  }

  // From now on each subscription has a cursor of its own.
  #part() {
    if (!this.#whole) return;
    this.#whole = false;
    for (const one of this.#wanted.values()) if (one.request !== null) one.cursor = this.#last;
  }

  // After connecting: the past first, one request for each account and cursor, then what is new.
  #resume() {
    this.#last = null;
    const all = [...this.#wanted.values()];
    const known = all.filter((one) => !one.call).sort((one, other) => (one.cursor === null) - (other.cursor === null));
    const groups = new Map();
    for (const one of known) {
      const key = `${one.account} ${one.cursor}`;
      groups.set(key, [...(groups.get(key) ?? []), one]);
    }
    for (const group of groups.values()) {
      // A frame may have 64 KiB, a binding 255 bytes.
      for (let i = 0; i < group.length; i += 200) this.#ask(group.slice(i, i + 200), group[0].cursor);
    }
    for (const call of new Set(all.map((one) => one.call).filter(Boolean))) this.#ask(call.subscriptions, call.since);
    if (all.length === 0) this.#send('ping', undefined, () => {});   // tells whether the token is good
  }

  #ask(subscriptions, since) {
    if (since) {
      if ([...this.#wanted.values()].some((one) => one.request !== null)) this.#part();
      else this.#last = since;
    }
    const [{ account }] = subscriptions;
    const data = { bindings: subscriptions.map((one) => one.binding) };
    if (account !== null) data.account_id = account;
    if (since) data.since = since;
    if (this.#options.name) data.name = this.#options.name;
    const id = this.#send('subscribe', data, (error, answer) => {
      if (error) this.#notSubscribed(subscriptions, since, error);
      else this.#subscribed(subscriptions, since, answer);
    });
    for (const one of subscriptions) one.request = id;
  }

  #subscribed(subscriptions, since, data) {
    let reason = data.recovered === false ? data.reason : null;
    if (reason && this.#whole) this.#last = null;
    for (const one of subscriptions) {
      if (one.was && !since) reason ??= one.gap ?? 'no cursor';
      one.cursor = reason && since ? null : since ?? this.#last;
      Object.assign(one, { active: true, was: true, refused: false, gap: null });
    }
    this.#settle(subscriptions, (call) => call.resolve(data));
    if (reason) {
      const [{ account }] = subscriptions;
      this.#options.ongap?.({ account, bindings: subscriptions.map((one) => one.binding), reason });
    }
  }

  #notSubscribed(subscriptions, since, error) {
    for (const one of subscriptions) one.request = null;
    const wanted = this.#still(subscriptions);
    if (wanted.length === 0 || BlackholeClient.#isAboutToken(error)) return;
    const isCall = wanted.some((one) => one.call);
    if (/try again$|^rate limiting/.test(error.message)) {
      const turn = this.#turn;
      setTimeout(() => {
        const left = this.#still(wanted);
        if (this.#turn === turn && left.length > 0) this.#ask(left, since);
      }, 500 + Math.random() * 1000);
    } else if (!isCall && since && /^invalid since|^there is no history/.test(error.message)) {
      for (const one of wanted) Object.assign(one, { cursor: null, gap: error.message });
      this.#ask(wanted, null);
    } else if (isCall) {
      this.#settle(wanted, (call) => call.reject(error));
      for (const [key, one] of this.#wanted) if (wanted.includes(one)) this.#wanted.delete(key);
    } else if (wanted.length > 1) {
      // A request is done as a whole or not at all: one of them spoils it.
      for (const one of wanted) this.#ask([one], since);
    } else {
      const [one] = wanted;
      one.refused = true;
      this.#options.onerror?.(Object.assign(error, { account: one.account, binding: one.binding }));
    }
  }

  // Those of them that nobody has unsubscribed meanwhile.
  #still(subscriptions) {
    const all = new Set(this.#wanted.values());
    return subscriptions.filter((one) => all.has(one));
  }

  #settle(subscriptions, how) {
    const calls = new Set(subscriptions.map((one) => one.call).filter(Boolean));
    for (const one of subscriptions) one.call = null;
    calls.forEach(how);
  }
}

if (typeof module === 'object' && module.exports) module.exports = { BlackholeClient };
