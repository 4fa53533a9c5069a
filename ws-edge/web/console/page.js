// Elements of the page, and how numbers, times and problems are shown.

export const $ = (id) => document.getElementById(id);
export const el = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};
export const number = (value) => value.toLocaleString('en');
export const plural = (count, one, many = one + 's') => `${number(count)} ${count === 1 ? one : many}`;
const digits = (value, width) => String(value).padStart(width, '0');
export const clock = (time, withMillis) => {
  const d = new Date(time);
  const seconds = `${digits(d.getHours(), 2)}:${digits(d.getMinutes(), 2)}:${digits(d.getSeconds(), 2)}`;
  return withMillis ? `${seconds}.${digits(d.getMilliseconds(), 3)}` : seconds;
};

export function setText(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}
export function setNumber(id, value) {
  setText(id, value > 0 && value < 10 && !Number.isInteger(value) ? value.toFixed(1) : number(Math.round(value)));
  $(id).dataset.value = String(value);
}

// A problem is shown beside its control.
const FIELDS = { token: 'token', subscribe: 'binding' };
export function showProblem(id, text) {
  setText(`${id}-problem`, text);     // unchanged text is not announced again
  if (FIELDS[id]) $(FIELDS[id]).setAttribute('aria-invalid', String(text !== ''));
}
export const clearProblem = (id) => showProblem(id, '');
