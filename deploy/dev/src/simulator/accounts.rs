//! The accounts of the simulated cluster, and the people with phones in them.

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;

/// The sample accounts file, as auth-svc reads it.
pub const SAMPLE_ACCOUNTS: &str = include_str!("../../accounts.toml");

/// People per account: few enough to recognise them in the output.
const PEOPLE: usize = 5;

const NAMES: &[&str] = &[
    "Ada Moreno",
    "Zoë Ångström",
    "Tomás Núñez",
    "Grace Okafor",
    "Jürgen Weiß",
    "Mei-Ling Chen",
    "Søren Kjær",
    "Priya Raman",
    "Łukasz Wójcik",
    "Hannah O'Brien",
    "Ἑλένη Παππά",
    "Иван Петров",
    "Noor al-Amin",
    "山田 太郎",
    "Front desk",
    "Night line",
    "Ward 3",
    "Kitchen",
    "Accounts",
    "Reception 👋",
];

/// One account.
#[derive(Clone, Debug, Deserialize)]
pub struct Account {
    /// Its id: 32 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its SIP realm.
    pub realm: String,
    /// Its parent account; none for the top account.
    pub parent: Option<String>,
    /// Whether it may see every account.
    #[serde(default)]
    pub superduper_admin: bool,
    /// Its people, generated from its id.
    #[serde(skip)]
    pub(super) people: Vec<Person>,
}

/// Someone with a phone.
#[derive(Clone, Debug)]
pub(super) struct Person {
    pub(super) name: &'static str,
    pub(super) extension: String,
    pub(super) username: String,
    pub(super) user_id: String,
    pub(super) device_id: String,
    pub(super) phone: String,
    pub(super) address: String,
}

#[derive(Deserialize)]
struct AccountsFile {
    account: Vec<Account>,
}

impl Account {
    /// Reads an accounts file.
    pub fn parse(text: &str) -> Result<Vec<Self>> {
        let mut accounts = toml::from_str::<AccountsFile>(text).context("invalid accounts file")?.account;
        for account in &mut accounts {
            account.people = account.make_people();
        }
        Ok(accounts)
    }

    /// The people depend on the id alone, not on the seed of the plan.
    fn make_people(&self) -> Vec<Person> {
        let seed =
            self.id.bytes().fold(0_u64, |hash, byte| hash.wrapping_mul(131).wrapping_add(u64::from(byte)));
        let mut rng = StdRng::seed_from_u64(seed);
        let first = rng.random_range(0..NAMES.len());
        let names = NAMES.iter().copied().cycle().skip(first).step_by(3);
        names.take(PEOPLE).enumerate().map(|(n, name)| Person::new(&mut rng, n, name)).collect()
    }
}

impl Person {
    fn new(rng: &mut StdRng, n: usize, name: &'static str) -> Self {
        Self {
            name,
            extension: (1001 + n).to_string(),
            username: format!("user_{}", letters(rng, 10)),
            user_id: hex(rng, 32),
            device_id: hex(rng, 32),
            phone: if n.is_multiple_of(2) { "Yealink SIP-T54W 96.86.0.70" } else { "SIP.js/0.21.2" }.into(),
            address: format!("192.0.2.{}", rng.random_range(10..250)),
        }
    }
}

/// The accounts of [`SAMPLE_ACCOUNTS`].
pub fn sample() -> Result<Vec<Account>> {
    Account::parse(SAMPLE_ACCOUNTS)
}

/// The account that may access all others.
pub fn top_account(accounts: &[Account]) -> Result<&Account> {
    accounts.iter().find(|account| account.superduper_admin).context("no account is superduper_admin")
}

/// `length` random hexadecimal digits.
pub(super) fn hex(rng: &mut StdRng, length: usize) -> String {
    pick(rng, b"0123456789abcdef", length)
}

/// `length` random lower-case letters and digits.
pub(super) fn letters(rng: &mut StdRng, length: usize) -> String {
    pick(rng, b"abcdefghijkmnpqrstuvwxyz23456789", length)
}

fn pick(rng: &mut StdRng, from: &[u8], length: usize) -> String {
    (0..length)
        .filter_map(|_| from.get(rng.random_range(0..from.len())))
        .map(|byte| char::from(*byte))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_accounts_form_one_tree() {
        let accounts = sample().unwrap();
        let ids: Vec<_> = accounts.iter().map(|account| account.id.as_str()).collect();
        let top = top_account(&accounts).unwrap();
        for account in &accounts {
            assert_eq!(account.id.len(), 32);
            assert_eq!(account.parent.is_none(), account.id == top.id);
            assert!(account.parent.as_deref().is_none_or(|parent| ids.contains(&parent)));
            assert_eq!(account.people.len(), PEOPLE);
        }
    }
}
