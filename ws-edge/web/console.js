// The console's controls and what they do; console/ has the rest.

import { $, clearProblem, setNumber, setText } from './console/page.js';
import { session, subscriptions } from './console/state.js';
import { describeToken } from './console/token.js';
import { applyFilter, arrived, clearEvents, drawCounters, goToNewest, moveTabStop, paused, recent, requestDraw, setPaused, toggleRow } from './console/events.js';
import { drawSubscriptions, unsubscribeAll, want } from './console/subscriptions.js';
import { drawParameters, loadOffers, offers, subscribeFromForm, widest } from './console/bindings.js';
import { connect, describeState, disconnect, leave, ping, setState } from './console/connection.js';

// For a page address with a token but no binding.
const DEFAULT_BINDINGS = ['call.*.*', 'object.*.user', 'fax.status.*'];

// Takes #token=…&account=…&binding=…&binding=… from the address, and removes it there and from the history.
function readFragment() {
  const given = new URLSearchParams(location.hash.slice(1));
  const token = given.get('token');
  if (token === null) return;
  history.replaceState(null, '', location.href.split('#')[0]);
  $('token').value = token;
  describeToken();
  if (given.get('account') !== null) $('account').value = given.get('account');
  const bindings = given.getAll('binding').filter((binding) => binding !== '');
  leave();
  subscriptions.clear();
  for (const binding of bindings.length > 0 ? bindings : DEFAULT_BINDINGS) want($('account').value.trim(), binding);
  drawSubscriptions();
  connect();
}

$('connect-form').addEventListener('submit', (event) => { event.preventDefault(); connect(); });
$('subscribe-form').addEventListener('submit', (event) => { event.preventDefault(); subscribeFromForm(); });
$('disconnect').addEventListener('click', disconnect);
$('ping').addEventListener('click', ping);
$('unsubscribe-all').addEventListener('click', unsubscribeAll);
$('token').addEventListener('input', () => { clearProblem('token'); describeToken(); });
$('binding').addEventListener('input', () => {
  clearProblem('subscribe');
  // Show parameters only for a binding of the list.
  const offer = offers.find((one) => widest(one) === $('binding').value);
  if (offer) drawParameters(offer);
  else $('parameters').replaceChildren();
});
$('show-token').addEventListener('click', () => {
  const show = $('token').type === 'password';
  $('token').type = show ? 'text' : 'password';
  $('show-token').textContent = show ? 'Hide' : 'Show';
  $('show-token').setAttribute('aria-pressed', String(show));
});
$('pause').addEventListener('click', () => setPaused(!paused));
$('clear').addEventListener('click', clearEvents);
$('clear-replies').addEventListener('click', () => $('replies').replaceChildren());
$('held').addEventListener('click', () => { setPaused(false); goToNewest(); });

// The release of an edge, and those of all services: after a reconnect or an upgrade they may be others.
async function showVersion() {
  try {
    const { version, commit, services = [] } = await (await fetch('version')).json();
    setText('version', `edge ${version}`);
    $('version').title = `commit ${commit}`;
    setText('services', services.map((one) => `${one.processes} × ${one.service} ${one.version}`).join(', '));
    $('services').title = services.map((one) => `${one.service} ${one.version}, commit ${one.commit}`).join('\n');
  } catch { /* An edge of an earlier release does not tell. */ }
}
showVersion();
setInterval(showVersion, 10_000);

let filterTimer = 0;
$('filter').addEventListener('input', () => {
  clearTimeout(filterTimer);
  filterTimer = setTimeout(applyFilter, 100);
});
$('filter').addEventListener('keydown', (event) => {
  if (event.key !== 'Escape') return;
  event.preventDefault();
  $('filter').value = '';
  applyFilter();
  $('events').focus({ preventScroll: true });
});

$('events').addEventListener('click', (event) => {
  const row = event.target.closest('.row');
  if (row) toggleRow(row);
});
$('events').addEventListener('scroll', requestDraw, { passive: true });
$('events').addEventListener('focusout', requestDraw);
$('events').addEventListener('keydown', (event) => {
  if (event.key === 'Escape') return goToNewest();
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const row = event.target.closest('.row');
  const onList = event.target === $('events');
  if (!row && !onList) return;
  const node = row?.parentElement;
  const next = {
    ArrowDown: row ? node.nextElementSibling : $('events').firstElementChild,
    ArrowUp: node?.previousElementSibling,
    Home: $('events').firstElementChild,
    End: $('events').lastElementChild,
  }[event.key];
  if (next) {
    event.preventDefault();
    const target = next.querySelector('.row');
    moveTabStop(target);
    target.focus();
  } else if (row && (event.key === 'ArrowDown' || event.key === 'ArrowUp')) event.preventDefault();
});

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || !$('shortcuts').checked) return;
  if (event.target.closest?.('input:not([type=checkbox]), textarea, select, [contenteditable]')) return;
  const action = {
    '/': () => { $('filter').focus(); $('filter').select(); },
    s: () => $('binding').focus(),
    p: () => setPaused(!paused),
    c: clearEvents,
    '?': () => { $('help').open = !$('help').open; if ($('help').open) $('help').querySelector('summary').focus(); },
  }[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

setInterval(() => {
  setNumber('rate', recent.reduce((sum, count) => sum + count, 0) / (recent.length / 2));
  recent.pop();
  recent.unshift(0);
  if (arrived.length > 0) requestDraw();
  if (session.state === 'waiting') describeState();
}, 500);
setInterval(describeToken, 30000);

addEventListener('hashchange', readFragment);

setState('disconnected');
describeToken();
drawSubscriptions();
loadOffers();
drawCounters();
readFragment();
// On a wide screen, show the available bindings to new users.
$('common').open = subscriptions.size === 0 && matchMedia('(min-width: 821px)').matches;
