//! A model of calls, and clients that ask for the state: what each believes to be living is compared with what lives.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use blackhole_dev::simulator::Publisher;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use crate::{
    accounts::Account,
    client::{Client, Incoming},
    events,
};

/// Calls of some accounts, whose events have numbers: what lives after each number is known.
#[derive(Debug)]
pub struct Calls {
    /// The accounts.
    pub accounts: Vec<Account>,
    /// Number `n` is at index `n`.
    steps: Mutex<Vec<Step>>,
}

#[derive(Clone, Debug)]
struct Step {
    account: usize,
    call: String,
    lives: bool,
}

/// What became of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// How many kept events it got.
    pub kept: usize,
    /// Time from the request to the end of the kept events.
    pub complete: Duration,
    /// Time from the reply until it believed exactly what was true then, or later.
    pub correct: Duration,
}

/// The call that ends a run, which lives on.
const LAST: &str = "the-last-one";

impl Calls {
    /// Calls of so many accounts.
    pub fn new(accounts: usize) -> Arc<Calls> {
        let accounts = (0..accounts).map(|_| Account::fresh()).collect();
        Arc::new(Calls { accounts, steps: Mutex::default() })
    }

    fn record(&self, account: usize, call: &str, lives: bool) -> usize {
        let mut steps = self.steps.lock();
        steps.push(Step { account, call: call.to_owned(), lives });
        steps.len() - 1
    }

    /// The number of the last event that was published, or is about to be.
    fn last(&self) -> usize {
        self.steps.lock().len().saturating_sub(1)
    }

    async fn publish(&self, publisher: &Publisher, account: usize, name: &str, call: &str) {
        let number = self.record(account, call, name != "CHANNEL_DESTROY");
        let mut event = events::call(&self.accounts[account], name, call);
        event.body["Number"] = number.into();
        event.publish(publisher).await;
    }

    /// Begins and ends `per_second` calls a second until `stop`; about `living` live at a time. Ends with a call for each
    /// account that lives on.
    pub async fn run(
        &self,
        publisher: &Publisher,
        per_second: u32,
        living: usize,
        stop: impl Future<Output = ()>,
    ) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut stop = std::pin::pin!(stop);
        let mut calls: Vec<(usize, String)> = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                _ = ticks.tick() => {}
            }
            let account = rand::random_range(0..self.accounts.len());
            let call = format!("{:032x}@10.0.0.1", rand::random::<u128>());
            self.publish(publisher, account, "CHANNEL_CREATE", &call).await;
            calls.push((account, call));
            let (account, call) = &calls[rand::random_range(0..calls.len())];
            self.publish(publisher, *account, ["CHANNEL_ANSWER", "CHANNEL_HOLD"][calls.len() % 2], call)
                .await;
            if calls.len() > living {
                let (account, call) = calls.swap_remove(rand::random_range(0..calls.len()));
                self.publish(publisher, account, "CHANNEL_DESTROY", &call).await;
            }
        }
        for account in 0..self.accounts.len() {
            self.publish(publisher, account, "CHANNEL_CREATE", LAST).await;
        }
    }
}

/// What one client believes, beside what is true.
struct Belief<'c> {
    calls: &'c Calls,
    account: usize,
    believed: BTreeSet<String>,
    living: BTreeSet<String>,
    /// The first number that `living` does not know of.
    next: usize,
    seen: BTreeSet<usize>,
}

impl Belief<'_> {
    /// Takes in an event. Returns its number.
    fn take(&mut self, event: &Value) -> Result<usize, String> {
        let body = &event["args"];
        let number =
            body["Number"].as_u64().ok_or_else(|| format!("no event of the model: {event}"))? as usize;
        let call = body["Call-ID"].as_str().unwrap_or_default().to_owned();
        if !self.seen.insert(number) {
            return Err(format!("event {number} came twice: {event}"));
        }
        let lives = self.calls.steps.lock().get(number).is_some_and(|step| step.lives);
        if lives {
            self.believed.insert(call);
        } else {
            self.believed.remove(&call);
        }
        Ok(number)
    }

    /// Compares with what was true after event `number`.
    fn compare(&mut self, number: usize) -> Result<(), String> {
        {
            let steps = self.calls.steps.lock();
            for step in
                steps.iter().take(number + 1).skip(self.next).filter(|step| step.account == self.account)
            {
                if step.lives {
                    self.living.insert(step.call.clone());
                } else {
                    self.living.remove(&step.call);
                }
            }
        }
        self.next = self.next.max(number + 1);
        if self.believed == self.living {
            return Ok(());
        }
        let ghosts: Vec<_> = self.believed.difference(&self.living).take(3).collect();
        let missing: Vec<_> = self.living.difference(&self.believed).take(3).collect();
        Err(format!("after event {number}: ghosts {ghosts:?}, missing {missing:?}"))
    }
}

/// Joins with the state and compares what the client believes with what lives, after each event: until `until_last` the
/// last event of all, or else until it was right once.
///
/// # Errors
/// What was wrong. The client is disconnected (`Ok(None)`) if its edge was.
pub async fn join(
    calls: &Calls,
    account: usize,
    url: &str,
    until_last: bool,
) -> Result<Option<Joined>, String> {
    let Some(mut client) = Client::if_up(url).await else { return Ok(None) };
    let own = &calls.accounts[account];
    let (believed, living, seen) = Default::default();
    let mut belief = Belief { calls, account, believed, living, next: 0, seen };
    let started = Instant::now();
    let data = json!({ "account_id": own.id, "bindings": ["call.*.*"], "state": true });
    let request = json!({ "action": "subscribe", "auth_token": own.token(), "data": data, "request_id": 1 });
    client.send_text(request.to_string()).await;
    let (mut replied, mut complete, mut known, mut kept) = (None, None, 0, 0);
    let (mut oldest_first, mut early) = (0, None);
    let mut correct = None;
    loop {
        let frame = match tokio::time::timeout(Duration::from_secs(60), client.incoming()).await {
            Ok(Incoming::Json(frame)) => frame,
            Ok(Incoming::Closed(_)) => return Ok(None),
            Err(_) => return Err("nothing comes any more".to_owned()),
        };
        match frame["action"].as_str().unwrap_or_default() {
            "reply" if frame["data"]["state"] == true => {
                if let Some(early) = early {
                    return Err(format!("an event before the reply: {early}"));
                }
                (replied, known) = (Some(Instant::now()), calls.last());
            }
            // What is down says so.
            "reply" if until_last => return Err(frame.to_string()),
            "reply" => return Ok(None),
            "state" => {
                complete = Some(started.elapsed());
                kept = frame["events"].as_u64().unwrap_or_default() as usize;
                if kept != belief.seen.len() {
                    return Err(format!("{frame} after {} kept events", belief.seen.len()));
                }
            }
            "event" => {
                // Without the state live ones may come first.
                if replied.is_none() {
                    early = Some(frame);
                    continue;
                }
                let is_kept = frame["state"] == true;
                if is_kept != complete.is_none() {
                    return Err(format!(
                        "kept events come before the end of the state, and no others: {frame}"
                    ));
                }
                let number = belief.take(&frame)?;
                if is_kept {
                    if number < oldest_first {
                        return Err(format!("event {number} came after {oldest_first}"));
                    }
                    oldest_first = number;
                    continue;
                }
                if number >= known || correct.is_some() {
                    belief.compare(number)?;
                    correct = correct.or(replied.map(|replied| replied.elapsed()));
                }
            }
            _ => return Err(format!("an unexpected frame: {frame}")),
        }
        let (Some(complete), is_last) = (complete, belief.believed.contains(LAST)) else { continue };
        if is_last {
            belief.compare(calls.last())?;
            let correct = correct.or(replied.map(|replied| replied.elapsed()));
            return Ok(Some(Joined { kept, complete, correct: correct.unwrap_or_default() }));
        }
        if let (false, Some(correct)) = (until_last, correct) {
            return Ok(Some(Joined { kept, complete, correct }));
        }
    }
}
