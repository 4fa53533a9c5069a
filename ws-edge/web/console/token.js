// The token that the user has pasted.

import { $, plural } from './page.js';

// The unverified claims of a JWT, to show them and to suggest the account.
function claimsOf(token) {
  try {
    const part = token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/');
    const bytes = Uint8Array.from(atob(part), (c) => c.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes));
    return claims !== null && typeof claims === 'object' ? claims : null;
  } catch {
    return null;
  }
}

export const tokenText = () => $('token').value.trim().replace(/^Bearer\s+/i, '');
export let suggestedAccount = '';

export function describeToken() {
  const token = tokenText();
  const info = $('token-info');
  const claims = claimsOf(token);
  if (token === '') info.textContent = '';
  else if (!claims) info.textContent = 'This does not look like a JWT. It is sent unchanged.';
  else {
    const parts = [];
    if (claims.account_id) parts.push(`Account ${claims.account_id}`);
    if (typeof claims.exp === 'number') {
      const minutes = Math.round((claims.exp * 1000 - Date.now()) / 60000);
      const size = Math.abs(minutes);
      const span = size < 1 ? 'less than a minute' : size < 120 ? plural(size, 'minute') : size < 2880 ? plural(Math.round(size / 60), 'hour') : plural(Math.round(size / 1440), 'day');
      parts.push(claims.exp * 1000 < Date.now() ? `expired ${span} ago` : `expires in ${span}`);
    }
    info.textContent = parts.join(', ');
  }
  // Use the token's account until the user chooses another.
  const own = typeof claims?.account_id === 'string' ? claims.account_id : '';
  if ($('account').value === suggestedAccount) $('account').value = own;
  suggestedAccount = own;
}

export const isTokenProblem = (text) => /^(failed to authenticate|authentication token)/i.test(text);
