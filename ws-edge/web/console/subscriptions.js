// The subscriptions, and the states that the client reports of them.

import { $, clearProblem, el, showProblem } from './page.js';
import { keyOf, session, subscriptions } from './state.js';
import { isTokenProblem, suggestedAccount } from './token.js';
import { showEmptyText } from './events.js';

export function want(account, binding) {
  const key = keyOf(account, binding);
  if (!subscriptions.has(key)) subscriptions.set(key, { account, binding, state: 'waiting', reason: '', everActive: false });
  return subscriptions.get(key);
}

function takeStates() {
  if (session.state === 'disconnected') return;
  for (const { account, binding, state } of session.client?.subscriptions ?? []) {
    const subscription = subscriptions.get(keyOf(account ?? '', binding));
    if (!subscription) continue;
    subscription.state = state;
    subscription.everActive ||= state === 'active';
  }
}

export async function ask(group) {
  const { client } = session;
  try {
    await client.subscribe(group[0].account, group.map((subscription) => subscription.binding));
  } catch (error) {
    if (session.client !== client) return '';
    for (const subscription of group) Object.assign(subscription, { state: 'refused', reason: error.message });
    drawSubscriptions();
    showEmptyText();
    return error.message;
  }
  return '';
}

// With a new client: one request per account. One refused binding fails its whole request; then each is sent alone.
export async function askForAll() {
  clearProblem('subscribe');
  const problem = (text) => { if (text !== '' && !isTokenProblem(text)) showProblem('subscribe', text); };
  const byAccount = new Map();
  for (const subscription of subscriptions.values()) {
    byAccount.set(subscription.account, [...(byAccount.get(subscription.account) ?? []), subscription]);
  }
  for (const group of byAccount.values()) {
    ask(group).then((text) => {
      if (text === '' || group.length === 1 || isTokenProblem(text)) problem(text);
      else for (const subscription of group) ask([subscription]).then(problem);
    });
  }
}

function unsubscribe({ account, binding }) {
  clearProblem('unsubscribe');
  forget(session.client?.unsubscribe(account, binding), () => subscriptions.delete(keyOf(account, binding)));
}

export function unsubscribeAll() {
  clearProblem('unsubscribe');
  forget(session.client?.unsubscribe(), () => subscriptions.clear());
}

async function forget(unsubscribed, remove) {
  try {
    await unsubscribed;
  } catch (error) {
    showProblem('unsubscribe', error.message);
    return;
  }
  remove();
  drawSubscriptions();
  showEmptyText();
}

export function drawSubscriptions() {
  takeStates();
  const list = $('subscriptions');
  const before = [...list.querySelectorAll('button')].indexOf(document.activeElement);
  const allHadFocus = document.activeElement === $('unsubscribe-all');
  list.replaceChildren(...[...subscriptions.values()].map((subscription) => {
    const item = el('li', 'subscription');
    item.dataset.binding = subscription.binding;
    item.dataset.account = subscription.account;
    item.dataset.state = subscription.state;
    const text = el('div', 'text');
    const notes = [];
    if (subscription.account !== '' && subscription.account !== suggestedAccount) {
      notes.push(subscription.account === '*' ? 'all accounts' : `account ${subscription.account}`);
    }
    if (subscription.state === 'waiting') notes.push('when connected');
    if (subscription.state === 'asked') notes.push('subscribing…');
    if (subscription.state === 'refused') notes.push(isTokenProblem(subscription.reason) ? 'needs a valid token' : `refused: ${subscription.reason}`);
    text.append(el('code', '', subscription.binding), el('span', 'note', notes.join(', ')));
    const button = el('button', 'quiet', '×');
    button.type = 'button';
    button.title = 'Unsubscribe';
    button.setAttribute('aria-label', `Unsubscribe ${subscription.binding}`);
    button.addEventListener('click', () => unsubscribe(subscription));
    item.append(text, button);
    return item;
  }));
  $('unsubscribe-all').hidden = subscriptions.size === 0;
  $('no-subscriptions').hidden = subscriptions.size > 0;
  if (before >= 0 || (allHadFocus && subscriptions.size === 0)) {
    const buttons = list.querySelectorAll('button');
    (buttons[Math.min(before, buttons.length - 1)] ?? $('binding')).focus();
  }
}

export function forgetStates() {
  for (const subscription of subscriptions.values()) if (subscription.state !== 'refused') subscription.state = 'waiting';
}
