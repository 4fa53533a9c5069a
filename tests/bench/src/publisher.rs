//! Publishes events when they are due, regardless of their delivery: an open loop.

mod amqp;
mod nats;
mod nchan;

use anyhow::{Result, bail};

use crate::clock;
use crate::control::{Answer, Order, Phase, RunConnection, Sink};
use crate::event::{Keys, Message};
use crate::load::Load;

// Only one exists per process.
#[allow(clippy::large_enum_variant)]
enum Link {
    Amqp(amqp::Publisher, Keys),
    Nats(nats::Publisher),
    Nchan(nchan::Publisher),
}

impl Link {
    fn open(sink: &Sink) -> Result<Self> {
        Ok(match sink {
            Sink::Amqp { url, keys, confirms } => {
                Self::Amqp(amqp::Publisher::connect(url, *confirms)?, *keys)
            }
            Sink::Nats(authority) => Self::Nats(nats::Publisher::connect(authority)?),
            Sink::Nchan(authority) => Self::Nchan(nchan::Publisher::connect(authority)?),
        })
    }

    fn keys(&self) -> Keys {
        match self {
            Self::Amqp(_, keys) => *keys,
            Self::Nats(_) | Self::Nchan(_) => Keys::WithAccount,
        }
    }

    fn publish(&mut self, message: &Message) -> Result<()> {
        match self {
            Self::Amqp(publisher, _) => publisher.publish(message),
            Self::Nats(publisher) => publisher.publish(message),
            Self::Nchan(publisher) => publisher.publish(message),
        }
    }

    /// Waits until the server has accepted all events.
    fn finish(&mut self) -> Result<()> {
        match self {
            Self::Amqp(publisher, _) => publisher.finish(),
            Self::Nats(publisher) => publisher.finish(),
            Self::Nchan(publisher) => publisher.finish(),
        }
    }
}

/// Executes orders until the run is over.
pub(crate) fn run(mut run: RunConnection) -> Result<()> {
    let mut link = None;
    while let Some(order) = run.order()? {
        let answer = match (order, &mut link) {
            (Order::Attach { sink, load }, _) => Link::open(&sink).map(|opened| {
                link = Some((opened, load));
                Answer::Done
            }),
            (Order::Publish(phase), Some((link, load))) => publish(link, load, &phase),
            (other, _) => bail!("a publisher cannot execute {other:?} now"),
        };
        run.answer(&answer.unwrap_or_else(|error| Answer::Failed(format!("{error:#}"))))?;
    }
    Ok(())
}

/// A server that delays the publisher by this many nanoseconds does not keep up: give up, as the rate is not reached.
const MAX_LATENESS: u64 = 10_000_000_000;

fn publish(link: &mut Link, load: &Load, phase: &Phase) -> Result<Answer> {
    let mut message = Message::default();
    let (mut index, mut late) = (0, 0);
    while index < phase.events && late < MAX_LATENESS {
        let due = phase.due(index);
        message.write(load, link.keys(), phase.first + index, due);
        let now = clock::now();
        if now < due {
            std::thread::sleep(clock::until(due));
        } else {
            late = late.max(now - due);
        }
        link.publish(&message)?;
        index += 1;
    }
    link.finish()?;
    Ok(Answer::Published { events: index, late_ms: late as f64 / 1e6 })
}
