//! Bodies of requests: multipart files, or JSON with base64.

use super::app::App;
use super::limits::Limits;
use super::refusal::Refusal;
use axum::body::{Body, to_bytes};
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::time::timeout;

/// The kinds of bodies.
pub enum Kind {
    Json,
    Multipart,
}

/// # Errors
/// 415 for any other kind.
pub fn kind(headers: &HeaderMap) -> Result<Kind, Refusal> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = given.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => Ok(Kind::Json),
        "multipart/form-data" => Ok(Kind::Multipart),
        _ => Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "`Content-Type` must be multipart/form-data, or application/json with base64",
        )),
    }
}

/// Bytes that the body will have: what its head says, or `most` where it does not. Refused where that is more.
///
/// # Errors
/// 413 for more than `most`.
pub fn announced(headers: &HeaderMap, most: usize) -> Result<usize, Refusal> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    match length {
        Some(bytes) if bytes > most => {
            Err(Refusal::too_large(format!("a body of at most {most} bytes was wanted, found {bytes}")))
        }
        Some(bytes) => Ok(bytes),
        None => Ok(most),
    }
}

/// What comes of a body in time.
///
/// # Errors
/// 408 after `time`; those of `read`.
pub async fn in_time<T>(
    time: Duration,
    read: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    timeout(time, read).await.unwrap_or_else(|_| {
        let what = format!("the body did not come within {} seconds", time.as_secs());
        Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, what))
    })
}

/// A body of JSON.
///
/// # Errors
/// 413 for more than `most` bytes, 400 for a body that ends early, 422 for other JSON than the route takes.
pub async fn json<T: DeserializeOwned>(body: Body, most: usize) -> Result<T, Refusal> {
    let bytes = to_bytes(body, most).await.map_err(|e| {
        let text = error_text(&e);
        match text.contains("length limit") {
            true => Refusal::too_large(format!("a body of at most {most} bytes was wanted")),
            false => Refusal::bad(format!("the body cannot be read: {text}")),
        }
    })?;
    serde_json::from_slice(&bytes).map_err(|e| match e.classify() {
        serde_json::error::Category::Data => {
            Refusal::unusable(format!("the JSON is not what was wanted: {e}"))
        }
        _ => Refusal::bad(format!("the body is no JSON: {e}")),
    })
}

fn error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// Image files as JSON has them.
///
/// # Errors
/// 422 for what is no base64.
pub fn decode(images: &[String]) -> Result<Vec<Vec<u8>>, Refusal> {
    let decode = |(i, text): (usize, &String)| {
        STANDARD.decode(text).map_err(|e| {
            Refusal::unusable(format!("image {}: base64 (RFC 4648, padded) was wanted: {e}", i + 1))
        })
    };
    images.iter().enumerate().map(decode).collect()
}

/// A body in parts.
///
/// # Errors
/// 400 without a boundary.
pub async fn parts(request: Request) -> Result<Multipart, Refusal> {
    Multipart::from_request(request, &()).await.map_err(|e| Refusal::bad(e.body_text()))
}

/// A part's own trouble, and the body's.
pub fn bad_part(e: MultipartError) -> Refusal {
    match e.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Refusal::too_large("the body has more bytes than this route takes"),
        StatusCode::INTERNAL_SERVER_ERROR | StatusCode::BAD_REQUEST => {
            Refusal::bad(format!("the multipart body cannot be read: {}", e.body_text()))
        }
        status => Refusal::new(status, e.body_text()),
    }
}

/// The bytes of a part with an image.
///
/// # Errors
/// 413 for a large file, 400 for a body that ends early.
pub async fn file(mut field: Field<'_>, number: usize, limits: &Limits) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(bad_part)? {
        if bytes.len() + chunk.len() > limits.file_bytes {
            let most = limits.file_bytes;
            return Err(Refusal::too_large(format!("image {number}: at most {most} bytes were wanted")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The text of a short part.
///
/// # Errors
/// 422 for a long one or what is not UTF-8.
pub async fn text(mut field: Field<'_>, name: &str) -> Result<String, Refusal> {
    const MOST: usize = 4096;
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(bad_part)? {
        if bytes.len() + chunk.len() > MOST {
            return Err(Refusal::unusable(format!("{name}: at most {MOST} bytes were wanted")));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| Refusal::unusable(format!("{name}: text in UTF-8 was wanted")))
}

impl App {
    /// Images of a request to predict.
    ///
    /// # Errors
    /// As the functions above; 422 without an image, 413 for more than are answered for at once.
    pub async fn images_to_predict(&self, request: Request) -> Result<Vec<Vec<u8>>, Refusal> {
        let limits = &self.limits;
        let images = match kind(request.headers())? {
            Kind::Json => {
                let Images { images } = json(request.into_body(), limits.body_bytes).await?;
                self.expect_few(images.len())?;
                decode(&images)?
            }
            Kind::Multipart => {
                let (mut parts, mut images) = (parts(request).await?, Vec::new());
                while let Some(field) = parts.next_field().await.map_err(bad_part)? {
                    match field.name() {
                        Some("image") => images.push(file(field, images.len() + 1, limits).await?),
                        other => return Err(unknown_part(other, "`image`, as often as there are images")),
                    }
                    self.expect_few(images.len())?;
                }
                images
            }
        };
        if images.is_empty() {
            return Err(Refusal::unusable("at least one image was wanted, found none"));
        }
        Ok(images)
    }

    fn expect_few(&self, images: usize) -> Result<(), Refusal> {
        let most = self.limits.batch;
        if images <= most {
            return Ok(());
        }
        Err(Refusal::too_large(format!(
            "at most {most} images in a request were wanted: send them in several"
        )))
    }
}

pub fn unknown_part(found: Option<&str>, wanted: &str) -> Refusal {
    let found: String = found.unwrap_or("a part without a name").chars().take(60).collect();
    Refusal::unusable(format!("parts: {wanted} were wanted, found {found:?}"))
}

/// Images to name, as JSON.
#[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Images {
    /// Image files in base64 (RFC 4648, padded).
    #[schema(min_items = 1)]
    pub images: Vec<String>,
}
