//! The shapes: load, rate, and reported figures of each.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use blackhole_dev::bench::Shape;
use blackhole_dev::progress::say;

use super::Plan;
use super::measure::{ActiveLoad, GENTLE_WINDOW, Sample, cpu};
use super::search::Search;
use crate::accounting;
use crate::contender::Contender;
use crate::control::{Answer, Order, Worker};
use crate::load::{Load, Pattern};
use crate::report::{Measured, Report};

/// Settings that lift the limits on subscribing.
const UNLIMITED: &[(&str, &str)] = &[
    ("WS__RATE__BURST", "1000000000"),
    ("WS__RATE__PER_SECOND", "1000000000"),
    ("WS__MAX_BINDINGS", "10000000"),
    ("WS__MAX_BINDING_BYTES", "1 GiB"),
];
const GROWTH_SUBJECT_SESSIONS: u32 = 100;
const PER_EDGE: u32 = 15_000;
/// `ws.accept_per_second` while sessions reconnect: all are accepted within the five seconds for which they may wait.
const PACE: &str = "5000";
/// With TLS it is the default: a handshake costs the clients more than the edge, and they are on the same machine.
const TLS_PACE: &str = "1000";
/// Nearly as many as one address may bring at that pace: the burst of a second, and half of five seconds' queue.
const TLS_SESSIONS: u32 = 3_400;
const SEVERAL_EDGES: usize = 3;
/// Moderate, and beyond what one process of the Node bridge handles with three of them on two processors.
const SHARDED_RATES: [f64; 2] = [5_000.0, 20_000.0];

/// The number of accounts that a shape needs.
pub(crate) fn accounts(plan: &Plan, shape: Shape) -> u32 {
    loads(plan, shape).iter().map(Load::accounts).max().unwrap_or(1)
}

/// How many sessions stay while the rest reconnects.
fn others(plan: &Plan) -> u32 {
    plan.size(1_000, 1_000, 20)
}

fn loads(plan: &Plan, shape: Shape) -> Vec<Load> {
    let load = |pattern, sessions| Load { pattern, sessions };
    match shape {
        Shape::Fanout | Shape::MaxFanout => vec![load(Pattern::Fanout, plan.sessions(1_000, 1_000, 50))],
        Shape::Sharded | Shape::ShardedEdges | Shape::MaxSharded | Shape::Latency => {
            vec![load(Pattern::Sharded, plan.sessions(1_000, 1_000, 50))]
        }
        Shape::Idle | Shape::Storm => vec![load(Pattern::Single, plan.sessions(10_000, 2_000, 100))],
        Shape::Reconnect => {
            let all = if plan.options.tls { TLS_SESSIONS } else { PER_EDGE };
            vec![load(Pattern::Single, others(plan) + plan.sessions(all, 2_000, 100))]
        }
        Shape::Mixed => vec![load(Pattern::Mixed, plan.sessions(10_000, 2_000, 100))],
        Shape::Subscribe => vec![load(Pattern::Single, plan.sessions(200, 200, 20))],
        Shape::Growth => {
            let sessions = plan.size(&[1_000, 5_000, 15_000][..], &[1_000, 3_000], &[10, 20]);
            let subjects = plan.size(&[1, 10, 100, 1_000][..], &[1, 30], &[1, 2]);
            let fanout = sessions.iter().map(|sessions| load(Pattern::Fanout, *sessions));
            let subjects =
                subjects.iter().map(|each| load(Pattern::Subjects(*each), GROWTH_SUBJECT_SESSIONS));
            fanout.chain(subjects).collect()
        }
        Shape::Edges => {
            let each = plan.sessions(PER_EDGE, 1_000, 50);
            vec![load(Pattern::Single, each), load(Pattern::Single, SEVERAL_EDGES as u32 * each)]
        }
    }
}

/// Measures a shape with a server and adds the results to the report.
pub(crate) async fn measure(
    plan: &Plan,
    shape: Shape,
    contender: &mut Contender,
    report: &mut Report,
) -> Result<()> {
    let dir = contender.dir().to_owned();
    for load in loads(plan, shape) {
        if !contender.name.serves(load.pattern) {
            let (shape, name) = (crate::report::shape_name(shape), contender.name.text());
            report.note(format!("{shape}: not measured with {name}, whose sessions have one binding"));
            return Ok(());
        }
        let shaped = Shaped { plan, shape, load, dir: dir.clone() };
        match shape {
            Shape::Fanout => shaped.flow(contender, report, 20_000.0, 1).await?,
            Shape::Sharded => shaped.sharded(contender, report, 1).await?,
            Shape::ShardedEdges => shaped.sharded(contender, report, SEVERAL_EDGES).await?,
            Shape::Mixed => shaped.flow(contender, report, 20_000.0, 1).await?,
            Shape::Growth if load.pattern == Pattern::Fanout => {
                shaped.flow(contender, report, 20_000.0, 1).await?;
            }
            Shape::Growth => shaped.flow(contender, report, 5_000.0, 1).await?,
            Shape::Idle => shaped.idle(contender, report).await?,
            Shape::Storm => shaped.storm(contender, report).await?,
            Shape::Reconnect => shaped.reconnect(contender, report).await?,
            Shape::MaxFanout => shaped.max(contender, report, 50_000.0).await?,
            Shape::MaxSharded => shaped.max(contender, report, 4_000.0).await?,
            Shape::Subscribe => shaped.subscribe(contender, report).await?,
            Shape::Latency => shaped.latency(contender, report).await?,
            Shape::Edges => {
                let is_large = load.sessions > plan.sessions(PER_EDGE, 1_000, 50);
                let edges = if is_large { SEVERAL_EDGES } else { 1 };
                shaped.edges(contender, report, edges).await?;
            }
        }
    }
    Ok(())
}

struct Shaped<'p> {
    plan: &'p Plan,
    shape: Shape,
    load: Load,
    dir: PathBuf,
}

impl Shaped<'_> {
    /// The rate in events per second for this many deliveries per second; lower in a smoke run.
    fn events(&self, deliveries: f64) -> f64 {
        let deliveries =
            self.plan.options.rate.unwrap_or(self.plan.size(deliveries, deliveries, deliveries / 10.0));
        deliveries / self.load.deliveries_per_event()
    }

    fn name(&self) -> String {
        let (shape, sessions) = (crate::report::shape_name(self.shape), self.load.sessions);
        match (self.shape, self.load.pattern) {
            (Shape::Growth, Pattern::Subjects(_)) => format!("{shape}, {} subjects", self.load.lanes()),
            (Shape::Growth, _) => format!("{shape}, fan-out to {sessions}"),
            _ => format!("{shape}, {sessions} sessions"),
        }
    }

    async fn start<'c>(&self, contender: &'c mut Contender, window: u32) -> Result<ActiveLoad<'c>> {
        ActiveLoad::start(contender, self.load, window, 0, &self.dir).await
    }

    /// Events that each go to one session.
    async fn sharded(&self, contender: &mut Contender, report: &mut Report, edges: usize) -> Result<()> {
        let options = &self.plan.options;
        let is_single = options.quick || options.smoke || options.rate.is_some();
        for rate in SHARDED_RATES.iter().take(if is_single { 1 } else { SHARDED_RATES.len() }) {
            self.flow(contender, report, *rate, edges).await?;
        }
        Ok(())
    }

    /// Events at a given rate of deliveries.
    async fn flow(
        &self,
        contender: &mut Contender,
        report: &mut Report,
        rate: f64,
        edges: usize,
    ) -> Result<()> {
        let Plan { repeat, warm_up, seconds, timeout, .. } = *self.plan;
        let rate = self.events(rate);
        let row = format!("{} at {:.0}/s", self.name(), rate * self.load.deliveries_per_event());
        for _ in 0..repeat {
            contender.renew(self.load, edges, &[]).await?;
            let mut measured = Measured::default();
            if self.shape == Shape::Growth {
                measured.add("sessions", f64::from(self.load.sessions));
                measured.add("subjects", f64::from(self.load.lanes()));
            }
            let before = resident(contender)?;
            let mut active = self.start(contender, GENTLE_WINDOW).await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            if active.contender.is_renewed(self.load) {
                let more = resident(active.contender)?.0 - before.0;
                measured.add("KiB/session", more / f64::from(self.load.sessions));
            }
            let sample = active.flow(rate, warm_up, seconds, timeout).await?;
            entries(&mut measured, &sample, active.contender.groups()?);
            measured.add("MiB", resident(active.contender)?.0 / 1024.0);
            report.enter(&row, active.contender.name, measured, Some(&sample.tally));
        }
        Ok(())
    }

    /// Memory and CPU time of idle sessions.
    async fn idle(&self, contender: &mut Contender, report: &mut Report) -> Result<()> {
        let count = f64::from(self.load.sessions);
        for _ in 0..self.plan.repeat {
            contender.renew(self.load, 1, &[]).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let before = (resident(contender)?, accounting::socket_memory_kib());
            let mut active = self.start(contender, GENTLE_WINDOW).await?;
            tokio::time::sleep(Duration::from_secs(2)).await;
            let after = (resident(active.contender)?, accounting::socket_memory_kib());
            let mut measured = Measured::default();
            measured.add("KiB/session", (after.0.0 - before.0.0) / count);
            measured.add("KiB/session, anonymous", (after.0.1 - before.0.1) / count);
            measured.add("kernel KiB/session", (after.1 - before.1) / count);
            let rest = active.idle(self.plan.seconds).await?;
            for (process, _) in active.contender.groups()? {
                measured.add(&format!("idle CPU %: {process}"), rest[process] * 100.0 / self.plan.seconds);
            }
            let tally = self.one_each(&mut active).await?.tally;
            report.enter(&self.name(), active.contender.name, measured, Some(&tally));
        }
        Ok(())
    }

    /// All sessions connect at once.
    async fn storm(&self, contender: &mut Contender, report: &mut Report) -> Result<()> {
        for _ in 0..self.plan.repeat {
            contender.renew(self.load, 1, &[]).await?;
            let groups = contender.groups()?;
            let before = cpu(&groups);
            let mut active = self.start(contender, self.load.sessions).await?;
            let used = cpu(&groups);
            let mut measured = Measured::default();
            measured.add("seconds", active.connected.seconds);
            measured.add("sessions/s", f64::from(self.load.sessions) / active.connected.seconds);
            measured.add("p50 ms", active.connected.each.quantile_ms(0.5));
            measured.add("p99 ms", active.connected.each.quantile_ms(0.99));
            for (process, used) in used {
                let micros = (used - before[process]) * 1e6 / f64::from(self.load.sessions);
                measured.add(&format!("µs/session: {process}"), micros);
            }
            let tally = self.one_each(&mut active).await?.tally;
            report.enter(&self.name(), active.contender.name, measured, Some(&tally));
        }
        Ok(())
    }

    /// All but some sessions connect at once and resume, while events go on.
    async fn reconnect(&self, contender: &mut Contender, report: &mut Report) -> Result<()> {
        let (rate, seconds) = (self.events(5_000.0), self.plan.seconds);
        let others = others(self.plan);
        let pace = if self.plan.options.tls { TLS_PACE } else { PACE };
        for _ in 0..self.plan.repeat {
            contender.renew(self.load, 1, &[("WS__ACCEPT_PER_SECOND", pace)]).await?;
            let mut active = ActiveLoad::attach(contender, self.load, 0, &self.dir).await?;
            active.connect(0..others, GENTLE_WINDOW, None).await?;
            let calm = active.flow(rate, 0.0, seconds, self.plan.timeout).await?;
            // The first of them tells where the history ends.
            let first = active.connect(others..others + 1, 1, None).await?;
            let since = first.cursor.as_deref();
            let rest = others + 1..self.load.sessions;
            let count = rest.len() as f64;
            let joining = active.joining(rest, self.load.sessions, since);
            let (sample, joined) = active.flow_beside(rate, 0.0, seconds, self.plan.timeout, joining).await?;
            let mut measured = Measured::default();
            measured.add("seconds", joined.seconds);
            measured.add("sessions/s", count / joined.seconds);
            measured.add("slowest session, ms", joined.each.max_ms());
            for (what, of) in [("others", &sample), ("others before", &calm)] {
                measured.add(&format!("{what}, p50 ms"), of.tally.latency.quantile_ms(0.5));
                measured.add(&format!("{what}, p99 ms"), of.tally.latency.quantile_ms(0.99));
                measured.add(&format!("{what}, max ms"), of.tally.latency.max_ms());
            }
            for (process, used) in &sample.cpu {
                let more = (used - calm.cpu.get(process).unwrap_or(&0.0)) * 1e6 / count;
                measured.add(&format!("more µs/session: {process}"), more);
            }
            let row = format!("{} resume at {pace}/s", self.name());
            report.enter(&row, active.contender.name, measured, Some(&sample.tally));
        }
        Ok(())
    }

    /// One event per session, to check that all are subscribed.
    async fn one_each(&self, active: &mut ActiveLoad<'_>) -> Result<Sample> {
        let rate = self.events(5_000.0);
        active.flow(rate, 0.0, f64::from(self.load.lanes()) / rate, self.plan.timeout).await
    }

    /// The highest sustained rate.
    async fn max(&self, contender: &mut Contender, report: &mut Report, from: f64) -> Result<()> {
        let mut from = self.events(from);
        for _ in 0..self.plan.repeat {
            let seconds = self.plan.size(3.0, 1.5, 0.5);
            let (steps, twice) = (self.plan.size(4, 3, 0), self.plan.size(true, false, false));
            let search = Search { from, seconds, steps, twice };
            say(format_args!("{}, {}", self.name(), contender.name.text()));
            let Some(sample) = search.run(contender, self.load, &self.dir).await? else {
                bail!("no rate was sustained");
            };
            // The next repetition can start near the result.
            from = sample.rate * 0.7;
            let mut measured = Measured::default();
            entries(&mut measured, &sample, contender.groups()?);
            report.enter(&self.name(), contender.name, measured, Some(&sample.tally));
        }
        Ok(())
    }

    /// Subscriptions per second, with new and with existing subjects.
    async fn subscribe(&self, contender: &mut Contender, report: &mut Report) -> Result<()> {
        for fresh in [false, true] {
            for _ in 0..self.plan.repeat {
                contender.renew(self.load, 1, UNLIMITED).await?;
                let groups = contender.groups()?;
                let mut active = self.start(contender, GENTLE_WINDOW).await?;
                let before = cpu(&groups);
                let answer = active.subscribe(self.plan.seconds.min(5.0), fresh).await?;
                let used = cpu(&groups);
                let Answer::Subscribed { count, refused, seconds } = answer else {
                    bail!("unexpected answer of the clients: {answer:?}")
                };
                if refused > 0 {
                    report.failures.push(format!("{refused} subscriptions were refused"));
                }
                let mut measured = Measured::default();
                measured.add("subscribes/s", count as f64 / seconds);
                for (process, used) in used {
                    measured.add(
                        &format!("µs/subscribe: {process}"),
                        (used - before[process]) * 1e6 / count as f64,
                    );
                }
                let edge = (cpu(&groups)["edge"] - before["edge"]).max(f64::MIN_POSITIVE);
                measured.add("subscribes/s and core", count as f64 / edge);
                let subjects = if fresh { "new subjects" } else { "an existing subject" };
                report.enter(&format!("{}, {subjects}", self.name()), active.contender.name, measured, None);
            }
        }
        Ok(())
    }

    /// Blackhole and a plain consumer, with the same events.
    async fn latency(&self, contender: &mut Contender, report: &mut Report) -> Result<()> {
        let Plan { repeat, warm_up, seconds, timeout, .. } = *self.plan;
        let rate = self.events(5_000.0);
        for _ in 0..repeat {
            contender.renew(self.load, 1, &[]).await?;
            let mut active = self.start(contender, GENTLE_WINDOW).await?;
            let Some(sink) = active.contender.sink() else { bail!("this server has no broker") };
            let mut consumer = Worker::start("consumer", &self.dir).await?;
            consumer.ask(&Order::Attach { sink, load: self.load }).await?;
            active.consumer = Some(consumer);
            let sample = active.flow(rate, warm_up, seconds, timeout).await?;
            let order = Order::Collect { events: active.published, timeout };
            let Some(Answer::Collected(plain)) = (match &mut active.consumer {
                Some(consumer) => Some(consumer.ask(&order).await?),
                None => None,
            }) else {
                bail!("unexpected answer of the consumer");
            };
            let mut measured = Measured::default();
            entries(&mut measured, &sample, active.contender.groups()?);
            for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
                let (ours, plain) =
                    (sample.tally.latency.quantile_ms(quantile), plain.latency.quantile_ms(quantile));
                measured.add(&format!("plain {name} ms"), plain);
                measured.add(&format!("{name} over plain, ms"), ours - plain);
            }
            report.enter(
                &format!("{} at {rate:.0}/s", self.name()),
                active.contender.name,
                measured,
                Some(&sample.tally),
            );
        }
        Ok(())
    }

    /// As many sessions as the edges can hold.
    async fn edges(&self, contender: &mut Contender, report: &mut Report, edges: usize) -> Result<()> {
        for _ in 0..self.plan.repeat {
            contender.renew(self.load, edges, &[]).await?;
            let before = resident(contender)?.0;
            let mut active = self.start(contender, GENTLE_WINDOW).await?;
            let mut measured = Measured::default();
            measured.add("seconds", active.connected.seconds);
            tokio::time::sleep(Duration::from_secs(2)).await;
            let more = resident(active.contender)?.0 - before;
            measured.add("KiB/session", more / f64::from(self.load.sessions));
            let rest = active.idle(self.plan.seconds).await?;
            measured.add("idle CPU %, each edge", rest["edge"] * 100.0 / self.plan.seconds / edges as f64);
            let sample = self.one_each(&mut active).await?;
            entries(&mut measured, &sample, active.contender.groups()?);
            let row = format!("{}, {edges} edges", self.name());
            report.enter(&row, active.contender.name, measured, Some(&sample.tally));
        }
        Ok(())
    }
}

/// Adds the figures of a flow of events.
fn entries(measured: &mut Measured, sample: &Sample, groups: Vec<(&'static str, i32)>) {
    measured.add("deliveries/s", sample.deliveries() / sample.seconds);
    measured.add("p50 ms", sample.tally.latency.quantile_ms(0.5));
    measured.add("p99 ms", sample.tally.latency.quantile_ms(0.99));
    measured.add("max ms", sample.tally.latency.max_ms());
    let names: BTreeMap<&str, ()> = groups.iter().map(|(name, _)| (*name, ())).collect();
    measured.add("µs/delivery", names.keys().map(|name| sample.micros(name)).sum());
    for process in sample.cpu.keys() {
        measured.add(&format!("µs/delivery: {process}"), sample.micros(process));
    }
    measured.add("steal %", sample.stolen);
    measured.add("others %", sample.others);
    measured.add("published late ms", sample.late_ms);
    if sample.unpublished > 0 {
        measured.add("not published", sample.unpublished as f64);
    }
}

/// Resident memory in KiB of the processes that hold the sessions, and the anonymous part of it.
fn resident(contender: &Contender) -> Result<(f64, f64)> {
    let groups = contender.groups()?;
    let Some((first, _)) = groups.first() else { bail!("no process is running") };
    let own =
        groups.iter().filter(|(name, _)| name == first).map(|(_, group)| accounting::memory_kib(*group));
    Ok(own.fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1)))
}
