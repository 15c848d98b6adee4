//! `l2p-engine serve`.

use super::print;
use crate::error::{Error, Result};
use crate::serve::{self, Limits, Options};
use clap::Args;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Args)]
pub struct Serve {
    /// The run, or a file that `export` wrote, which answers and cannot be taught.
    #[arg(long, value_name = "DIR", default_value = "runs/default")]
    workdir: PathBuf,
    /// Where to listen. Port 0 takes a free one. Others than loopback addresses need --token-file.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7860")]
    listen: SocketAddr,
    /// Where the versions lie that classes are taught to; by default RUN.versions beside the run.
    #[arg(long, value_name = "DIR")]
    versions: Option<PathBuf>,
    /// A file with the token that requests must show (`Authorization: Bearer TOKEN`).
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Where the backbone lies now, if it has moved; its checksum must be the run's.
    #[arg(long, value_name = "FILE")]
    init_checkpoint: Option<String>,
    /// Where the images that the run began with lie now, if they have moved.
    #[arg(long, value_name = "DIR")]
    run_data_dir: Option<String>,
    /// Most images that the network answers for at once, and most of one request.
    #[arg(long, value_name = "N", default_value_t = Limits::default().batch)]
    max_batch: usize,
    /// Most milliseconds that an image waits for others to be answered with.
    #[arg(long, value_name = "MS", default_value_t = Limits::default().wait.as_millis() as u64)]
    max_wait: u64,
    /// Most images that wait; beyond them requests are refused with status 503.
    #[arg(long, value_name = "N", default_value_t = Limits::default().queue)]
    max_queue: usize,
    /// Most pixels of an image.
    #[arg(long, value_name = "N", default_value_t = Limits::default().pixels)]
    max_pixels: u64,
    /// Most classes of a version.
    #[arg(long, value_name = "N", default_value_t = Limits::default().classes)]
    max_classes: usize,
    /// Most versions beside the run itself.
    #[arg(long, value_name = "N", default_value_t = Limits::default().versions)]
    max_versions: usize,
}

impl Serve {
    pub fn run(self) -> Result<()> {
        if self.max_batch == 0 || self.max_queue < self.max_batch {
            return Err(Error::config(format!(
                "--max-batch {} --max-queue {}: a batch of 1 or more was wanted, and a queue of a batch or more",
                self.max_batch, self.max_queue
            )));
        }
        let limits = Limits {
            batch: self.max_batch,
            wait: Duration::from_millis(self.max_wait),
            queue: self.max_queue,
            pixels: self.max_pixels,
            classes: self.max_classes,
            versions: self.max_versions,
            ..Limits::default()
        };
        let options = Options {
            token: self.token_file.as_deref().map(token).transpose()?,
            choice: super::device_to_answer(&self.device, &self.workdir)?,
            workdir: self.workdir.clone(),
            listen: self.listen,
            versions: self.versions,
            init_checkpoint: self.init_checkpoint,
            run_images: self.run_data_dir,
            limits,
        };
        serve::serve(options, |address, what| {
            print(&format!("{} answers at http://{address}/ ({what})", self.workdir.display()));
        })
    }
}

/// The first line of the file.
fn token(path: &Path) -> Result<String> {
    let text =
        std::fs::read_to_string(path).map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
    Ok(text.lines().next().unwrap_or_default().trim().to_string())
}
