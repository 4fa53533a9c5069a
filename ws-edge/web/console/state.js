// What the console knows of its connection and subscriptions.

export const session = { client: null, state: 'disconnected', url: '', why: '', retryAt: 0, wasOpen: false, failures: 0 };

// The user's subscriptions by account and binding. They outlive the client, which reports the state of each: waiting (no
// connection), asked, active, refused.
export const subscriptions = new Map();
export const keyOf = (account, binding) => `${account}\n${binding}`;
