// The connection to the edge that has served the page.

import { $, clearProblem, showProblem } from './page.js';
import { keyOf, session, subscriptions } from './state.js';
import { isTokenProblem, tokenText } from './token.js';
import { receivedEvent, showEmptyText } from './events.js';
import { askForAll, drawSubscriptions, forgetStates } from './subscriptions.js';
import { logNote, receivedReply } from './replies.js';

// The meaning of close codes: 1000 to 1006 come from the browser, the others from the edge
// (ws-edge/src/protocol/close.rs).
const CLOSE_CODES = {
  1000: 'The session ended normally.',
  1005: 'The connection was closed without a reason.',
  1006: 'The connection was lost: the server or the network failed.',
  1002: 'The server detected a WebSocket protocol error.',
  1007: 'The server received text that is not valid UTF-8.',
  1009: 'The server refused a message because it is too large.',
  1012: 'The server is restarting.',
  1013: 'The server cannot ask whether the token is still accepted.',
  4008: 'This client read too slowly, and the server could not keep all its events.',
  4401: 'The token has expired or is no longer accepted. Paste a new one and connect.',
  4408: 'The session was idle for too long.',
};

export function setState(state) {
  session.state = state;
  const text = { waiting: 'disconnected' }[state] ?? state;
  if ($('status').textContent !== text) $('status').textContent = text;
  $('status').dataset.state = state;
  const idle = state === 'disconnected';
  if (idle && document.activeElement === $('disconnect')) $('connect').focus();
  if (state !== 'connected' && document.activeElement === $('ping')) $('connect').focus();
  $('disconnect').disabled = idle;
  $('ping').disabled = state !== 'connected';
  $('connect').textContent = state === 'connected' ? 'Reconnect' : state === 'waiting' ? 'Connect now' : 'Connect';
  describeState();
  showEmptyText();
}

export function describeState() {
  let text = '';
  if (session.state === 'waiting' && session.client?.state !== 'waiting') text = `${session.why} Trying now.`;
  else if (session.state === 'waiting') text = `${session.why} Trying again in ${Math.max(1, Math.ceil((session.retryAt - Date.now()) / 1000))} s.`;
  else if (session.state !== 'disconnected') text = session.url;
  if ($('status-detail').textContent !== text) $('status-detail').textContent = text;
}

// Only the edge that has served the page: its content security policy allows no other.
function address() {
  const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
  return `${scheme}://${location.host}${location.pathname}?view=${$('view').value}`;
}

export function connect() {
  const token = tokenText();
  clearProblem('connect');
  clearProblem('token');
  if (token === '') {
    showProblem('token', 'Paste a token first.');
    $('token').focus();
    return;
  }
  leave();
  session.url = address();
  session.failures = 0;
  let client = null;
  const ifCurrent = (handle) => (...all) => { if (session.client === client) handle(...all); };
  client = session.client = new BlackholeClient(session.url, {
    token,
    name: 'Blackhole console',
    onstate: ifCurrent(stateChanged),
    onreply: ifCurrent(receivedReply),
    onevent: ifCurrent(receivedEvent),
    ongap: ifCurrent((gap) => logNote(`Events of ${gap.bindings.join(', ')} may be missing: ${gap.reason}`, 'error')),
    onrevoked: ifCurrent(revoked),
    onerror: ifCurrent(failed),
  });
  setState('connecting');
  askForAll();
}

export function disconnect() {
  const wasOpen = session.state === 'connected';
  leave();
  setState('disconnected');
  if (wasOpen) logNote('You disconnected.');
  clearProblem('connect');
}

// Closes the client and ignores its further callbacks.
export function leave() {
  const { client } = session;
  session.client = null;
  session.wasOpen = false;
  client?.close();
  forgetStates();
  drawSubscriptions();
}

// While the client reconnects by itself, the state stays "disconnected", so that a long outage is announced once.
function stateChanged(state, { code, reason, wait }) {
  if (state === 'open') {
    session.wasOpen = true;
    session.failures = 0;
    clearProblem('connect');
    setState('connected');
    logNote(`Connected to ${session.url}`);
  } else if (state === 'connecting') {
    setState(session.failures > 0 ? 'waiting' : 'connecting');
  } else {
    explain(state, code, reason);
    session.wasOpen = false;
    session.failures += 1;
    session.retryAt = Date.now() + wait;
    setState(state === 'waiting' ? 'waiting' : 'disconnected');
    forgetStates();
  }
  drawSubscriptions();
}

function explain(state, code, reason) {
  const { wasOpen } = session;
  if (code === undefined) {             // a refused token, which its own reply shows
    if (!isTokenProblem(reason)) showProblem('connect', reason);
    return;
  }
  const known = CLOSE_CODES[code] ?? 'The server closed the connection.';
  const meaning = wasOpen
    ? `${known} (code ${code}${reason ? `: ${reason}` : ''})`
    : `Could not connect to ${session.url}. Is the server running?`;
  if (wasOpen || session.failures === 0) logNote(meaning, 'error');
  showProblem('connect', meaning);
  session.why = wasOpen ? known : 'The server cannot be reached.';
  if (code === 4401) $('token').setAttribute('aria-invalid', 'true');
}

// An error that no promise reports, such as a subscription that was refused when it was resumed.
function failed(error) {
  if (error.binding === undefined) return logNote(`${error.message}.`, 'error');
  const subscription = subscriptions.get(keyOf(error.account ?? '', error.binding));
  if (subscription) subscription.reason = error.message;
  showProblem('subscribe', error.message);
  drawSubscriptions();
}

// The client has ended this subscription. It stays in the list, to be tried again with the next token.
function revoked({ account, binding, reason }) {
  logNote(`${binding} has ended: ${reason}`, 'error');
  const subscription = subscriptions.get(keyOf(account ?? '', binding));
  if (subscription) Object.assign(subscription, { state: 'refused', reason });
  drawSubscriptions();
}

export function ping() {
  session.client.request('ping').catch((error) => { if (!isTokenProblem(error.message)) showProblem('connect', error.message); });
}
