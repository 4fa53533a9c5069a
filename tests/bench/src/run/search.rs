//! The highest rate that is sustained: everything arrives, and 99 % of it within a second of when it was due.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use blackhole_dev::progress::say;

use super::measure::{GENTLY, Live, Sample};
use crate::contender::Contender;
use crate::load::Load;

/// How a search goes.
pub(crate) struct Search {
    /// The first rate, in events per second.
    pub(crate) from: f64,
    /// How long each rate is tried, in seconds.
    pub(crate) seconds: f64,
    /// How often the range is halved in the end.
    pub(crate) steps: u32,
    /// Whether a rate that is not sustained is tried once more: something else may have run just then.
    pub(crate) twice: bool,
}

/// Beyond that no server here comes.
const MOST_DOUBLINGS: u32 = 14;
/// A backlog has to be gone before the next rate is tried.
const PATIENCE: Duration = Duration::from_secs(20);
const LATEST_MS: f64 = 1000.0;

impl Search {
    /// Searches; the last sample that was sustained, if any was.
    pub(crate) async fn run(
        &self,
        contender: &mut Contender,
        load: Load,
        dir: &Path,
    ) -> Result<Option<Sample>> {
        let mut best: Option<Sample> = None;
        let (mut rate, mut too_high, mut published) = (self.from, None::<f64>, 0);
        let (mut doublings, mut steps, mut tried) = (0, 0, false);
        'renewed: loop {
            contender.renew(load, 1, &[]).await?;
            let mut live = Live::begin(contender, load, GENTLY, published, dir).await?;
            loop {
                let sample = live.flow(rate, 0.5, self.seconds, PATIENCE).await?;
                let sustained = is_sustained(&sample);
                say(format_args!(
                    "  {:.0}/s: {}, p99 {:.0} ms{}",
                    sample.deliveries() / sample.seconds,
                    if sustained { "sustained" } else { "not sustained" },
                    sample.tally.latency.quantile_ms(0.99),
                    sample.tally.reason.as_deref().map_or(String::new(), |reason| format!(" ({reason})")),
                ));
                let unharmed = sample.tally.closed == 0 && sample.tally.lost == 0;
                let again = !sustained && self.twice && !tried;
                tried = again;
                if sustained {
                    best = Some(sample);
                } else if !again {
                    too_high = Some(rate);
                }
                rate = match (too_high, &best) {
                    _ if again => rate,
                    (None, _) if doublings < MOST_DOUBLINGS => {
                        doublings += 1;
                        rate * 2.0
                    }
                    (Some(high), Some(best)) if steps < self.steps => {
                        steps += 1;
                        (best.rate * high).sqrt()
                    }
                    // Even the first was too much.
                    (Some(high), None) if doublings < MOST_DOUBLINGS => {
                        doublings += 1;
                        high / 2.0
                    }
                    _ => return Ok(best),
                };
                if !unharmed {
                    published = live.published;
                    // Time for what is still on its way to the sessions that are gone.
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    continue 'renewed;
                }
            }
        }
    }
}

fn is_sustained(sample: &Sample) -> bool {
    let tally = &sample.tally;
    let whole = sample.unpublished == 0 && tally.closed == 0;
    whole && tally.delivered == tally.expected && tally.latency.quantile_ms(0.99) < LATEST_MS
}
