//! The thread that the network answers on. Images of requests that come at about the same time are answered together; an
//! answer depends on its image alone ([`Learner::answer`]), so it has the same bits in any company.

use super::limits::Limits;
use super::metrics::Metrics;
use super::refusal::Refusal;
use crate::error::{Error, Result};
use crate::learner::{Answer, Learner};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::oneshot;

/// The version behind answers.
#[derive(Debug)]
pub struct Served {
    pub number: u32,
    /// By engine class id.
    pub class_names: Vec<String>,
}

impl Served {
    pub fn of(learner: &Learner, number: u32) -> Served {
        Served { number, class_names: learner.class_names.clone() }
    }
}

/// The answers to the images of one request, all by one version.
#[derive(Debug)]
pub struct Answered {
    pub version: Arc<Served>,
    pub answers: Vec<Answer>,
}

/// Images on their way through the server.
#[derive(Debug, Default)]
struct Gauge {
    /// Admitted and not yet taken by the network.
    waiting: AtomicUsize,
    /// Of these, the ones that are still being decoded.
    coming: AtomicUsize,
}

/// Places in the queue, given back when the network takes the images or the request ends.
#[derive(Debug)]
pub struct Ticket {
    gauge: Arc<Gauge>,
    images: usize,
    queued: bool,
}

impl Ticket {
    fn enter(&mut self) {
        self.queued = true;
        self.gauge.coming.fetch_sub(self.images, Ordering::SeqCst);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.queued {
            self.enter();
        }
        self.gauge.waiting.fetch_sub(self.images, Ordering::SeqCst);
    }
}

struct Work {
    pixels: Vec<f32>,
    ticket: Ticket,
    reply: oneshot::Sender<Result<Answered>>,
}

enum Message {
    Answer(Work),
    /// From now on this version answers.
    Switch(Box<Learner>, u32, Sender<()>),
}

/// The way to the network.
pub struct Batcher {
    sender: Sender<Message>,
    gauge: Arc<Gauge>,
    thread: JoinHandle<()>,
    queue: usize,
}

impl Batcher {
    /// Starts the thread; version `number` answers.
    ///
    /// # Errors
    /// `Error::Failed` if there is no thread to be had.
    pub fn start(learner: Learner, number: u32, limits: &Limits, metrics: Arc<Metrics>) -> Result<Batcher> {
        let (sender, messages) = channel();
        let gauge = Arc::new(Gauge::default());
        let (coming, limits_here) = (gauge.clone(), limits.clone());
        let work =
            move || Answering { messages, gauge: coming, limits: limits_here, metrics }.run(learner, number);
        let thread = std::thread::Builder::new()
            .name("network".into())
            .spawn(work)
            .map_err(|e| Error::failed(format!("cannot start the network's thread: {e}")))?;
        Ok(Batcher { sender, gauge, thread, queue: limits.queue })
    }

    /// Images that wait.
    pub fn waiting(&self) -> usize {
        self.gauge.waiting.load(Ordering::SeqCst)
    }

    /// Whether the network still answers.
    pub fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Places for `images` images.
    ///
    /// # Errors
    /// 503 where the queue has no room for them.
    pub fn admit(&self, images: usize) -> std::result::Result<Ticket, Refusal> {
        let room = |waiting: usize| Some(waiting + images).filter(|&all| all <= self.queue);
        self.gauge.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, room).map_err(|waiting| {
            Refusal::busy(format!(
                "{waiting} images wait, and there is room for {}: send the request again later",
                self.queue
            ))
        })?;
        self.gauge.coming.fetch_add(images, Ordering::SeqCst);
        Ok(Ticket { gauge: self.gauge.clone(), images, queued: false })
    }

    /// Answers for prepared images.
    ///
    /// # Errors
    /// 500 if the network fails.
    pub async fn answer(
        &self,
        mut ticket: Ticket,
        pixels: Vec<f32>,
    ) -> std::result::Result<Answered, Refusal> {
        let (reply, answer) = oneshot::channel();
        ticket.enter();
        let stopped = || Refusal::failed("the network has stopped: start the server again");
        self.sender.send(Message::Answer(Work { pixels, ticket, reply })).map_err(|_| stopped())?;
        match answer.await {
            Ok(Ok(answered)) => Ok(answered),
            Ok(Err(e)) => Err(Refusal::failed(format!("the network failed: {e}"))),
            Err(_) => Err(stopped()),
        }
    }

    /// Lets `learner` answer as version `number`, and returns when it does.
    ///
    /// # Errors
    /// `Error::Failed` if the thread has ended.
    pub fn switch(&self, learner: Learner, number: u32) -> Result<()> {
        let stopped = || Error::failed("the network has stopped");
        let (done, switched) = channel();
        let message = Message::Switch(Box::new(learner), number, done);
        self.sender.send(message).map_err(|_| stopped())?;
        switched.recv().map_err(|_| stopped())
    }

    /// Answers for what is queued and ends the thread.
    pub fn finish(self) {
        drop(self.sender);
        // Where it panicked, that was printed then.
        let _ = self.thread.join();
    }
}

/// The thread's side.
struct Answering {
    messages: Receiver<Message>,
    gauge: Arc<Gauge>,
    limits: Limits,
    metrics: Arc<Metrics>,
}

impl Answering {
    fn run(self, mut learner: Learner, number: u32) {
        let mut served = Arc::new(Served::of(&learner, number));
        // What came behind a full batch, or ends it.
        let mut held = None;
        while let Some(message) = held.take().or_else(|| self.messages.recv().ok()) {
            match message {
                Message::Switch(next, number, done) => {
                    served = Arc::new(Served::of(&next, number));
                    learner = *next;
                    let _ = done.send(());
                }
                Message::Answer(work) => {
                    let (batch, next) = self.collect(work);
                    held = next;
                    self.answer(&mut learner, &served, batch);
                }
            }
        }
    }

    /// The work that is answered together with `first`, and what comes after it. It is not waited for longer than an image
    /// may wait, and only while images are on their way.
    fn collect(&self, first: Work) -> (Vec<Work>, Option<Message>) {
        let end = Instant::now() + self.limits.wait;
        let mut images = first.ticket.images;
        let mut batch = vec![first];
        while images < self.limits.batch {
            let next = match self.messages.try_recv() {
                Ok(message) => message,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() || self.gauge.coming.load(Ordering::SeqCst) == 0 {
                        break;
                    }
                    match self.messages.recv_timeout(left) {
                        Ok(message) => message,
                        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                    }
                }
            };
            match next {
                Message::Answer(work) if images + work.ticket.images <= self.limits.batch => {
                    images += work.ticket.images;
                    batch.push(work);
                }
                other => return (batch, Some(other)),
            }
        }
        (batch, None)
    }

    fn answer(&self, learner: &mut Learner, served: &Arc<Served>, batch: Vec<Work>) {
        // Of requests that were given up, nobody reads the answer.
        let batch: Vec<Work> = batch.into_iter().filter(|work| !work.reply.is_closed()).collect();
        let (mut pixels, mut replies) = (Vec::new(), Vec::new());
        for Work { pixels: own, ticket, reply } in batch {
            pixels.extend_from_slice(&own);
            replies.push((ticket.images, reply));
        }
        if replies.is_empty() {
            return;
        }
        self.metrics.batch(replies.iter().map(|(images, _)| images).sum());
        match learner.answer(&pixels) {
            Ok(answers) => {
                let mut answers = answers.into_iter();
                for (images, reply) in replies {
                    let answers = answers.by_ref().take(images).collect();
                    let _ = reply.send(Ok(Answered { version: served.clone(), answers }));
                }
            }
            Err(e) => replies.into_iter().for_each(|(_, reply)| drop(reply.send(Err(e.clone())))),
        }
    }
}
