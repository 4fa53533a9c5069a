//! Loops over what comes for some bindings, and tokens that are renewed before they end.

use super::*;

in_each_language!(
    a_loop_gets_events_and_notices_in_order_and_unsubscribes_at_its_end,
    a_loop_ends_with_the_reason,
    a_token_from_a_function_is_renewed_before_it_ends,
    unsubscribing_the_tokens_own_account_leaves_the_others,
);

const LOOP_JS: &str = "
const client = new BlackholeClient(config.url, { token: config.token, onstate: (state) => report({ state }) });
async function follow(bindings, options, others) {
  const watch = client.watch(config.account, bindings, options);
  try {
    await watch.subscribed;
    report({ subscribed: bindings });
    await others;
    for await (const { action, complete, args, reason } of watch) {
      report({ action, complete, number: args?.Number, reason });
      if (args?.Number === config.last) break;
    }
    report({ done: client.subscriptions });
  } catch (error) { report({ thrown: error.message }); }
}
// Those with a limit read when the others have ended.
const others = config.watches.filter(([, { limit }]) => !limit).map((watch) => follow(...watch));
for (const watch of config.watches.filter(([, { limit }]) => limit)) follow(...watch, Promise.all(others));
";

const LOOP_PY: &str = "
import asyncio
from blackhole_events import BlackholeClient, BlackholeError
async def follow(client, bindings, options, others=()):
    try:
        async with client.watch(config['account'], bindings, **options) as watch:
            await watch.subscribed
            report({'subscribed': bindings})
            await asyncio.gather(*others)
            async for message in watch:
                number = message.get('args', {}).get('Number')
                what = {'action': message['action'], 'complete': message.get('complete'), 'number': number, 'reason': message.get('reason')}
                report({name: value for name, value in what.items() if value is not None})
                if number == config.get('last', -1):
                    break
        report({'done': client.subscriptions})
    except BlackholeError as error:
        report({'thrown': str(error)})
async def main():
    async with BlackholeClient(config['url'], token=config['token'], on_state=lambda state, _: report({'state': state})) as client:
        # Those with a limit read when the others have ended.
        others = [asyncio.create_task(follow(client, *watch)) for watch in config['watches'] if 'limit' not in watch[1]]
        await asyncio.gather(*others, *(follow(client, *watch, others) for watch in config['watches'] if 'limit' in watch[1]))
        await client.wait_ended()
asyncio.run(main())
";

fn looping(language: Language, config: &Value) -> Watcher {
    match language {
        Language::JavaScript => Watcher::script_in_node(config, LOOP_JS, &[]),
        Language::Python => Watcher::script_in_python(config, LOOP_PY),
    }
}

fn of(account: &Account, watches: Value) -> Value {
    let url = Stack::shared().edge.url("view=args");
    json!({ "url": url, "token": account.token(), "account": account.id, "watches": watches })
}

async fn a_loop_gets_events_and_notices_in_order_and_unsubscribes_at_its_end(language: Language) {
    let (account, publisher) = (Account::fresh(), Stack::shared().publisher().await);
    event(&account, 2).publish(&publisher).await;
    until_kept(Stack::shared(), &account, &["call.*.*"], 1).await;
    let mut config = of(&account, json!([["call.*.*", { "state": true }]]));
    config["last"] = json!(3);
    let watcher = looping(language, &config);
    watcher.until("the present", 1, |one| one["complete"] == true).await;
    event(&account, 3).publish(&publisher).await;
    watcher.until("the end of the loop", 1, |one| !one["done"].is_null()).await;
    let seen = watcher.seen().await;
    let seen: Vec<&Value> = seen.iter().filter(|one| one["state"].is_null()).collect();
    assert_eq!(
        seen,
        [
            &json!({ "subscribed": "call.*.*" }),
            &json!({ "action": "present", "complete": false }),
            &json!({ "action": "event", "number": 2 }),
            &json!({ "action": "present", "complete": true }),
            &json!({ "action": "event", "number": 3 }),
            &json!({ "done": [] }),
        ]
    );
    watcher.close().await;
}

async fn a_loop_ends_with_the_reason(language: Language) {
    let (account, publisher) = (Account::fresh(), Stack::shared().publisher().await);
    let refused = looping(language, &of(&account, json!([["no.such.family", {}]])));
    let reason = "no available subscriptions to requested binding";
    refused.until("the refusal", 1, |one| one["thrown"] == reason).await;
    refused.close().await;

    // It is read when the other loop has got all. What waits is read before the reader learns that more came than may wait.
    let mut config = of(&account, json!([["call.*.*", { "limit": 2 }], ["call.CHANNEL_CREATE.*", {}]]));
    config["last"] = json!(6);
    let slow = looping(language, &config);
    slow.until_subscribed(2).await;
    for number in [2, 4, 6] {
        event(&account, number).publish(&publisher).await;
    }
    let thrown = slow.until("the end", 1, |one| !one["thrown"].is_null()).await;
    assert_eq!(thrown[0]["thrown"], "the reader is too slow: 2 messages wait");
    // The other one is not concerned.
    slow.until("the other's end", 1, |one| one["done"] == json!([])).await;
    let numbers = slow.until("both's events", 5, |one| one["number"].is_number()).await;
    assert_eq!(numbers.len(), 5, "{numbers:?}");
    slow.close().await;
}

async fn a_token_from_a_function_is_renewed_before_it_ends(language: Language) {
    let (edge, account) = (&Stack::shared().edge, Account::fresh());
    let url = edge.url("view=args");
    let short = account.token_for(Duration::from_secs(6));
    let subscriptions: [(&Account, &[&str]); 1] = [(&account, &["call.*.*"])];
    let mut renewing = config(&url, given(&account), &subscriptions);
    renewing["tokens"] = json!([short, account.token()]);
    let renewing = Watcher::start(language, &renewing);
    let fixed = Watcher::start(language, &config(&url, json!(short), &subscriptions));
    renewing.until_subscribed(1).await;
    fixed.until("the end of the token", 1, |one| one["state"] == "ended" && one["code"] == 4401).await;
    event(&account, 1).publish(&Stack::shared().publisher().await).await;
    renewing.until_number(&account, 1).await;
    let seen = renewing.seen().await;
    assert_eq!(seen.iter().filter(|one| one["token"] == "asked for").count(), 2, "{seen:?}");
    assert!(seen.iter().all(|one| one["state"] != "waiting" && one["error"].is_null()), "{seen:?}");
    renewing.close().await;
}

const OWN_JS: &str = "
const client = new BlackholeClient(config.url, { token: config.token });
await client.subscribe(null, ['call.*.*', 'fax.status.*']);
await client.subscribe(config.child, 'call.*.*');
report({ left: (await client.unsubscribe(null)).subscriptions, known: client.subscriptions.length });
report({ again: await client.unsubscribe(null) });
";

const OWN_PY: &str = "
import asyncio
from blackhole_events import BlackholeClient
async def main():
    async with BlackholeClient(config['url'], token=config['token']) as client:
        await client.subscribe(None, ['call.*.*', 'fax.status.*'])
        await client.subscribe(config['child'], 'call.*.*')
        left = (await client.unsubscribe(None))['subscriptions']
        report({'left': left, 'known': len(client.subscriptions)})
        report({'again': await client.unsubscribe(None)})
        await client.wait_ended()
asyncio.run(main())
";

async fn unsubscribing_the_tokens_own_account_leaves_the_others(language: Language) {
    let pair = AccountPair::fresh();
    let url = Stack::shared().edge.url("view=args");
    let config = json!({ "url": url, "token": pair.parent.token(), "child": pair.child.id });
    let watcher = match language {
        Language::JavaScript => Watcher::script_in_node(&config, OWN_JS, &[]),
        Language::Python => Watcher::script_in_python(&config, OWN_PY),
    };
    watcher.until("the second answer", 1, |one| !one["again"].is_null()).await;
    assert_eq!(watcher.seen().await, [json!({ "left": ["call.*.*"], "known": 1 }), json!({ "again": {} })]);
}
