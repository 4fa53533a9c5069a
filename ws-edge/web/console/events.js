// Keeping and drawing events.

import { $, clock, el, number, plural, setNumber, setText } from './page.js';
import { session, subscriptions } from './state.js';
import { tokenText } from './token.js';
import { jsonBlock, memberText } from './json.js';
import { readEvent } from './event.js';

const MAX_EVENTS = 2000;               // events in the list; while it is held, up to as many again wait
const MAX_TEXT = 32 * 1024 * 1024;     // characters of JSON in the list, and of those waiting
const RENDER_MS = 80, BUSY_RENDER_MS = 200;   // least time between updates of the list

let kept = [];                         // in the list, oldest first
export let arrived = [];               // not yet in the list: until the next update, or while it is held
let keptText = 0;
let arrivedText = 0;
let droppedWhileHeld = 0;
export let paused = false;
let filter = null;                     // a RegExp, or null
let total = 0;
let frameRequested = false;
let lastDrawn = 0;
let renderInterval = RENDER_MS;
let preferredView = 'args';
let tabStop = null;                    // the only row that Tab reaches; arrow keys move from there
export const recent = [0, 0, 0, 0];    // events in each of the last four half seconds

export function receivedEvent(message, raw) {
  total += 1;
  recent[0] += 1;
  const event = readEvent(message, raw);
  arrived.push(event);
  arrivedText += event.text.length;
  if (arrived.length >= MAX_EVENTS * 2 || arrivedText > MAX_TEXT) {
    const dropped = arrived.splice(0, Math.ceil(arrived.length / 2));
    droppedWhileHeld += dropped.length;
    for (const { text } of dropped) arrivedText -= text.length;
  }
  requestDraw();
}

export function requestDraw() {
  if (frameRequested) return;
  frameRequested = true;
  const wait = Math.max(0, lastDrawn + renderInterval - performance.now());
  if (wait > 0) setTimeout(() => requestAnimationFrame(draw), wait);
  else requestAnimationFrame(draw);
}

// While the user reads, the list does not move: new events wait, and a button shows their number.
function isReading() {
  const list = $('events');
  if (list.scrollTop > 4 || list.querySelector('.row[aria-expanded=true]')) return true;
  const focused = document.activeElement;
  if (focused?.closest('#events .event') && focused.matches(':focus-visible')) return true;
  const selection = document.getSelection();
  return selection && !selection.isCollapsed && list.contains(selection.anchorNode);
}

const matches = (event) => filter === null || filter.test(event.text);

function draw() {
  frameRequested = false;
  lastDrawn = performance.now();
  const held = paused || isReading();
  renderInterval = arrived.length > 30 ? BUSY_RENDER_MS : RENDER_MS;
  if (!held && arrived.length > 0) {
    const fresh = arrived.slice(-MAX_EVENTS);
    arrived = [];
    arrivedText = 0;
    droppedWhileHeld = 0;
    kept.push(...fresh);
    for (const event of fresh) keptText += event.text.length;
    let surplus = Math.max(0, kept.length - MAX_EVENTS);
    for (let i = 0, left = keptText; i < kept.length - 1 && (i < surplus || left > MAX_TEXT); i += 1) {
      left -= kept[i].text.length;
      surplus = Math.max(surplus, i + 1);
    }
    for (const event of kept.splice(0, surplus)) {
      keptText -= event.text.length;
      event.node?.remove();
    }
    const rows = document.createDocumentFragment();
    for (let i = fresh.length - 1; i >= 0; i -= 1) if (matches(fresh[i])) rows.append(rowOf(fresh[i]));
    $('events').prepend(rows);
    moveTabStop($('events').querySelector('.row'));
  }
  drawCounters(held);
}

export function drawCounters(held = paused || isReading()) {
  setNumber('total', total);
  const list = $('events');
  const shown = list.childElementCount;
  const limit = `The list keeps the last ${number(MAX_EVENTS)}.`;
  setText('shown', filter !== null ? `${number(shown)} of ${plural(kept.length, 'event')} match.` : kept.length >= MAX_EVENTS ? limit : shown > 0 ? `Newest first. ${limit}` : limit);
  const waiting = held ? arrived.length + droppedWhileHeld : 0;
  const button = $('held');
  if (waiting === 0 && document.activeElement === button) list.focus();
  button.hidden = !paused && waiting === 0;
  button.dataset.count = String(waiting);
  const why = paused ? 'Paused' : 'Held while you read';
  setText('held', `${why}: ${number(waiting)} new. ${paused ? 'Resume' : 'Show'}`);
  $('empty').hidden = shown > 0;
}

const template = $('event-template').content.firstElementChild;
const eventOfNode = new WeakMap();

function rowOf(event) {
  if (event.node) return event.node;
  const node = template.cloneNode(true);
  const [time, name, what, account, binding] = node.firstElementChild.children;
  node.dataset.name = event.name;
  node.dataset.id = event.id;
  node.dataset.kind = event.kind;
  time.textContent = clock(event.at, true);
  name.textContent = event.name;
  what.firstElementChild.textContent = event.summary;
  what.lastElementChild.textContent = event.id;
  account.textContent = event.account;
  binding.textContent = event.binding;
  event.node = node;
  eventOfNode.set(node, event);
  return node;
}

export function toggleRow(row) {
  const open = row.getAttribute('aria-expanded') !== 'true';
  row.setAttribute('aria-expanded', String(open));
  if (open) row.parentElement.append(detailOf(eventOfNode.get(row.parentElement)));
  else row.nextElementSibling.remove();
  moveTabStop(row);
  requestDraw();
}

function detailOf(event) {
  const detail = el('div', 'detail');
  const facts = el('dl');
  const fact = (name, value) => { if (value) facts.append(el('dt', '', name), el('dd', '', value)); };
  fact('received', new Date(event.at).toISOString());
  fact('id', event.id);
  fact('account', event.account);
  fact('subscribed_key', event.binding);
  fact('subscription_key', event.patternKey);
  fact('routing_key', event.key);
  fact('request_id', event.requestId);
  const views = el('div', 'views');
  const block = el('div');
  const choices = [...event.views, 'frame'];
  const textOf = (view) => (view === 'frame' ? event.raw : memberText(event.raw, view) ?? event.raw);
  let shown;
  const show = (view) => {
    shown = view;
    block.replaceChildren(jsonBlock(textOf(view)));
    for (const button of views.children) if (button.dataset.view) button.setAttribute('aria-pressed', String(button.dataset.view === view));
  };
  for (const view of choices) {
    const button = el('button', '', { args: 'args: as published', data: 'data: normalized', frame: 'Whole frame' }[view]);
    button.type = 'button';
    button.dataset.view = view;
    button.addEventListener('click', () => { preferredView = view; show(view); });
    views.append(button);
  }
  const copy = el('button', '', 'Copy');
  copy.type = 'button';
  copy.addEventListener('click', async () => {
    const pre = block.querySelector('pre');
    try {
      await navigator.clipboard.writeText(pre.textContent);
      copy.textContent = 'Copied';
    } catch {                          // no clipboard outside https and localhost
      document.getSelection().selectAllChildren(pre);
      copy.textContent = 'Selected: press Ctrl+C';
    }
  });
  views.append(copy);
  detail.append(facts, views, block);
  show(choices.includes(preferredView) ? preferredView : choices[0]);
  return detail;
}

export function moveTabStop(row) {
  if (row === tabStop) return;
  if (tabStop) tabStop.tabIndex = -1;
  if (row) row.tabIndex = 0;
  tabStop = row;
}

export function goToNewest() {
  for (const row of $('events').querySelectorAll('.row[aria-expanded=true]')) toggleRow(row);
  document.getSelection()?.removeAllRanges();
  $('events').focus({ preventScroll: true });
  $('events').scrollTop = 0;
  requestDraw();
}

export function setPaused(value) {
  paused = value;
  $('pause').textContent = paused ? 'Resume' : 'Pause';
  if (!paused) requestDraw();
  drawCounters();
}

export function clearEvents() {
  kept = [];
  arrived = [];
  keptText = 0;
  arrivedText = 0;
  droppedWhileHeld = 0;
  total = 0;
  moveTabStop(null);
  $('events').replaceChildren();
  drawCounters();
}

export function applyFilter() {
  const words = $('filter').value.trim();
  filter = words === '' ? null : new RegExp(words.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'), 'i');
  const rows = [];
  for (let i = kept.length - 1; i >= 0; i -= 1) if (matches(kept[i])) rows.push(rowOf(kept[i]));
  $('events').replaceChildren(...rows);
  $('events').scrollTop = 0;
  moveTabStop($('events').querySelector('.row'));
  showEmptyText();
  requestDraw();
}

export function showEmptyText() {
  const box = $('empty').firstElementChild;
  const active = [...subscriptions.values()].some((subscription) => subscription.state === 'active');
  const steps = (...texts) => {
    const list = el('ol');
    for (const text of texts) list.append(el('li', '', text));
    return list;
  };
  if (filter !== null) box.replaceChildren(el('p', '', 'No event matches the filter.'));
  else if (session.state === 'connected' && active) {
    box.replaceChildren(el('strong', '', 'Waiting for events'), el('p', '', 'They appear here as they happen. Make a call, or edit a user.'));
  } else if ($('token').getAttribute('aria-invalid') === 'true' && tokenText() !== '') {
    box.replaceChildren(el('strong', '', 'The token was refused'), el('p', '', 'Paste another one and press Enter.'));
  } else if (session.state === 'connected') {
    box.replaceChildren(el('strong', '', 'Connected'), el('p', '', 'Now choose what to watch: enter a binding such as call.*.* and press Enter, or choose one from the list and fill in its parameters.'));
  } else {
    box.replaceChildren(el('strong', '', 'Watch what happens in KAZOO, live'), steps(
      'Paste a token and connect. You get one by logging in to KAZOO\'s API; for development, run: auth-svc token --account ID',
      'Subscribe to a binding, for example call.*.* for every call of the account.',
      'Events appear here, newest first. Open one to see its JSON.'));
  }
}
