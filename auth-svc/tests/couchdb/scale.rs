//! A large cluster: `cargo test --release -p auth-svc --test couchdb -- --ignored --nocapture scale`.

use std::time::{Duration, Instant};

use blackhole_couchdb::kazoo::{self, SERVER_SECRET, USER_SECRET, account_id, identity_sig, user_id};
use futures_util::{StreamExt, stream};
use serde_json::json;

use crate::{Sources, eventually};

const ACCOUNTS: u32 = 100_000;
const USERS_EACH: u32 = 5;
const TOKENS: u32 = 10_000;

/// The resident memory of this process, which is also that of the stand-in, in MB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().split_once(' ').unwrap().0.parse::<u64>().unwrap() / 1024
}

fn token(number: u32) -> String {
    let (account, user) = (account_id(number % ACCOUNTS), user_id(number % USERS_EACH));
    kazoo::signed(&json!({
        "iss": "kazoo", "account_id": account, "owner_id": user, "exp": kazoo::FOREVER,
        "identity_sig": identity_sig(&user, USER_SECRET, SERVER_SECRET),
    }))
}

#[ignore = "takes minutes, and means something in a release build only"]
#[tokio::test(flavor = "multi_thread")]
async fn scale() {
    let server = kazoo::start().await;
    kazoo::add(&server, ACCOUNTS, USERS_EACH);
    let tokens: Vec<String> = (0..TOKENS).map(token).collect();
    let (before, began) = (memory(), Instant::now());
    let sources = Sources::of(&server).await;
    let start = began.elapsed();
    println!("start: {start:.1?}, {} MB", memory() - before);
    assert_eq!(sources.couchdb.accounts.all().len(), ACCOUNTS as usize + 2);
    assert!(start < Duration::from_secs(10));

    let began = Instant::now();
    let verified = stream::iter(&tokens).map(|token| sources.refusal(token)).buffer_unordered(64);
    verified.for_each(async |refusal| assert_eq!(refusal, None)).await;
    println!("{TOKENS} tokens of different users: {:.1?}, {} MB", began.elapsed(), memory() - before);
    assert!(began.elapsed() < Duration::from_secs(60));

    let began = Instant::now();
    (0..TOKENS)
        .for_each(|number| server.edit("accounts", &account_id(number), &json!({ "pvt_enabled": false })));
    let edited = began.elapsed();
    eventually("all changes", async || !sources.account(&account_id(TOKENS - 1)).await.unwrap().enabled)
        .await;
    println!(
        "{TOKENS} changes: {edited:.1?} to make, {:.1?} until in force, {} MB",
        began.elapsed(),
        memory() - before
    );

    server.end_feeds();
    let count = async || sources.couchdb.accounts.all().iter().filter(|account| account.enabled).count();
    server.put("accounts", &json!({ "_id": "last", "pvt_type": "account" }));
    eventually("reading everything again", async || sources.account("last").await.is_some()).await;
    println!("read again: {} MB", memory() - before);
    assert_eq!(count().await, (ACCOUNTS - TOKENS) as usize + 3);
    assert!(memory() - before < 150, "{} MB", memory() - before);
}
