//! Connections: so many at once, each with a time for its head, and all of them ended in order when the server stops.

use super::api::route;
use super::app::App;
use super::lent::lend;
use super::page::harden;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower_service::Service;

/// After an error of `accept`, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// For what is left of a refused body.
const REST: Duration = Duration::from_secs(5);

/// Accepts connections until the server is asked to stop, then waits for those that are open as long as they may take.
pub async fn serve(listener: TcpListener, app: Arc<App>, router: Router) {
    let slots = Arc::new(Semaphore::new(app.limits.connections));
    let mut stopping = app.stopping.clone();
    let mut open = JoinSet::new();
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await.ok()?;
            Some((listener.accept().await, slot))
        };
        tokio::select! {
            accepted = accepted => match accepted {
                Some((Ok((stream, _)), slot)) => {
                    let work = connection(stream, app.clone(), router.clone());
                    open.spawn(async move {
                        work.await;
                        drop(slot);
                    });
                }
                Some((Err(_), _)) => tokio::time::sleep(PAUSE).await,
                None => break,
            },
            Some(_) = open.join_next(), if !open.is_empty() => {}
            _ = stopping.wait_for(|stop| *stop) => break,
        }
    }
    drop(listener);
    let drained = async { while open.join_next().await.is_some() {} };
    // What is open after that is cut off.
    let _ = tokio::time::timeout(app.limits.drain_time, drained).await;
}

async fn connection(stream: TcpStream, app: Arc<App>, router: Router) {
    app.connections.fetch_add(1, Ordering::SeqCst);
    let _ = stream.set_nodelay(true);
    let here = app.clone();
    let service = service_fn(move |request| answer(here.clone(), router.clone(), request));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(app.limits.head_time).max_buf_size(64 << 10);
    let mut served = pin!(http.serve_connection(TokioIo::new(stream), service));
    let mut stopping = app.stopping.clone();
    let stop = async { drop(stopping.wait_for(|stop| *stop).await) };
    // Errors are those of clients that went away or sent no HTTP, to whom nothing more can be said.
    tokio::select! {
        _ = served.as_mut() => {}
        () = stop => {
            served.as_mut().graceful_shutdown();
            let _ = served.await;
        }
    }
    app.connections.fetch_sub(1, Ordering::SeqCst);
}

async fn answer(
    app: Arc<App>,
    mut router: Router,
    request: hyper::Request<Incoming>,
) -> Result<Response, Infallible> {
    let began = Instant::now();
    // Who waits to be asked for the body has not sent it.
    let sends = !request.headers().contains_key(header::EXPECT);
    let (head, body) = request.into_parts();
    let (body, lender) = lend(body);
    let request = Request::from_parts(head, Body::new(body));
    let route = route(request.uri().path());
    let checked = app.guard.check(request.method(), request.uri().path(), request.headers());
    let mut response = match checked {
        Ok(()) => router.call(request).await?,
        Err(refusal) => {
            drop(request);
            refusal.into_response()
        }
    };
    if sends && response.status().is_client_error() {
        lender.read_rest(app.limits.body_bytes, REST).await;
    }
    harden(&mut response);
    app.metrics.request(route, response.status().as_u16(), began.elapsed());
    Ok(response)
}
