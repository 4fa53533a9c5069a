// The form that subscribes: the bindings that the edge offers, and fields for their parameters.

import { $, clearProblem, el, showProblem } from './page.js';
import { keyOf, session, subscriptions } from './state.js';
import { isTokenProblem } from './token.js';
import { showEmptyText } from './events.js';
import { ask, drawSubscriptions, want } from './subscriptions.js';
import { logNote } from './replies.js';

// The available bindings with their parameters, as the edge lists them: [{ binding, about, values, required, … }].
export let offers = [];

const PARAMETER = /\{([^}]*)\}/g;
const parametersOf = (offer) => [...offer.binding.matchAll(PARAMETER)].map((match) => match[1]);
const needed = (offer, name) => ['required', 'required_unless_superduper'].some((list) => offer[list]?.includes(name));
const inWords = (name) => name.replaceAll('_', ' ');

// The binding with `*` for every parameter that may be a wildcard.
export const widest = (offer) => offer.binding.replace(PARAMETER, (blank, name) => (needed(offer, name) ? blank : '*'));

// A dot inside a word is written %2E; the edge then treats the whole word as encoded.
function asWord(text) {
  if (!text.includes('.')) return text;
  const encoded = /%[0-9a-f]{2}/i.test(text) ? text : text.replaceAll('%', '%25').replaceAll('+', '%2B');
  return encoded.replaceAll('.', '%2E');
}

function choose(offer) {
  $('binding').value = widest(offer);
  clearProblem('subscribe');
  const field = drawParameters(offer);
  if (field) {
    field.focus();
    field.select();
  } else $('binding').focus();
}

function chooseNothing() {
  $('binding').value = '';
  $('parameters').replaceChildren();
}

// One field for each parameter, which updates the binding. Returns the first required field, else the first one.
export function drawParameters(offer) {
  const fields = parametersOf(offer).map((name, index) => {
    const field = el('input', 'mono');
    field.id = `parameter-${index}`;
    field.dataset.name = name;
    field.autocomplete = 'off';
    field.spellcheck = false;
    field.value = needed(offer, name) ? '' : '*';
    field.placeholder = field.value === '' ? 'required' : '*';
    field.setAttribute('aria-required', String(field.value === ''));
    if (offer.required_unless_superduper?.includes(name)) field.title = 'Superduper admins may write * with account *.';
    const values = offer.values?.[name];
    if (values) {
      field.setAttribute('list', `values-${index}`);
    }
    field.addEventListener('input', () => {
      clearProblem('subscribe');
      const written = Object.fromEntries(fields.map((one) => [one.dataset.name, asWord(one.value.trim())]));
      $('binding').value = offer.binding.replace(PARAMETER, (blank, one) => written[one] || blank);
    });
    return field;
  });
  $('parameters').replaceChildren(...fields.map((field, index) => {
    const item = el('div');
    const label = el('label', '', inWords(field.dataset.name));
    label.htmlFor = field.id;
    item.append(label, field);
    const values = offer.values?.[field.dataset.name];
    if (values) {
      const list = el('datalist');
      list.id = `values-${index}`;
      for (const value of needed(offer, field.dataset.name) ? values : ['*', ...values]) list.append(new Option(value));
      item.append(list);
    }
    return item;
  }));
  return fields.find((field) => field.value === '') ?? fields[0];
}

function drawOffers() {
  $('bindings').replaceChildren(...offers.map((offer) => {
    const option = el('option');
    option.value = widest(offer);
    option.label = offer.about ?? '';
    return option;
  }));
  $('common-bindings').replaceChildren(...offers.map((offer) => {
    const item = el('li');
    const button = el('button', 'quiet mono', offer.binding);
    button.type = 'button';
    button.addEventListener('click', () => choose(offer));
    item.append(button, el('span', '', offer.about ?? `Family ${offer.family}`));
    return item;
  }));
}

export async function loadOffers() {
  try {
    const listed = await (await fetch('bindings')).json();
    if (Array.isArray(listed.bindings)) offers = listed.bindings;
  } catch {
    logNote('The server does not list its bindings.');
  }
  drawOffers();
}

// Selects the first {parameter} of the binding, so that typing replaces it.
function selectBlank() {
  const blank = $('binding').value.match(/\{[^}]*\}/);
  if (blank) $('binding').setSelectionRange(blank.index, blank.index + blank[0].length);
}

export function subscribeFromForm() {
  const binding = $('binding').value.trim();
  const account = $('account').value.trim();
  clearProblem('subscribe');
  const blank = binding.match(/\{([^}]*)\}/);
  if (binding === '') {
    showProblem('subscribe', 'Enter a binding, or choose one from the list.');
    $('binding').focus();
    return;
  }
  if (blank) {
    showProblem('subscribe', `Fill in the ${inWords(blank[1])} first.`);
    const field = $('parameters').querySelector(`[data-name="${CSS.escape(blank[1])}"]`);
    (field ?? $('binding')).focus();
    if (!field) selectBlank();
    return;
  }
  const subscription = want(account, binding);
  if (session.state !== 'connected') {
    if (session.client) ask([subscription]);
    chooseNothing();
    drawSubscriptions();
    showEmptyText();
    return;
  }
  ask([subscription]).then((text) => {
    if (text === '') {
      if ($('binding').value.trim() === binding) chooseNothing();
      return;
    }
    if (!subscription.everActive) subscriptions.delete(keyOf(account, binding));
    drawSubscriptions();
    if (!isTokenProblem(text)) showProblem('subscribe', text);
  });
  drawSubscriptions();
}
