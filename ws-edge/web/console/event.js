// What a row shows of an event.

// A member of a body in either spelling: `Call-ID` (args) or `call_id` (data).
const member = (body, name) => body?.[name] ?? body?.[name.toLowerCase().replaceAll('-', '_')];
const firstText = (...values) => String(values.find((value) => typeof value === 'number' || (typeof value === 'string' && value !== '')) ?? '');

function summaryOf(name, body) {
  const get = (key) => firstText(member(body, key));
  const party = (who) => {
    const called = get(`${who}-ID-Name`), line = get(`${who}-ID-Number`);
    return called && line && called !== line ? `${called} ${line}` : called || line;
  };
  if (member(body, 'Event-Category') === 'call_event') {
    const from = party('Caller') || get('From').split('@')[0];
    const to = party('Callee') || get('To').split('@')[0];
    const parties = from && to ? `${from} → ${to}` : from || to;
    return [parties, get('Hangup-Cause')].filter(Boolean).join(', ');
  }
  const what = firstText(member(body, 'Event'), member(body, 'Application-Name'), member(body, 'Status'), member(body, 'Type'));
  const conference = get('Conference-ID');
  return [what, conference && get('Call-ID') ? `conference ${conference}` : ''].filter(Boolean).join(', ');
}

function kindOf(name, key) {
  if (name === 'CHANNEL_CREATE') return 'start';
  if (name === 'CHANNEL_ANSWER' || name === 'CHANNEL_BRIDGE' || name === 'PARK_RETRIEVED' || name === 'CHANNEL_UNHOLD') return 'answer';
  if (name === 'CHANNEL_HOLD' || name === 'PARK_PARKED') return 'hold';
  if (/^(doc|db)_/.test(name)) return 'document';
  if (key.startsWith('conference')) return 'conference';
  return 'end';
}

// The account whose database a routing key names: `doc_edited.account%2F4b%2F31%2Fdd1d….user.…`.
const databaseAccount = (key) => (key.match(/\.account%2F(..)%2F(..)%2F([^.-]{28})/i) ?? []).slice(1).join('');

export function readEvent(message, raw) {
  const body = message.args ?? message.data ?? {};
  const name = firstText(message.name, member(body, 'Event-Name'), 'event');
  const key = firstText(message.routing_key);
  return {
    at: Date.now(), raw, name, key,
    // Without escapes, so that the filter finds the text as displayed.
    text: /\\[u/]/.test(raw) ? `${raw}\n${JSON.stringify(message)}` : raw,
    id: firstText(member(body, 'Call-ID'), member(body, 'Conference-ID'), member(body, 'ID'), member(body, 'Job-ID')),
    account: firstText(member(body, 'Account-ID'), member(member(body, 'Custom-Channel-Vars'), 'Account-ID'), databaseAccount(key)),
    summary: summaryOf(name, body),
    kind: kindOf(name, key || firstText(member(body, 'Event-Category'))),
    binding: firstText(message.subscribed_key, message.subscription_key),
    patternKey: firstText(message.subscription_key), requestId: firstText(message.request_id),
    views: ['args', 'data'].filter((view) => view in message),
    node: null,
  };
}
