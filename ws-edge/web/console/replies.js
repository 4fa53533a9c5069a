// The list of replies and of what happens to the connection.

import { $, clearProblem, clock, el, plural, showProblem } from './page.js';
import { isTokenProblem } from './token.js';
import { jsonBlock } from './json.js';
import { showEmptyText } from './events.js';
import { drawSubscriptions } from './subscriptions.js';

const MAX_REPLIES = 200;

function labelOf({ action, data }) {
  const bindings = data?.bindings ?? [];
  if (action === 'ping' || !action) return action ?? 'reply';
  return `${action} ${bindings.length === 1 ? bindings[0] : bindings.length === 0 ? 'all' : plural(bindings.length, 'binding')}`;
}

export function receivedReply(message, request, raw) {
  const ok = message.status === 'success';
  const data = message.data ?? {};
  const text = ok ? '' : [data.errors ?? 'The server gave no reason.'].flat().join('; ');
  const took = request.sent ? ` (${Math.max(1, Date.now() - request.sent)} ms)` : '';
  const said = ok ? (data.response ? `: ${data.response}` : '') + took : `: ${text}`;
  if (!ok && isTokenProblem(text)) showProblem('token', text);
  else if (ok) clearProblem('token');
  const item = logLine(message.status, `${labelOf(request)}${said}`, raw);
  item.classList.add('reply');
  item.dataset.status = String(message.status);
  item.dataset.requestId = String(message.request_id ?? '');
  // The client updates its subscriptions after this callback.
  queueMicrotask(() => { drawSubscriptions(); showEmptyText(); });
}

function logLine(tag, text, raw) {
  const item = el('li');
  item.append(el('span', 'time', clock(Date.now())), el('span', 'tag', String(tag)));
  const said = el('div', 'said');
  if (raw === undefined) said.textContent = text;
  else {
    const details = el('details');
    details.append(el('summary', '', text));
    details.addEventListener('toggle', () => {
      if (details.open && !details.querySelector('pre')) details.append(jsonBlock(raw));
    });
    said.append(details);
  }
  item.append(said);
  $('replies').prepend(item);
  while ($('replies').childElementCount > MAX_REPLIES) $('replies').lastElementChild.remove();
  return item;
}

export function logNote(text, status = 'info', raw = undefined) {
  const item = logLine(status === 'error' ? 'problem' : 'note', text, raw);
  item.classList.add('note');
  item.dataset.status = status;
}
