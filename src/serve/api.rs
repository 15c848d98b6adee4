//! The routes and what they take and give.

use super::app::App;
use super::body::{self, Images, Kind};
use super::intake::ending;
use super::jobs::{Job, Lesson, Phase};
use super::names::class_name;
use super::page;
use super::refusal::{Problem, Refusal};
use super::versions::Version;
use crate::data::added::IMAGES_MIN;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream::{self, Stream};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::sync::{Arc, PoisonError};
use utoipa::{IntoParams, OpenApi, ToSchema};

/// Classes in an answer, unless `top` says otherwise.
const TOP: usize = 5;

type Shared = State<Arc<App>>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "l2p-engine serve",
        description = "Names images with a prompted Vision Transformer, and is taught new classes. On another address than a \
                       loopback one, every route under /v1 and /metrics needs `Authorization: Bearer TOKEN`."
    ),
    paths(predict, teach, model, versions, activate, job, events, healthz, metrics),
    components(schemas(Problem))
)]
struct Document;

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    let limits = &app.limits;
    Router::new()
        .route("/v1/predict", post(predict).layer(DefaultBodyLimit::max(limits.body_bytes)))
        .route("/v1/classes", post(teach).layer(DefaultBodyLimit::max(limits.upload_bytes)))
        .route("/v1/model", get(model))
        .route("/v1/versions", get(versions))
        .route("/v1/versions/{number}/activate", post(activate))
        .route("/v1/jobs/{job}", get(job))
        .route("/v1/jobs/{job}/events", get(events))
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(|| async { Json(Document::openapi()) }))
        .route("/", get(page::page))
        .fallback(|| async { Refusal::not_found("there is no such path; /openapi.json lists all") })
        .method_not_allowed_fallback(|| async {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method; see /openapi.json")
        })
        .with_state(app)
}

/// The route of a path, for counting: one word however many paths there are.
pub fn route(path: &str) -> &'static str {
    match path {
        "/" => "/",
        "/v1/predict" => "/v1/predict",
        "/v1/classes" => "/v1/classes",
        "/v1/model" => "/v1/model",
        "/v1/versions" => "/v1/versions",
        "/healthz" => "/healthz",
        "/metrics" => "/metrics",
        "/openapi.json" => "/openapi.json",
        path if path.starts_with("/v1/versions/") => "/v1/versions/{number}/activate",
        path if path.starts_with("/v1/jobs/") && path.ends_with("/events") => "/v1/jobs/{job}/events",
        path if path.starts_with("/v1/jobs/") => "/v1/jobs/{job}",
        _ => "other",
    }
}

/// How much of an answer is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Top {
    /// Classes per image, best first; 5 by default.
    #[param(minimum = 1, maximum = 1000000)]
    top: Option<usize>,
}

/// Image files to name, as a form has them.
#[derive(ToSchema)]
#[allow(dead_code)]
struct ImageForm {
    /// JPEG, PNG, WebP, BMP, GIF or TIFF, as often as there are images.
    #[schema(format = Binary, content_media_type = "application/octet-stream", min_items = 1)]
    image: Vec<String>,
}

/// The answers to all images of a request, in their order.
#[derive(Debug, Serialize, ToSchema)]
struct Answers {
    /// The version that answered for all of them.
    version: u32,
    answers: Vec<NamedAnswer>,
}

#[derive(Debug, Serialize, ToSchema)]
struct NamedAnswer {
    /// The prompts that the image chose, or the weight of each component; empty without a pool.
    #[schema(value_type = Vec<f64>)]
    prompts: serde_json::Value,
    /// Best first. Probabilities are those of all classes, and have every digit that the network gave.
    classes: Vec<NamedClass>,
}

#[derive(Debug, Serialize, ToSchema)]
struct NamedClass {
    class: String,
    probability: f64,
}

/// Names images.
#[utoipa::path(
    post, path = "/v1/predict", params(Top),
    request_body(content((Images = "application/json"), (ImageForm = "multipart/form-data"))),
    responses(
        (status = 200, body = Answers),
        (status = 400, body = Problem, description = "the body or the query cannot be read"),
        (status = 403, body = Problem, description = "another site's page, or another host's name"),
        (status = 408, body = Problem, description = "the body did not come in time"),
        (status = 413, body = Problem, description = "too many bytes, pixels or images"),
        (status = 415, body = Problem, description = "neither multipart nor JSON"),
        (status = 422, body = Problem, description = "an image that cannot be decoded, or other content than was wanted"),
        (status = 503, body = Problem, description = "too much at once; see Retry-After"),
    )
)]
async fn predict(
    State(app): Shared,
    query: Result<Query<Top>, QueryRejection>,
    request: Request,
) -> Result<Json<Answers>, Refusal> {
    let Query(Top { top }) = query.map_err(|e| Refusal::bad(e.body_text()))?;
    let top = top.unwrap_or(TOP);
    if top == 0 {
        return Err(Refusal::bad("top: 1 or more was wanted, found 0"));
    }
    app.expect_open()?;
    body::kind(request.headers())?;
    let room = app.room_to_read(body::announced(request.headers(), app.limits.body_bytes)?)?;
    let images = body::in_time(app.limits.body_time, app.images_to_predict(request)).await?;
    let ticket = app.batcher.admit(images.len())?;
    let intake = app.intake.clone();
    let pixels = blocking(move || intake.prepare_all(&images)).await??;
    drop(room);
    let answered = app.batcher.answer(ticket, pixels).await?;
    let names = &answered.version.class_names;
    let named = |answer: &crate::learner::Answer| -> Result<NamedAnswer, Refusal> {
        let prompts = serde_json::to_value(&answer.prompts).map_err(|e| Refusal::failed(e.to_string()))?;
        let named = answer.by_name(names).take(top);
        let classes = named.map(|(class, probability)| NamedClass { class: class.into(), probability });
        Ok(NamedAnswer { prompts, classes: classes.collect() })
    };
    let answers = answered.answers.iter().map(named).collect::<Result<_, _>>()?;
    Ok(Json(Answers { version: answered.version.number, answers }))
}

/// Work that takes the processor or the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Refusal::failed("a thread of the server stopped"))
}

/// A class to teach, as JSON.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewClass {
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// Image files in base64 (RFC 4648, padded).
    images: Vec<String>,
    /// The class may be there already, and gets more images.
    #[serde(default)]
    update: bool,
}

/// A class to teach, as a form has it.
#[derive(ToSchema)]
#[allow(dead_code)]
struct NewClassForm {
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// As often as there are images.
    #[schema(format = Binary, content_media_type = "application/octet-stream")]
    image: Vec<String>,
    /// `true` or `false`.
    update: Option<bool>,
}

/// Teaches a class. The answer is a job; when it is done and verified, a new version answers.
#[utoipa::path(
    post, path = "/v1/classes",
    request_body(content((NewClass = "application/json"), (NewClassForm = "multipart/form-data"))),
    responses(
        (status = 202, body = Job, headers(("Location" = String, description = "the job"))),
        (status = 400, body = Problem, description = "the body cannot be read"),
        (status = 403, body = Problem, description = "another site's page, or another host's name"),
        (status = 408, body = Problem, description = "the body did not come in time"),
        (status = 409, body = Problem, description = "a class is being taught, is there already, or nothing can be taught"),
        (status = 413, body = Problem, description = "too many bytes, pixels or images"),
        (status = 415, body = Problem, description = "neither multipart nor JSON"),
        (status = 422, body = Problem, description = "too few images, an image that cannot be decoded, a name that cannot be read"),
        (status = 503, body = Problem, description = "too much at once; see Retry-After"),
    )
)]
async fn teach(State(app): Shared, request: Request) -> Result<Response, Refusal> {
    let (kind, time, limits) = (body::kind(request.headers())?, app.limits.upload_time, app.limits.clone());
    app.expect_open()?;
    if let Some(why) = &app.about.not_taught {
        return Err(Refusal::conflict(why.clone()));
    }
    // JSON is held whole, a file of multipart at a time.
    let most = match kind {
        Kind::Json => body::announced(request.headers(), limits.body_bytes)?,
        Kind::Multipart => body::announced(request.headers(), limits.upload_bytes)?.min(limits.file_bytes),
    };
    let slot =
        app.teaching.clone().try_acquire_owned().map_err(|_| {
            Refusal::conflict("a class is being taught; one at a time: wait until that is done")
        })?;
    let room = app.room_to_read(most)?;
    let mut lesson = {
        let versions = app.versions();
        let (taught, classes) = (versions.list().len() - 1, versions.active().classes);
        if taught >= limits.versions {
            return Err(Refusal::conflict(format!(
                "there are {taught} versions and may be {}; start the server with a larger --max-versions, or from the \
                 folder of one of them",
                limits.versions
            )));
        }
        if classes >= limits.classes {
            return Err(Refusal::conflict(format!(
                "there are {classes} classes and may be {}; start the server with a larger --max-classes",
                limits.classes
            )));
        }
        let begun = versions.begin().map_err(|e| Refusal::failed(e.to_string()))?;
        let (number, dir) = begun.ok_or_else(|| Refusal::conflict("no class can be taught here"))?;
        Lesson::new(number, dir)
    };
    body::in_time(time, receive(&app, kind, request, &mut lesson)).await?;
    drop(room);
    let known = app.versions().active().known.contains(&lesson.class);
    match known {
        true if !lesson.update => {
            return Err(Refusal::conflict(
                "a class of this name is there already: give the new one another name, or `update` to give it more images",
            ));
        }
        known if lesson.images < if known { 2 } else { IMAGES_MIN } => {
            return Err(Refusal::unusable(format!(
                "image: at least {IMAGES_MIN} images of a new class were wanted (2 of one that is there), found {}",
                lesson.images
            )));
        }
        _ => {}
    }
    write_lists(&lesson)?;
    let job = app.jobs.start(app.teacher(), lesson, slot).map_err(|e| Refusal::failed(e.to_string()))?;
    let location = HeaderValue::from_str(&format!("/v1/jobs/{}", job.job));
    let location = location.map_err(|e| Refusal::failed(e.to_string()))?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(job)).into_response())
}

/// Puts the images of a request into the folder of the lesson, under numbers.
async fn receive(app: &Arc<App>, kind: Kind, request: Request, lesson: &mut Lesson) -> Result<(), Refusal> {
    let limits = &app.limits;
    let mut name = None;
    match kind {
        Kind::Json => {
            let NewClass { name: given, images, update } =
                body::json(request.into_body(), limits.body_bytes).await?;
            (name, lesson.update) = (Some(given), update);
            for bytes in body::decode(&images)? {
                keep(app, lesson, bytes).await?;
            }
        }
        Kind::Multipart => {
            let mut parts = body::parts(request).await?;
            while let Some(field) = parts.next_field().await.map_err(body::bad_part)? {
                match field.name() {
                    Some("image") => {
                        let bytes = body::file(field, lesson.images + 1, limits).await?;
                        keep(app, lesson, bytes).await?;
                    }
                    Some("name") if name.is_none() => name = Some(body::text(field, "name").await?),
                    Some("update") => {
                        lesson.update = match body::text(field, "update").await?.trim() {
                            "true" => true,
                            "false" => false,
                            _ => return Err(Refusal::unusable("update: `true` or `false` was wanted")),
                        }
                    }
                    other => return Err(body::unknown_part(other, "`name` once, `image` and `update`")),
                }
            }
        }
    }
    let name = name.ok_or_else(|| Refusal::unusable("name: the name of the class was wanted, found none"))?;
    lesson.class = class_name(&name, limits.name_chars)?;
    Ok(())
}

/// Writes an image that can be decoded.
async fn keep(app: &Arc<App>, lesson: &mut Lesson, bytes: Vec<u8>) -> Result<(), Refusal> {
    let most = app.limits.class_images;
    if lesson.images >= most {
        return Err(Refusal::too_large(format!("at most {most} images of a class were wanted")));
    }
    lesson.images += 1;
    let (intake, number, folder) = (app.intake.clone(), lesson.images, lesson.folder());
    let write = move || {
        intake.prepare(&bytes, number, &mut vec![0.0; intake.values()])?;
        let path = folder.join(format!("{number:05}.{}", ending(&bytes)));
        std::fs::write(&path, &bytes).map_err(|e| {
            Refusal::failed(format!("the image {}", crate::output::atomic::explain(&e, "written")))
        })
    };
    blocking(write).await?
}

/// The list that the data set reads: the name of the class stands in a file of its own, and is never part of a path.
fn write_lists(lesson: &Lesson) -> Result<(), Refusal> {
    let folder = lesson.folder();
    let failed = |e: std::io::Error| Refusal::failed(format!("the list of images cannot be written: {e}"));
    let entries = std::fs::read_dir(&folder).map_err(failed)?.flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let list: String = names.iter().map(|name| format!("{name}\t0\n")).collect();
    std::fs::write(folder.join("images.txt"), list).map_err(failed)?;
    std::fs::write(folder.join("classes.txt"), format!("{}\n", lesson.class)).map_err(failed)
}

/// What answers.
#[derive(Debug, Serialize, ToSchema)]
struct Model {
    engine_version: String,
    method: String,
    backbone: String,
    device: String,
    /// Images are brought to this many pixels each way.
    input_size: usize,
    /// The version that answers.
    version: u32,
    /// The classes that can be the answer, in the order of learning.
    classes: Vec<String>,
    /// Why no class can be taught; null where it can.
    not_taught: Option<String>,
    /// The job that was started last.
    job: Option<Job>,
    limits: ModelLimits,
}

/// What a request may have.
#[derive(Debug, Serialize, ToSchema)]
struct ModelLimits {
    images_per_request: usize,
    image_bytes: usize,
    image_pixels: u64,
    images_per_class_min: usize,
    images_per_class_max: usize,
    name_characters: usize,
    classes: usize,
    versions: usize,
}

/// What answers, its classes and its limits.
#[utoipa::path(get, path = "/v1/model", responses((status = 200, body = Model)))]
async fn model(State(app): Shared) -> Json<Model> {
    let active = app.versions().active().clone();
    let (about, limits) = (app.about.clone(), &app.limits);
    Json(Model {
        engine_version: env!("CARGO_PKG_VERSION").into(),
        method: about.method,
        backbone: about.backbone,
        device: about.device,
        input_size: about.input_size,
        version: active.number,
        classes: active.names,
        not_taught: about.not_taught,
        job: app.jobs.last(),
        limits: ModelLimits {
            images_per_request: limits.batch,
            image_bytes: limits.file_bytes,
            image_pixels: limits.pixels,
            images_per_class_min: IMAGES_MIN,
            images_per_class_max: limits.class_images,
            name_characters: limits.name_chars,
            classes: limits.classes,
            versions: limits.versions,
        },
    })
}

/// Every version, by number.
#[utoipa::path(get, path = "/v1/versions", responses((status = 200, body = Vec<Version>)))]
async fn versions(State(app): Shared) -> Json<Vec<Version>> {
    Json(app.versions().list())
}

/// Lets a version answer from now on, also after the server was started again.
#[utoipa::path(
    post, path = "/v1/versions/{number}/activate",
    params(("number" = u32, Path, description = "1 is the original run")),
    responses(
        (status = 200, body = Version),
        (status = 400, body = Problem, description = "not a number"),
        (status = 403, body = Problem, description = "another site's page, or another host's name"),
        (status = 404, body = Problem, description = "there is no such version"),
        (status = 503, body = Problem, description = "the server is stopping"),
    )
)]
async fn activate(
    State(app): Shared,
    number: Result<Path<u32>, PathRejection>,
) -> Result<Json<Version>, Refusal> {
    let number = number_of(number)?;
    app.expect_open()?;
    let dir = match app.versions().get(number) {
        Some(version) => version.dir.clone(),
        None => {
            return Err(Refusal::not_found(format!("there is no version {number}; /v1/versions lists all")));
        }
    };
    let app_there = app.clone();
    let switch = move || {
        let learner = app_there.loading.learner(&dir)?;
        let _changing = app_there.changing.lock().unwrap_or_else(PoisonError::into_inner);
        app_there.versions().activate(number)?;
        app_there.batcher.switch(learner, number)
    };
    blocking(switch).await?.map_err(|e| Refusal::failed(format!("version {number} cannot answer: {e}")))?;
    let version = app.versions().list().into_iter().find(|version| version.number == number);
    version.map(Json).ok_or_else(|| Refusal::not_found(format!("there is no version {number}")))
}

fn number_of(given: Result<Path<u32>, PathRejection>) -> Result<u32, Refusal> {
    given.map(|Path(number)| number).map_err(|e| Refusal::bad(e.body_text()))
}

fn no_job(job: u32) -> Refusal {
    Refusal::not_found(format!("there is no job {job} since the server was started"))
}

/// How far a job is.
#[utoipa::path(
    get, path = "/v1/jobs/{job}", params(("job" = u32, Path, description = "as `POST /v1/classes` answered")),
    responses(
        (status = 200, body = Job),
        (status = 400, body = Problem, description = "not a number"),
        (status = 404, body = Problem, description = "there is no such job"),
    )
)]
async fn job(State(app): Shared, number: Result<Path<u32>, PathRejection>) -> Result<Json<Job>, Refusal> {
    let number = number_of(number)?;
    let state = app.jobs.get(number).ok_or_else(|| no_job(number))?;
    let job = state.borrow().clone();
    Ok(Json(job))
}

/// The same as server-sent events `progress`, and at last `done` or `failed`; `data` is the job.
#[utoipa::path(
    get, path = "/v1/jobs/{job}/events", params(("job" = u32, Path, description = "as `POST /v1/classes` answered")),
    responses(
        (status = 200, content_type = "text/event-stream", body = String),
        (status = 400, body = Problem, description = "not a number"),
        (status = 404, body = Problem, description = "there is no such job"),
    )
)]
async fn events(
    State(app): Shared,
    number: Result<Path<u32>, PathRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let number = number_of(number)?;
    let mut state = app.jobs.get(number).ok_or_else(|| no_job(number))?;
    state.mark_changed();
    // Of states that come faster than the client reads, it gets the last.
    let next = |(mut state, over): (tokio::sync::watch::Receiver<Job>, bool)| async move {
        if over || state.changed().await.is_err() {
            return None;
        }
        let job = state.borrow_and_update().clone();
        let name = match job.phase {
            Phase::Done => "done",
            Phase::Failed => "failed",
            Phase::Learning | Phase::Testing | Phase::Verifying => "progress",
        };
        let data = serde_json::to_string(&job).unwrap_or_default();
        Some((Ok(Event::default().event(name).data(data)), (state, job.is_over())))
    };
    Ok(Sse::new(stream::unfold((state, false), next)).keep_alive(KeepAlive::default()))
}

/// Whether the network answers.
#[utoipa::path(
    get, path = "/healthz",
    responses((status = 200, content_type = "text/plain", body = String), (status = 503, body = Problem))
)]
async fn healthz(State(app): Shared) -> Result<&'static str, Refusal> {
    app.expect_open()?;
    match app.batcher.is_alive() {
        true => Ok("ok\n"),
        false => Err(Refusal::busy("the network has stopped")),
    }
}

/// Counters for Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "text/plain", body = String)))]
async fn metrics(State(app): Shared) -> Response {
    let text = app.metrics.text(app.now());
    let mut response = Body::from(text).into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
