//! The highest sustained rate: all events arrive, 99 % of them within a second of their due time.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use blackhole_dev::progress::say;

use super::measure::{ActiveLoad, GENTLE_WINDOW, Sample};
use crate::contender::Contender;
use crate::load::Load;

/// The parameters of a search.
pub(crate) struct Search {
    /// The first rate, in events per second.
    pub(crate) from: f64,
    /// Seconds for which each rate is tried.
    pub(crate) seconds: f64,
    /// How often the range is halved at the end.
    pub(crate) steps: u32,
    /// Whether to retry a rate that was not sustained: the machine may have been busy.
    pub(crate) twice: bool,
}

/// More than any server here reaches.
const MAX_DOUBLINGS: u32 = 14;
/// How long a backlog may take to drain before the next rate is tried.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_P99_MS: f64 = 1000.0;

impl Search {
    /// Searches, and returns the sample with the highest sustained rate.
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
            let mut active = ActiveLoad::start(contender, load, GENTLE_WINDOW, published, dir).await?;
            loop {
                let sample = active.flow(rate, 0.5, self.seconds, DRAIN_TIMEOUT).await?;
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
                    (None, _) if doublings < MAX_DOUBLINGS => {
                        doublings += 1;
                        rate * 2.0
                    }
                    (Some(high), Some(best)) if steps < self.steps => {
                        steps += 1;
                        (best.rate * high).sqrt()
                    }
                    // Even the first rate was too high.
                    (Some(high), None) if doublings < MAX_DOUBLINGS => {
                        doublings += 1;
                        high / 2.0
                    }
                    _ => return Ok(best),
                };
                if !unharmed {
                    published = active.published;
                    // Let events that are still in transit to the old sessions pass.
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    continue 'renewed;
                }
            }
        }
    }
}

fn is_sustained(sample: &Sample) -> bool {
    let tally = &sample.tally;
    let complete = sample.unpublished == 0 && tally.closed == 0;
    complete && tally.delivered == tally.expected && tally.latency.quantile_ms(0.99) < MAX_P99_MS
}
