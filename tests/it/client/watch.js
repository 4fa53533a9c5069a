// Runs the client in a page or in Node and reports what happens, in order. The tests define `config` and `report`.
const client = new BlackholeClient(config.url, {
  ...config.options,
  token: config.token ?? (() => { report({ token: 'asked for' }); return Array.isArray(config.tokens) ? config.tokens.shift() : config.tokens; }),
  onevent: (event) => report({
    account: event.args['Custom-Channel-Vars']['Account-ID'], binding: event.subscribed_key, number: event.args.Number,
  }),
  ...(config.state && { onpresent: ({ bindings, complete }) => report({ present: bindings, complete }) }),
  onstate: (state, detail) => report({ state, ...detail }),
  ongap: (gap) => report({ gap }),
  onrevoked: (revoked) => report({ revoked }),
  onerror: (error) => report({ error: error.message }),
});
function subscribe(account, bindings) {
  client.subscribe(account, bindings, { state: config.state }).then(
    (data) => report({ subscribed: data.subscribed }),
    (error) => report({ refused: error.message }),
  );
}
for (const [account, bindings] of config.subscriptions) subscribe(account, bindings);
if (config.retryEvery) setInterval(() => client.retry(), config.retryEvery);
