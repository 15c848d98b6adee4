//! Baselines that are runs of their own: what of the configuration differs, and their training.

use super::learn::{Learning, LearningKind};
use super::scores::Tests;
use super::session::{Loaded, Session};
use super::steps::total_steps;
use crate::config::Config;
use crate::config::schema::{Method as Name, Scenario, Selection};
use crate::error::Result;
use crate::learner::{InitialWeights, Position};
use crate::output::progress::Progress;
use crate::output::results::Score;
use std::time::Instant;

/// Whether images choose among prompts, task after task.
fn selects(config: &Config) -> bool {
    let pool = &config.prompt_pool;
    matches!(config.method, Name::L2p | Name::DualPrompt)
        && pool.pool_size > 1
        && pool.selection == Selection::Key
        && config.continual.scenario != Scenario::Joint
}

/// The same run with one prompt of the same number of tokens, so that nothing is selected; `None` where that means
/// nothing.
pub fn single_prompt_of(config: &Config) -> Option<Config> {
    let mut own = selects(config).then(|| config.clone())?;
    let pool = &mut own.prompt_pool;
    pool.length *= pool.top_k;
    (pool.pool_size, pool.top_k, pool.use_prompt_mask) = (1, 1, false);
    Some(own)
}

/// The same run with prompts that are drawn for each image; `None` where that means nothing.
pub fn random_prompts_of(config: &Config) -> Option<Config> {
    without_keys(config, Selection::Random)
}

/// The same run with the first prompts of the pool for every image; `None` where that means nothing.
pub fn fixed_prompts_of(config: &Config) -> Option<Config> {
    without_keys(config, Selection::Fixed)
}

fn without_keys(config: &Config, selection: Selection) -> Option<Config> {
    let mut own = selects(config).then(|| config.clone())?;
    let pool = &mut own.prompt_pool;
    (pool.selection, pool.pull_constraint_coeff) = (selection, 0.0);
    (pool.use_prompt_mask, pool.diversified_selection) = (false, false);
    (pool.shared_prompt_pool, pool.shared_prompt_key) = (false, false);
    Some(own)
}

/// Trains the run that `of` makes of the session's on its data from the start, without files. `what`: in words.
pub fn run(session: &Session, of: fn(&Config) -> Option<Config>, what: &str, quiet: bool) -> Result<Score> {
    if !quiet {
        crate::output::say(&format!("baseline: the same run with {what}"))
    }
    let config = of(&session.learner.config).expect("a run to which this baseline applies");
    let loaded = Loaded {
        dev: session.learner.dev.clone(),
        data: session.data.clone(),
        backbone: session.learner.backbone.clone(),
        resident: session.resident.clone(),
    };
    let weights = InitialWeights::Same(&session.learner);
    let own = Session::for_training(config, loaded, session.ranks.clone(), weights)?;
    let progress = Progress::new(quiet, own.train_tasks.len(), total_steps(&own)?, 0);
    let mut run =
        Learning::new(own, LearningKind::Baseline, None, progress, Position::default(), Instant::now());
    run.learn(|_| Ok(()))?;
    run.progress.finish();
    run.session.score(&run.at, Tests::Own)
}
