//! A run as a server: it names images over HTTP, is taught classes while it answers, and goes back to any version.
//!
//! A request goes through [`connections`] (bounds of a connection), [`guard`] (who may ask), [`api`] (what is asked),
//! [`intake`] (from files to pixels) and [`batcher`] (the network's thread). `docs/serve.md` describes it for users.

mod api;
mod app;
mod batcher;
mod body;
mod connections;
mod guard;
mod intake;
mod jobs;
mod lent;
mod limits;
mod metrics;
mod names;
mod page;
mod refusal;
mod versions;

pub use limits::Limits;

use crate::device::Choice;
use crate::error::{Error, Result};
use crate::output::signal;
use app::{About, App};
use batcher::Batcher;
use guard::Guard;
use intake::Intake;
use jobs::Jobs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use versions::{Loading, Versions};

/// How often it is looked whether the process was asked to stop.
const LOOK: Duration = Duration::from_millis(50);
/// Characters of a token, so that it cannot be guessed.
const TOKEN_MIN: usize = 16;

/// What is served, where and to whom.
#[derive(Debug, Clone)]
pub struct Options {
    /// A run, or a file that `export` wrote.
    pub workdir: PathBuf,
    pub listen: SocketAddr,
    /// Where the versions lie; `None`: beside the run.
    pub versions: Option<PathBuf>,
    pub choice: Choice,
    /// Where backbone and images of the run lie now, if they have moved.
    pub init_checkpoint: Option<String>,
    pub run_images: Option<String>,
    /// Needed where others than this machine can connect.
    pub token: Option<String>,
    pub limits: Limits,
}

/// Serves until the process is asked to stop. `ready` is called with the address and what answers there.
///
/// # Errors
/// `Error::Config` for an address that others can reach without a token; `Error::File` and `Error::Failed` for a run that
/// cannot answer or an address that is taken.
pub fn serve(options: Options, ready: impl FnOnce(SocketAddr, &str)) -> Result<()> {
    expect_token(&options)?;
    signal::install_saying(
        "stopping: requests that are open are answered, a class that is being taught is not learned",
    )?;
    let limits = options.limits.clone();
    let loading =
        Loading { choice: options.choice, init_checkpoint: options.init_checkpoint, batch: limits.batch };
    let first = loading.saved(&options.workdir)?;
    let is_file = options.workdir.is_file();
    let dir = (!is_file).then(|| options.versions.unwrap_or_else(|| beside(&options.workdir)));
    let versions = Versions::open(&first, dir.as_deref())?;
    let active = versions.active().clone();
    let learner = loading.learner(&active.dir)?;
    let about = About {
        method: first.config.method.to_string(),
        backbone: first.config.model.init_checkpoint.rsplit('/').next().unwrap_or_default().to_string(),
        device: learner.dev.name().to_string(),
        input_size: learner.preprocess.input_size(),
        not_taught: is_file.then(|| {
            "an exported file answers alone and cannot be taught; start the server with the work directory of the run".into()
        }),
    };
    let says = format!("version {}, {} classes", active.number, learner.classes_seen.len());
    let metrics = Arc::new(metrics::Metrics::default());
    let intake = Arc::new(Intake::new(learner.preprocess.clone(), limits.clone()));
    let batcher = Arc::new(Batcher::start(learner, active.number, &limits, metrics.clone())?);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    // Decoding takes the processor: more threads than there are would only hold more images in memory.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.min(4))
        .max_blocking_threads(threads + 1)
        .thread_name("http")
        .enable_all()
        .build()
        .map_err(|e| Error::failed(format!("cannot start the threads of the server: {e}")))?;
    let listen = |address: SocketAddr| async move {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, address))
    };
    let (listener, address) = runtime.block_on(listen(options.listen)).map_err(|e| {
        Error::failed(format!(
            "cannot listen on {}: {e}; choose another address with --listen",
            options.listen
        ))
    })?;
    let (stop, stopping) = watch::channel(false);
    let app = Arc::new(App {
        about,
        guard: Guard::new(address, options.token.as_deref()),
        metrics,
        batcher,
        intake,
        versions: Arc::new(Mutex::new(versions)),
        changing: Arc::default(),
        jobs: Jobs::default(),
        loading,
        run_images: options.run_images,
        teaching: Arc::new(Semaphore::new(1)),
        reading: Arc::new(Semaphore::new(limits.reading_bytes / 1024)),
        connections: 0.into(),
        stopping,
        limits,
    });
    ready(address, &says);
    runtime.block_on(async {
        tokio::spawn(async move {
            while !signal::stop_requested() {
                tokio::time::sleep(LOOK).await;
            }
            let _ = stop.send(true);
        });
        connections::serve(listener, app.clone(), api::router(app.clone())).await;
    });
    app.jobs.finish(app.limits.drain_time);
    // Connections that were cut off are dropped with the runtime.
    runtime.shutdown_timeout(Duration::from_secs(1));
    // Where a thread still holds the network, the process ends anyway, and nothing is left to be saved.
    if let Some(batcher) = Arc::into_inner(app).and_then(|app| Arc::into_inner(app.batcher)) {
        batcher.finish();
    }
    Ok(())
}

/// Refuses to be reached from elsewhere without a token.
fn expect_token(options: &Options) -> Result<()> {
    match &options.token {
        Some(token) if token.chars().count() < TOKEN_MIN || !token.chars().all(|c| c.is_ascii_graphic()) => {
            Err(Error::config(format!(
                "the token must have {TOKEN_MIN} or more visible ASCII characters; `openssl rand -hex 32` makes one"
            )))
        }
        None if !options.listen.ip().is_loopback() => Err(Error::config(format!(
            "--listen {}: others can reach this address, so a token is needed: write one into a file and give \
             --token-file FILE, or listen on 127.0.0.1",
            options.listen
        ))),
        _ => Ok(()),
    }
}

/// `RUN.versions` beside `RUN`.
fn beside(run: &std::path::Path) -> PathBuf {
    let whole = std::fs::canonicalize(run).unwrap_or_else(|_| run.to_path_buf());
    let name = whole.file_name().map_or("run".into(), |name| name.to_string_lossy().into_owned());
    whole.with_file_name(format!("{name}.versions"))
}
