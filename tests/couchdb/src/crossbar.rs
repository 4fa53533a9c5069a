//! A Crossbar with the accounts of [`crate::kazoo`]: `tokeninfo`, accounts, and what is above them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    kazoo::{self, ACME, MASTER},
    web::{Answer, Asked, Web},
};

/// A running Crossbar. Clones are the same.
#[derive(Clone)]
pub struct Crossbar {
    /// Its server.
    pub web: Web,
    state: Arc<Mutex<State>>,
}

struct State {
    /// What is told of each account, and the accounts above it.
    accounts: BTreeMap<String, (Value, Vec<String>)>,
    refused: HashMap<String, Answer>,
    has_tree: bool,
}

fn error(status: u16, message: &str) -> Answer {
    let text = status.to_string();
    Answer::json(status, &json!({ "status": "error", "error": text, "message": message, "data": {} }))
}

fn success(data: &Value) -> Answer {
    Answer::json(200, &json!({ "status": "success", "data": data }))
}

impl Crossbar {
    /// Starts one.
    pub async fn start() -> Crossbar {
        let account = |id: &str, superduper: bool, tree: &[&str]| {
            let realm = format!("{}.sip.example.com", &id[..4]);
            let data = json!({
                "id": id, "name": id, "realm": realm, "enabled": true, "superduper_admin": superduper,
            });
            (id.to_owned(), (data, tree.iter().map(|&id| id.to_owned()).collect()))
        };
        let accounts = [account(MASTER, true, &[]), account(ACME, false, &[MASTER])].into();
        let state = Arc::new(Mutex::new(State { accounts, refused: HashMap::new(), has_tree: true }));
        let own = Arc::clone(&state);
        Crossbar { web: Web::start(move |asked| own.lock().answer(asked)).await, state }
    }

    /// Adds an account below others.
    pub fn add(&self, id: &str, tree: &[&str]) {
        let data = json!({ "id": id, "name": id, "realm": format!("{id}.example.com"), "enabled": true });
        let tree = tree.iter().map(|&id| id.to_owned()).collect();
        self.state.lock().accounts.insert(id.to_owned(), (data, tree));
    }

    /// Changes a member of what is told of an account.
    pub fn edit(&self, id: &str, member: &str, value: Value) {
        self.state.lock().accounts.get_mut(id).unwrap().0[member] = value;
    }

    /// Moves an account.
    pub fn move_below(&self, id: &str, tree: &[&str]) {
        self.state.lock().accounts.get_mut(id).unwrap().1 = tree.iter().map(|&id| id.to_owned()).collect();
    }

    /// Answers this to who asks about the token.
    pub fn refuse(&self, token: &str, status: u16, message: &str) {
        self.answer(token, error(status, message));
    }

    /// Answers exactly this to who asks about the token.
    pub fn answer(&self, token: &str, answer: Answer) {
        self.state.lock().refused.insert(token.to_owned(), answer);
    }

    /// Knows `/parents` only, and not its alias.
    pub fn without_tree(&self) {
        self.state.lock().has_tree = false;
    }
}

impl State {
    fn answer(&self, asked: &Asked) -> Answer {
        let path: Vec<&str> = asked.path.split('/').skip(1).collect();
        match (asked.method.as_str(), path.as_slice()) {
            ("POST", ["v2", "auth", "tokeninfo"]) => {
                let body: Value = serde_json::from_str(&asked.body).unwrap();
                let Some(token) = body["data"]["token"].as_str() else { return error(404, "no token") };
                match self.account_of(token) {
                    Ok(account) => success(&json!({ "account_id": account, "is_master_account": false })),
                    Err(answer) => answer,
                }
            }
            ("GET", ["v2", "accounts", id, rest @ ..]) => {
                let bearer = match self.account_of(asked.token.as_deref().unwrap_or_default()) {
                    Ok(account) => account,
                    Err(answer) => return answer,
                };
                let Some((data, tree)) = self.accounts.get(*id) else { return error(404, "bad identifier") };
                let is_above = tree.contains(&bearer);
                if bearer != *id && !is_above {
                    return error(403, "forbidden");
                }
                match rest {
                    [] => success(data),
                    ["parents"] => self.tree(tree, &bearer),
                    ["tree"] if self.has_tree => self.tree(tree, &bearer),
                    _ => error(404, "not found"),
                }
            }
            _ => error(404, "not found"),
        }
    }

    /// Cut off at the asking account.
    fn tree(&self, tree: &[String], bearer: &String) -> Answer {
        let seen = tree.iter().skip_while(|id| *id != bearer);
        let line = |id: &String| json!({ "id": id, "name": id, "realm": "r", "flags": [] });
        success(&seen.map(line).collect())
    }

    /// The account of a token that is signed with KAZOO's key.
    fn account_of(&self, token: &str) -> Result<String, Answer> {
        if let Some(answer) = self.refused.get(token) {
            return Err(answer.clone());
        }
        let invalid = || error(401, "invalid_jwt");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(invalid)?;
        let key = EncodingKey::from_rsa_pem(kazoo::private_key().as_bytes()).unwrap();
        if crypto::sign(signed.as_bytes(), &key, Algorithm::RS256).unwrap() != signature {
            return Err(error(401, "invalid_jwt_signature"));
        }
        let claims = signed.split_once('.').ok_or_else(invalid)?.1;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        claims["account_id"].as_str().map(str::to_owned).ok_or_else(|| error(403, "no associated account_id"))
    }
}
