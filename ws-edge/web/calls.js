// The page of live calls: what lives when the page connects, and then every change. Only the rows in view are drawn, so
// thousands of calls cost no more than a screenful.

const $ = (id) => document.getElementById(id);
const BINDING = 'call.*.*';
const CONFERENCES = 'conference.event.*.*.*';   // of all conferences: for superduper admins only
const DRAW_MS = 200;
const SPARE_ROWS = 6;
const GREGORIAN = 62167219200;                  // seconds from year 0 to 1970
const STATES = ['ringing', 'talking', 'held', 'parked', 'conference'];

const calls = new Map();             // by account and Call-ID, in the order in which they became known
const byId = new Map();              // the keys of the calls with a Call-ID
const participants = new Map();      // by account and Call-ID: the conference
let client = null;
let state = 'disconnected';
let isComplete = false;
let keptSince = 0;
let onlyState = '';
let filter = '';
let shown = [];
let isDrawing = false;
let mustSelect = true;

/* ---- What the events say ---- */

const vars = (body) => body['Custom-Channel-Vars'] ?? {};
const text = (value) => (typeof value === 'string' ? value : '');
const userOf = (address) => text(address).split('@')[0].replace(/^sips?:/, '');
const accountOf = (body, routingKey) => text(vars(body)['Account-ID'] ?? body['Account-ID']) || routingKey.split('.')[1] || '';

// KAZOO's time of the event, in ms since 1970: seconds since year 0, or microseconds.
function timeOf(body) {
  const stamp = Number(body.Timestamp);
  if (!Number.isFinite(stamp) || stamp <= 0) return Date.now();
  const seconds = stamp > 1e14 ? stamp / 1e6 : stamp > 1e11 ? stamp / 1e3 : stamp;
  const time = (seconds > GREGORIAN ? seconds - GREGORIAN : seconds) * 1000;
  const age = Date.now() - time;
  return age > -60000 && age < 40 * 86400000 ? Math.min(time, Date.now()) : Date.now();
}

const NEXT = {
  CHANNEL_CREATE: 'ringing', CHANNEL_ANSWER: 'talking', CHANNEL_BRIDGE: 'talking', CHANNEL_HOLD: 'held',
  CHANNEL_UNHOLD: 'talking', PARK_PARKED: 'parked', PARK_RETRIEVED: 'talking', PARK_ABANDONED: 'parked',
};

function callEvent({ name, args: body, routing_key: key }) {
  const id = text(body['Call-ID']);
  const account = accountOf(body, key);
  const known = find(account, id, body);
  if (name === 'CHANNEL_DESTROY') {
    if (known) remove(known);
    return;
  }
  const call = known ?? { key: `${account}\n${id}`, id, account, from: '', fromMore: '', to: '', toMore: '', state: 'ringing', since: 0, slot: '' };
  if (isRealm(call.account) && !isRealm(account)) {
    remove(call);                    // it comes again, as the account's
    Object.assign(call, { account, key: `${account}\n${id}` });
  }
  const next = NEXT[name] ?? call.state;
  const isAnswered = name === 'CHANNEL_BRIDGE' && call.state === 'talking';   // it talks already
  if (next !== call.state || call.since === 0) call.since = isAnswered ? call.since : timeOf(body);
  call.state = next;
  call.name = text(vars(body)['Account-Name']) || call.name || '';
  call.realm = text(vars(body).Realm) || call.realm || '';
  call.slot = text(body['Parking-Slot']) || (next === 'parked' ? call.slot : '');
  const name1 = text(body['Caller-ID-Name']), number1 = text(body['Caller-ID-Number']) || userOf(body.From);
  [call.from, call.fromMore] = name1 || number1 ? [name1 || number1, name1 && name1 !== number1 ? number1 : ''] : [call.from, call.fromMore];
  const name2 = text(body['Callee-ID-Name'] ?? body['Other-Leg-Callee-ID-Name']);
  const number2 = text(body['Callee-ID-Number'] ?? body['Other-Leg-Callee-ID-Number']) || userOf(body.To ?? body.Request);
  [call.to, call.toMore] = name2 || number2 ? [name2 || number2, name2 && name2 !== number2 ? number2 : ''] : [call.to, call.toMore];
  call.text = '';
  if (!calls.has(call.key)) byId.set(id, [...(byId.get(id) ?? []), call.key]);
  calls.set(call.key, call);
}

const isRealm = (account) => !account || /^[@*]/.test(account);

// The first and the last events of a call may name only its realm.
function find(account, id, body) {
  const known = calls.get(`${account}\n${id}`);
  if (known) return known;
  const realm = text(vars(body).Realm);
  return (byId.get(id) ?? []).map((key) => calls.get(key))
    .find((call) => realm && call.realm === realm && (isRealm(account) || isRealm(call.account)));
}

function remove(call) {
  calls.delete(call.key);
  const rest = (byId.get(call.id) ?? []).filter((key) => key !== call.key);
  if (rest.length > 0) byId.set(call.id, rest);
  else byId.delete(call.id);
}

function conferenceEvent({ args: body, routing_key: key }) {
  const id = text(body['Call-ID']);
  if (!id) return;
  const own = `${accountOf(body, key)}\n${id}`;
  if (body.Event === 'del-member') participants.delete(own);
  else if (/-(member|talking)$/.test(text(body.Event))) participants.set(own, text(body['Conference-ID']));
  const call = calls.get(own);
  if (call) call.text = '';
}

const stateOf = (call) => (participants.has(call.key) && call.state === 'talking' ? 'conference' : call.state);

/* ---- The connection ---- */

function watch() {
  client?.close();
  const token = $('token').value.trim().replace(/^Bearer\s+/i, '');
  if (!token) return problem('A token is needed.');
  problem('');
  forget();
  const url = `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}${location.pathname.replace(/[^/]*$/, '')}?view=args`;
  const account = $('account').value.trim() || null;
  const own = client = new BlackholeClient(url, {
    token,
    name: 'live calls',
    onstate: (now, { code, reason } = {}) => { if (client === own) setState(now, reason || (code ? `closed with ${code}` : '')); },
    onevent: (event) => {
      if (/^conference\./.test(event.routing_key)) conferenceEvent(event);
      else callEvent(event);
      changed();
    },
    onpresent: ({ bindings, complete, keptSince: since }) => {
      const isCalls = bindings.includes(BINDING);
      if (!complete && isCalls) forgetCalls();
      else if (!complete) participants.clear();
      else if (isCalls) {
        isComplete = true;
        keptSince = since ?? keptSince;
      }
      if (!complete && isCalls) isComplete = false;
      changed();
    },
    onrevoked: ({ reason }) => problem(`Access has ended: ${reason}`),
    onerror: (error) => problem(error.message),
  });
  const failed = (error) => { if (client === own) problem(error.message); };
  own.subscribe(account, BINDING, { state: true }).then((data) => {
    // It begins with nothing, and follows.
    if (data.state !== true && client === own) note(`Calls that live already are not shown: ${data.state_reason ?? 'this edge is of an earlier release'}.`);
  }, failed);
  // Who may not see all conferences does without.
  own.subscribe(account, CONFERENCES, { state: true }).catch(() => {});
}

function forgetCalls() {
  calls.clear();
  byId.clear();
}

function forget() {
  forgetCalls();
  participants.clear();
  [isComplete, keptSince] = [false, 0];
  note('');
  changed();
}

function setState(now, detail) {
  state = now === 'open' ? 'connected' : now === 'ended' ? 'disconnected' : now;
  $('status').dataset.state = state;
  $('status').textContent = state;
  $('status-detail').textContent = detail;
  if (now === 'ended' && detail && !/closed by the application/.test(detail)) problem(detail);
  changed();
}

function problem(what) {
  if ($('problem').textContent !== what) $('problem').textContent = what;
}
function note(what) {
  if ($('note').textContent !== what) $('note').textContent = what;
}

/* ---- Drawing ---- */

function changed() {
  mustSelect = true;
  draw();
}

function draw() {
  if (isDrawing) return;
  isDrawing = true;
  setTimeout(() => requestAnimationFrame(() => { isDrawing = false; drawNow(); }), DRAW_MS / 4);
}

const textOf = (call) => (call.text ||= `${call.from} ${call.fromMore} ${call.to} ${call.toMore} ${call.account} ${call.name} ${call.realm} ${call.id}`.toLowerCase());

// Counts all calls, and finds those to be shown.
function select() {
  const counts = Object.fromEntries(STATES.map((one) => [one, 0]));
  const matching = [];
  let all = 0;
  for (const call of calls.values()) {
    if (filter && !textOf(call).includes(filter)) continue;
    const now = stateOf(call);
    counts[now] += 1;
    all += 1;
    if (onlyState === '' || onlyState === now) matching.push(call);
  }
  shown = matching;
  $('count-all').textContent = all.toLocaleString('en');
  for (const one of STATES) $(`count-${one}`).textContent = counts[one].toLocaleString('en');
}

const rowHeight = () => (matchMedia('(max-width: 720px)').matches ? 104 : 44);
const rows = [];

function row(index) {
  while (rows.length <= index) {
    const node = document.createElement('div');
    node.className = 'call';
    node.setAttribute('role', 'row');
    for (const name of ['state', 'for', 'from who', 'to who', 'account']) {
      const cell = document.createElement('span');
      cell.className = name;
      cell.setAttribute('role', 'cell');
      if (name.endsWith('who')) cell.append(document.createElement('span'), Object.assign(document.createElement('span'), { className: 'more' }));
      node.append(cell);
    }
    rows.push(node);
  }
  return rows[index];
}

const set = (node, value) => { if (node.textContent !== value) node.textContent = value; };

function drawNow() {
  if (mustSelect) {
    mustSelect = false;
    select();
  }
  const height = rowHeight();
  const list = $('list');
  $('space').style.height = `${shown.length * height}px`;
  const first = Math.max(0, Math.min(Math.floor(list.scrollTop / height), shown.length) - SPARE_ROWS);
  const count = Math.min(shown.length - first, Math.ceil(list.clientHeight / height) + 2 * SPARE_ROWS);
  const now = Date.now();
  for (let index = 0; index < count; index += 1) {
    const node = row(index);
    fill(node, shown[first + index], first + index, height, now);
    if (node.parentNode === null) $('space').append(node);
  }
  for (const node of rows.slice(Math.max(count, 0))) node.remove();
  list.setAttribute('aria-rowcount', String(shown.length));
  set($('empty'), shown.length > 0 ? '' : emptyText());
  if (isComplete && keptSince > 0 && now - keptSince < 86400000) {
    note(`Calls of which nothing was heard since ${new Date(keptSince).toLocaleString()} are not shown.`);
  }
}

function fill(node, call, index, height, now) {
  const [stateCell, forCell, from, to, account] = node.children;
  const own = stateOf(call);
  node.style.transform = `translateY(${index * height}px)`;
  node.dataset.state = own;
  node.dataset.call = call.id;
  node.setAttribute('aria-rowindex', String(index + 1));
  node.title = `Call-ID ${call.id}`;
  set(stateCell, own === 'parked' && call.slot ? `parked ${call.slot}` : own);
  set(forCell, duration(now - call.since));
  set(from.firstChild, call.from || 'unknown');
  set(from.lastChild, call.fromMore);
  set(to.firstChild, call.to || 'unknown');
  set(to.lastChild, call.toMore);
  set(account, call.name || (isRealm(call.account) ? call.realm : call.account));
  account.title = call.account;
}

function duration(millis) {
  const seconds = Math.max(0, Math.floor(millis / 1000));
  const two = (value) => String(value).padStart(2, '0');
  const rest = `${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
  return seconds >= 3600 ? `${Math.floor(seconds / 3600)}:${rest}` : rest;
}

function emptyText() {
  if (state !== 'connected') return client === null ? 'Paste a token to see the calls that live now.' : '';
  if (calls.size > 0) return 'No call matches.';
  return isComplete ? 'Nobody is on the phone.' : '';
}

/* ---- The page ---- */

function readFragment() {
  const given = new URLSearchParams(location.hash.slice(1));
  const token = given.get('token');
  if (token === null) return;
  history.replaceState(null, '', location.href.split('#')[0]);
  $('token').value = token;
  $('account').value = given.get('account') ?? '';
  watch();
}

$('connect-form').addEventListener('submit', (event) => { event.preventDefault(); watch(); });
$('filter').addEventListener('input', () => { filter = $('filter').value.trim().toLowerCase(); $('list').scrollTop = 0; changed(); });
for (const button of document.querySelectorAll('.states button')) {
  button.addEventListener('click', () => {
    onlyState = button.dataset.state;
    for (const other of document.querySelectorAll('.states button')) other.setAttribute('aria-pressed', String(other === button));
    $('list').scrollTop = 0;
    changed();
  });
}
$('list').addEventListener('scroll', () => { if (!isDrawing) requestAnimationFrame(drawNow); }, { passive: true });
addEventListener('resize', draw);
addEventListener('hashchange', readFragment);
setInterval(() => { if (shown.length > 0 && !document.hidden) drawNow(); }, 1000);
readFragment();
draw();
