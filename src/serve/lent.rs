//! A body that is lent to a handler and comes back with what was not read. A client that is still sending when the
//! connection is closed may lose the answer, so what is left of a refused body is read first, within bounds.

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

type Slot = Arc<Mutex<Option<Incoming>>>;

/// The body in the hands of a handler.
pub struct Lent {
    body: Option<Incoming>,
    slot: Slot,
}

/// Where it comes back.
pub struct Lender(Slot);

/// Lends a body.
pub fn lend(body: Incoming) -> (Lent, Lender) {
    let slot = Slot::default();
    (Lent { body: Some(body), slot: slot.clone() }, Lender(slot))
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = self.body.take();
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Lender {
    /// Reads what is left, up to `most` bytes, for no longer than `time`.
    pub async fn read_rest(self, most: usize, time: Duration) {
        let body = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut body) = body.filter(|body| !body.is_end_stream()) else { return };
        let read = async {
            let mut left = most;
            while let Some(Ok(frame)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                let Some(less) = left.checked_sub(bytes) else { return };
                left = less;
            }
        };
        // Whatever comes of it, the answer follows.
        let _ = tokio::time::timeout(time, read).await;
    }
}
