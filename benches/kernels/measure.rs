//! How long queued work takes on the device.

use l2p_engine::Result;
use l2p_engine::device::{Event, Gpu, Graph, StreamKind};
use std::sync::Arc;

/// Milliseconds that one timed replay should last, so that its own start does not show.
const REPLAY_MS: f64 = 0.5;
const MOST_LAUNCHES: usize = 512;
const REPLAYS: std::ops::RangeInclusive<usize> = 7..=60;

/// Microseconds of one launch.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub median: f64,
    pub p10: f64,
    pub p90: f64,
    /// Timed replays, and launches in each.
    pub replays: usize,
    pub launches: usize,
}

/// Times `queue(i)`, which queues one launch on set `i` of its tensors, for about `budget_ms`; 0: as few launches as
/// give a number. All sets take
/// their turn, so that none of them is found in the cache where together they do not fit.
pub fn time(
    gpu: &Arc<Gpu>,
    budget_ms: f64,
    sets: usize,
    mut queue: impl FnMut(usize) -> Result<()>,
) -> Result<Times> {
    let mut round = || (0..sets).try_for_each(&mut queue);
    // Loads kernels and grows scratch memory, which a capture must not.
    round()?;
    let (start, end) = (Event::timed(gpu)?, Event::timed(gpu)?);
    start.record(StreamKind::Compute)?;
    round()?;
    end.record(StreamKind::Compute)?;
    let round_ms = end.ms_since(&start)?.max(1e-4);
    let rounds = ((REPLAY_MS / round_ms).ceil() as usize).clamp(1, (MOST_LAUNCHES / sets).max(1));
    let rounds = if budget_ms > 0.0 { rounds } else { 1 };
    let graph = Graph::capture(gpu, || (0..rounds).try_for_each(|_| round()))?;
    graph.launch()?;
    let replays = (budget_ms / (round_ms * rounds as f64)) as usize;
    let replays = if budget_ms > 0.0 { replays.clamp(*REPLAYS.start(), *REPLAYS.end()) } else { 2 };
    let mut marks = Vec::new();
    for _ in 0..replays {
        let (start, end) = (Event::timed(gpu)?, Event::timed(gpu)?);
        start.record(StreamKind::Compute)?;
        graph.launch()?;
        end.record(StreamKind::Compute)?;
        marks.push((start, end));
    }
    let launches = rounds * sets;
    let each = |(start, end): &(Event, Event)| Ok(end.ms_since(start)? * 1e3 / launches as f64);
    let mut us = marks.iter().map(each).collect::<Result<Vec<f64>>>()?;
    us.sort_by(f64::total_cmp);
    let at = |share: f64| us[((us.len() - 1) as f64 * share).round() as usize];
    Ok(Times { median: at(0.5), p10: at(0.1), p90: at(0.9), replays, launches })
}
