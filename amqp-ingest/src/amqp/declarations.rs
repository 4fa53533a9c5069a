//! Exchanges, queues and bindings as the services need them, on a broker that may have them already.
//!
//! An exchange is declared as KAZOO declares it. If somebody has declared it otherwise, or this user may not declare
//! it, the existing one is used: only its type matters for what a binding matches.

use std::collections::HashSet;

use blackhole_common::catalogue::ExchangeType;
use lapin::{
    protocol::{
        AMQPClass::{self, Exchange, Queue},
        exchange, queue,
    },
    types::FieldTable,
};

use super::{
    declarer::{Declarer, Refusal},
    short_string,
};
use crate::error::IngestError;

/// AMQP reply codes.
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;

/// Class and method of `exchange.declare`.
const EXCHANGE_DECLARE: (u16, u16) = (40, 10);

/// An exchange, and what is bound to it.
#[derive(Clone, Debug)]
pub(crate) struct WantedExchange {
    /// Its name.
    pub(crate) name: String,
    /// Its type.
    pub(crate) kind: ExchangeType,
    /// Whether it survives a restart of the broker. KAZOO's do not.
    pub(crate) durable: bool,
    /// Queues and the patterns with which to bind them.
    pub(crate) bindings: Vec<(String, String)>,
}

/// A queue.
#[derive(Clone, Debug)]
pub(crate) struct WantedQueue {
    /// Its name.
    pub(crate) name: String,
    /// Whether it survives a restart of the broker.
    pub(crate) durable: bool,
    /// Its arguments.
    pub(crate) arguments: FieldTable,
}

/// Why nothing is bound to an exchange, or not everything.
pub(crate) type Unbound = String;

/// How often an exchange that somebody has declared otherwise is taken for that, before it is looked at again: each look
/// is an error in the broker's log.
const TAKEN_AS_KNOWN: u32 = 10;

/// The exchanges that exist and are not ours to declare.
#[derive(Debug, Default)]
pub(crate) struct ForeignExchanges {
    /// This user may not declare them. What their types are cannot be known.
    forbidden: HashSet<String>,
    /// They were declared with other properties.
    different: HashSet<String>,
    /// How often `different` was relied on since it was found out.
    relied_on: u32,
}

impl ForeignExchanges {
    fn contains(&self, name: &str) -> bool {
        self.forbidden.contains(name) || self.different.contains(name)
    }

    fn remove(&mut self, name: &str) -> bool {
        self.forbidden.remove(name) | self.different.remove(name)
    }

    /// Another look at all exchanges begins.
    fn begin(&mut self) {
        self.relied_on += 1;
        if self.relied_on >= TAKEN_AS_KNOWN {
            self.relied_on = 0;
            self.different.clear();
        }
    }
}

impl Declarer {
    /// Declares the exchanges, or takes those that exist, and binds the queues. Repeating it has no effect.
    ///
    /// # Errors
    /// If the connection fails.
    pub(crate) async fn ensure_exchanges(
        &mut self,
        wanted: &[WantedExchange],
        foreign: &mut ForeignExchanges,
    ) -> Result<Vec<Result<(), Unbound>>, IngestError> {
        foreign.begin();
        let mut results: Vec<Result<(), Unbound>> = vec![Ok(()); wanted.len()];
        let mut pending: Vec<(usize, &WantedExchange)> = wanted.iter().enumerate().collect();
        // What was not ours may be gone, and what was ours may have been declared by somebody else.
        for is_last in [false, true] {
            let batches = pending.iter().map(|(_, wanted)| wanted.methods(foreign.contains(&wanted.name)));
            let answers = self.run(batches.collect::<Result<_, _>>()?).await?;
            let mut again = Vec::new();
            for ((index, wanted), answer) in pending.into_iter().zip(answers) {
                let Err(refusal) = answer else { continue };
                let next = wanted.after(&refusal, foreign);
                match next {
                    Ok(()) if !is_last => again.push((index, wanted)),
                    Ok(()) => set(&mut results, index, Err(refusal.reason)),
                    Err(unbound) => set(&mut results, index, Err(unbound)),
                }
            }
            pending = again;
        }
        Ok(results)
    }

    /// Declares a queue, or takes the one that exists if this user may not declare it.
    ///
    /// # Errors
    /// If the connection fails. The inner one if the queue exists with other properties, or cannot be used.
    pub(crate) async fn ensure_queue(
        &mut self,
        wanted: &WantedQueue,
    ) -> Result<Result<(), Refusal>, IngestError> {
        let declared = self.run(vec![vec![wanted.declare(false)?]]).await?;
        match declared.into_iter().next() {
            Some(Err(refusal)) if refusal.code == ACCESS_REFUSED => {
                let found = self.run(vec![vec![wanted.declare(true)?]]).await?;
                Ok(found.into_iter().next().unwrap_or(Ok(())).map_err(|_| refusal))
            }
            result => Ok(result.unwrap_or(Ok(()))),
        }
    }

    /// Whether there is a queue of this name.
    ///
    /// # Errors
    /// If the connection fails.
    pub(crate) async fn has_queue(&mut self, name: &str) -> Result<bool, IngestError> {
        let declare = queue::Declare { queue: short_string(name)?, passive: true, ..Default::default() };
        let found = self.run(vec![vec![Queue(queue::AMQPMethod::Declare(declare))]]).await?;
        Ok(found.into_iter().next().is_some_and(|found| found.is_ok()))
    }

    /// Removes the bindings of the queues from the exchanges. Those that are not there are none to remove.
    ///
    /// # Errors
    /// If the connection fails.
    pub(crate) async fn unbind(&mut self, wanted: &[WantedExchange]) -> Result<(), IngestError> {
        let mut batches = Vec::new();
        for exchange in wanted {
            for (queue, pattern) in &exchange.bindings {
                batches.push(vec![Queue(queue::AMQPMethod::Unbind(queue::Unbind {
                    queue: short_string(queue)?,
                    exchange: short_string(&exchange.name)?,
                    routing_key: short_string(pattern)?,
                    ..Default::default()
                }))]);
            }
        }
        self.run(batches).await.map(drop)
    }
}

fn set<T>(results: &mut [T], index: usize, value: T) {
    if let Some(result) = results.get_mut(index) {
        *result = value;
    }
}

impl WantedExchange {
    fn methods(&self, passive: bool) -> Result<Vec<AMQPClass>, IngestError> {
        let declare = exchange::Declare {
            exchange: short_string(&self.name)?,
            kind: type_name(self.kind).into(),
            passive,
            durable: self.durable,
            ..Default::default()
        };
        let mut methods = vec![Exchange(exchange::AMQPMethod::Declare(declare))];
        for (queue, pattern) in &self.bindings {
            let bind = queue::Bind {
                queue: short_string(queue)?,
                exchange: short_string(&self.name)?,
                routing_key: short_string(pattern)?,
                ..Default::default()
            };
            methods.push(Queue(queue::AMQPMethod::Bind(bind)));
        }
        Ok(methods)
    }

    /// After a refusal: `Ok` if another attempt, as `foreign` now says, may succeed.
    fn after(&self, refusal: &Refusal, foreign: &mut ForeignExchanges) -> Result<(), Unbound> {
        let Refusal { code, reason, method } = refusal;
        match *code {
            _ if *method != EXCHANGE_DECLARE => Err(reason.clone()),
            NOT_FOUND if foreign.remove(&self.name) => Ok(()),
            PRECONDITION_FAILED => match other_type(reason) {
                Some(other) if !self.is_served_by(other) => Err(format!(
                    "exchange `{}` is of the type {other}, KAZOO's is {}: find out who declared it \
                     (`rabbitmqctl list_exchanges`) and delete it, or correct the catalogue",
                    self.name,
                    type_name(self.kind)
                )),
                _ => {
                    foreign.different.insert(self.name.clone());
                    Ok(())
                }
            },
            ACCESS_REFUSED if foreign.forbidden.insert(self.name.clone()) => Ok(()),
            _ => Err(reason.clone()),
        }
    }

    /// Whether an exchange of this type sends everything that the bindings want.
    fn is_served_by(&self, kind: &str) -> bool {
        match kind {
            "fanout" => true,
            "topic" => self.kind != ExchangeType::Fanout,
            "direct" => {
                self.kind != ExchangeType::Fanout
                    && self.bindings.iter().all(|(_, pattern)| !pattern.contains(['*', '#']))
            }
            _ => false,
        }
    }
}

impl WantedQueue {
    fn declare(&self, passive: bool) -> Result<AMQPClass, IngestError> {
        Ok(Queue(queue::AMQPMethod::Declare(queue::Declare {
            queue: short_string(&self.name)?,
            passive,
            durable: self.durable,
            arguments: self.arguments.clone(),
            ..Default::default()
        })))
    }
}

fn type_name(kind: ExchangeType) -> &'static str {
    match kind {
        ExchangeType::Topic => "topic",
        ExchangeType::Direct => "direct",
        ExchangeType::Fanout => "fanout",
    }
}

/// The type that an exchange has, if that is why the broker refused a declaration.
fn other_type(reason: &str) -> Option<&str> {
    let (_, rest) = reason.split_once("inequivalent arg 'type'")?;
    let (_, current) = rest.split_once("current is '")?;
    current.split_once('\'').map(|(kind, _)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(kind: ExchangeType, pattern: &str) -> WantedExchange {
        let bindings = vec![("queue".to_owned(), pattern.to_owned())];
        WantedExchange { name: "callevt".into(), kind, durable: false, bindings }
    }

    fn refusal(code: u16, method: (u16, u16), reason: &str) -> Refusal {
        Refusal { code, reason: reason.into(), method }
    }

    #[test]
    fn an_exchange_declared_otherwise_is_used_unless_its_type_matches_other_keys() {
        let exchange = wanted(ExchangeType::Topic, "call.*.*");
        let mut foreign = ForeignExchanges::default();
        let durable = "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'callevt' in vhost '/': received \
                       'false' but current is 'true'";
        assert_eq!(exchange.after(&refusal(406, EXCHANGE_DECLARE, durable), &mut foreign), Ok(()));
        assert!(foreign.contains("callevt"));
        for (kind, is_served) in [("fanout", true), ("direct", false), ("headers", false)] {
            let reason = format!(
                "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'callevt' in vhost '/': received 'topic' \
                 but current is '{kind}'"
            );
            let result = exchange.after(&refusal(406, EXCHANGE_DECLARE, &reason), &mut foreign);
            assert_eq!(result.is_ok(), is_served, "{kind}");
        }
        assert!(wanted(ExchangeType::Topic, "websockets.get").is_served_by("direct"));
        assert!(!wanted(ExchangeType::Fanout, "").is_served_by("topic"));
    }

    #[test]
    fn what_was_declared_otherwise_is_looked_at_again_after_a_while() {
        let mut foreign = ForeignExchanges::default();
        foreign.different.insert("callevt".into());
        foreign.forbidden.insert("faxes".into());
        for _ in 1..TAKEN_AS_KNOWN {
            foreign.begin();
        }
        assert!(foreign.contains("callevt"));
        foreign.begin();
        assert!(!foreign.contains("callevt") && foreign.contains("faxes"));
    }

    #[test]
    fn what_may_not_be_declared_is_taken_as_it_is_and_declared_when_it_is_gone() {
        let exchange = wanted(ExchangeType::Topic, "call.*.*");
        let mut foreign = ForeignExchanges::default();
        assert_eq!(exchange.after(&refusal(403, EXCHANGE_DECLARE, "no"), &mut foreign), Ok(()));
        assert_eq!(exchange.after(&refusal(404, EXCHANGE_DECLARE, "gone"), &mut foreign), Ok(()));
        assert!(!foreign.contains("callevt"));
        assert_eq!(exchange.after(&refusal(404, EXCHANGE_DECLARE, "gone"), &mut foreign), Err("gone".into()));
        assert_eq!(exchange.after(&refusal(403, (50, 20), "no read"), &mut foreign), Err("no read".into()));
    }
}
