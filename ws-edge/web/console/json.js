// JSON, only indented: numbers and order stay as received.

import { el } from './page.js';

const JSON_TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\],:]|[^\s{}[\],:"]+/g;

export function jsonBlock(text) {
  const pre = el('pre');
  pre.tabIndex = 0;
  pre.setAttribute('aria-label', 'JSON');
  const tokens = text.match(JSON_TOKEN) ?? [];
  const isColoured = tokens.length < 20000;
  const isOpener = (token) => token === '{' || token === '[';
  const isCloser = (token) => token === '}' || token === ']';
  let depth = 0;
  let plain = '';
  const newLine = () => `\n${'  '.repeat(Math.min(depth, 40))}`;
  tokens.forEach((token, i) => {
    if (isOpener(token)) {
      depth += 1;
      plain += isCloser(tokens[i + 1]) ? token : token + newLine();
    } else if (isCloser(token)) {
      depth -= 1;
      plain += isOpener(tokens[i - 1]) ? token : newLine() + token;
    } else if (token === ',') plain += token + newLine();
    else if (token === ':') plain += ': ';
    else if (!isColoured) plain += token;
    else {
      pre.append(plain, el('span', tokens[i + 1] === ':' ? 'key' : token[0] === '"' ? 'string' : 'value', token));
      plain = '';
    }
  });
  pre.append(plain);
  return pre;
}

// The text of one member of a JSON object, unchanged.
export function memberText(text, name) {
  let depth = 0;
  let start = -1;
  let afterName = false;
  for (const match of text.matchAll(JSON_TOKEN)) {
    const token = match[0];
    if (start >= 0 && depth === 1 && (token === ',' || token === '}')) return text.slice(start, match.index);
    if (afterName && token !== ':') { start = match.index; afterName = false; }
    else if (start < 0 && depth === 1 && token === `"${name}"`) afterName = text[match.index + token.length] === ':' || /^\s*:/.test(text.slice(match.index + token.length, match.index + token.length + 20));
    if (token === '{' || token === '[') depth += 1;
    else if (token === '}' || token === ']') depth -= 1;
  }
  return undefined;
}
