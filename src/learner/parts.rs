//! Steps that are divided because they do not fit into memory: `train.micro_batch`.

use super::purpose::{Purpose, planned};
use crate::config::Config;
use crate::config::micro_batch::MicroBatch;
use crate::error::{Error, Result};
use crate::nn::vit::Dims;
use crate::tensor::plan::Plan;

/// Of the memory that is free on a CPU, what a plan may take; the rest is for images, files and the program.
const SHARE_OF_HOST: f64 = 0.9;

/// Images that a part must have whole: those that choose their prompts together.
fn unit(config: &Config, images: usize) -> usize {
    let pool = &config.prompt_pool;
    match (pool.batchwise_prompt && pool.pool_size > 0, pool.vote_group) {
        (false, _) => 1,
        (true, 0) => images,
        (true, group) => group,
    }
}

/// Why steps of this method are not divided, where that is so.
fn undivided(config: &Config) -> Option<&'static str> {
    use crate::config::schema::Method::{Ewc, Lwf, Ncm, Ranpac};
    match config.method {
        Ewc | Lwf | Ranpac => Some("looks at whole batches beside its steps"),
        Ncm => Some("keeps nothing of a step for a backward pass"),
        _ => None,
    }
}

/// Says in `config` how large the parts of a step are: a number of images where it is divided, and then test batches are
/// no larger. Where smaller test batches are enough, steps stay whole. `empty` makes a dry plan of the device, `free` is its free memory.
///
/// # Errors
/// `Error::Config` for a number that this run cannot have; `Error::Failed` if not even one vote group fits.
pub fn divide(
    config: &mut Config,
    dims: Dims,
    classes: usize,
    purpose: Purpose,
    empty: impl Fn() -> Plan,
    free: Option<usize>,
) -> Result<()> {
    let Some(images) = purpose.step_images() else { return Ok(()) };
    let unit = unit(config, images);
    let divided = |part: usize| {
        let mut config = config.clone();
        config.train.micro_batch = MicroBatch::Images(part);
        config.train.eval_batch_size = config.train.eval_batch_size.min(part);
        config
    };
    if let MicroBatch::Images(part) = config.train.micro_batch {
        if let Some(why) = undivided(config) {
            return Err(Error::config(format!(
                "train.micro_batch = {part}: `{}` {why}; wanted \"auto\"",
                config.method
            )));
        }
        if part < images && !part.is_multiple_of(unit) {
            return Err(Error::config(format!(
                "train.micro_batch = {part}: wanted a multiple of the {unit} images that choose their prompts together \
                 (prompt_pool.vote_group), or {images} or more: a whole step"
            )));
        }
        if part < images {
            *config = divided(part);
        }
        return Ok(());
    }
    let Some(free) = free.filter(|_| undivided(config).is_none() && unit < images) else { return Ok(()) };
    let bytes = |config: &Config| -> Result<usize> {
        let mut plan = empty();
        planned(config, dims, classes, &mut plan, purpose)?;
        Ok(plan.total_bytes())
    };
    let room = if empty().is_on_gpu() { free } else { (free as f64 * SHARE_OF_HOST) as usize };
    if bytes(config)? <= room {
        return Ok(());
    }
    let small_tests = {
        let mut config = config.clone();
        config.train.eval_batch_size = config.train.eval_batch_size.min(images);
        config
    };
    if bytes(&small_tests)? <= room {
        *config = small_tests;
        return Ok(());
    }
    // The largest number of units that fits: `low` fits, `high` does not.
    let (mut low, mut high) = (0, images.div_ceil(unit));
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if bytes(&divided(middle * unit))? <= room { low = middle } else { high = middle }
    }
    // Where not even one fits, what allocates says so.
    *config = divided(low.max(1) * unit);
    Ok(())
}
