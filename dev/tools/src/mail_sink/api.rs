//! The HTTP side: routes, and the shapes of Mailpit's API.
//!
//! Ours alone: `wait=SECONDS` on the search, which holds the answer until something matches, so that a script needs
//! neither a loop nor a guess; and `GET /api/events`, which tells the page of changes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use futures::Stream;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::message::{Address, Attachment, Message};
use super::page;
use super::search::Search;
use super::store::Store;

/// The longest `wait`.
const MAX_WAIT: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct Api {
    store: Arc<Store>,
    shutdown: CancellationToken,
}

/// Serves the page and the API until shutdown.
pub(super) async fn serve(listener: TcpListener, store: Arc<Store>, shutdown: CancellationToken) {
    let router = Router::new()
        .route("/", get(page::show))
        .route("/api/events", get(events))
        .route("/api/v1/messages", get(list).delete(delete))
        .route("/api/v1/search", get(search))
        .route("/api/v1/message/{id}", get(message))
        .route("/api/v1/message/{id}/headers", get(headers))
        .route("/api/v1/message/{id}/raw", get(raw))
        .fallback(async || Refusal(StatusCode::NOT_FOUND, "there is nothing at this path".to_owned()))
        .with_state(Api { store, shutdown: shutdown.clone() });
    let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "the mail page has stopped");
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    #[serde(default)]
    start: usize,
    #[serde(default = "Page::default_limit")]
    limit: usize,
}

impl Page {
    fn default_limit() -> usize {
        50
    }
}

async fn list(
    State(api): State<Api>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<List>, Refusal> {
    let Query(page) = page?;
    let all = api.store.messages();
    Ok(Json(List::new(&all, all.iter().rev().collect(), page.start, page.limit)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchPage {
    query: String,
    #[serde(default)]
    start: usize,
    #[serde(default = "Page::default_limit")]
    limit: usize,
    /// Seconds to wait for the first match.
    #[serde(default)]
    wait: u64,
}

async fn search(
    State(api): State<Api>,
    page: Result<Query<SearchPage>, QueryRejection>,
) -> Result<Json<List>, Refusal> {
    let Query(page) = page?;
    let search = Search::parse(&page.query);
    let wait = Duration::from_secs(page.wait).min(MAX_WAIT);
    tokio::select! {
        _ = api.store.wait_for(|all| all.iter().any(|message| search.matches(message))) => {}
        () = tokio::time::sleep(wait) => {}
        () = api.shutdown.cancelled() => {}
    }
    let all = api.store.messages();
    let matching = all.iter().rev().filter(|message| search.matches(message)).collect();
    Ok(Json(List::new(&all, matching, page.start, page.limit)))
}

async fn message(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<MessageView>, Refusal> {
    let message = find(&api, &id)?;
    if message.open() {
        api.store.changed();
    }
    Ok(Json(MessageView::from(&*message)))
}

async fn headers(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<BTreeMap<String, Vec<String>>>, Refusal> {
    let mut headers = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in find(&api, &id)?.headers.clone() {
        headers.entry(name).or_default().push(value);
    }
    Ok(Json(headers))
}

async fn raw(State(api): State<Api>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let raw = find(&api, &id)?.raw.clone();
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8"), (X_CONTENT_TYPE_OPTIONS, "nosniff")], raw)
        .into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    #[serde(rename = "IDs", default)]
    ids: Vec<String>,
}

/// Deletes the mails of `{"IDs": […]}`, or all when there is no body or no ID in it, as Mailpit does.
async fn delete(State(api): State<Api>, body: Bytes) -> Result<&'static str, Refusal> {
    let delete = if body.is_empty() {
        Delete::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| {
            Refusal(StatusCode::BAD_REQUEST, format!("the body must be like {{\"IDs\": [\"…\"]}}: {error}"))
        })?
    };
    if delete.ids.is_empty() {
        api.store.clear();
    } else {
        api.store.retain(|message| !delete.ids.contains(&message.id.to_string()));
    }
    Ok("ok")
}

/// An event `changed` at once and after every change. A reader that is slow gets one for several changes.
async fn events(State(api): State<Api>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let changes = api.store.changes();
    let stream = futures::stream::unfold((changes, api), async |(mut changes, api)| {
        tokio::select! {
            changed = changes.changed() => changed.ok()?,
            () = api.shutdown.cancelled() => return None,
        }
        let count = *changes.borrow_and_update();
        Some((Ok(Event::default().event("changed").data(count.to_string())), (changes, api)))
    });
    Sse::new(stream).keep_alive(KeepAlive::default())
}

fn find(api: &Api, id: &str) -> Result<Arc<Message>, Refusal> {
    let found = if id == "latest" {
        api.store.latest()
    } else {
        id.parse::<Uuid>().ok().and_then(|id| api.store.get(id))
    };
    found.ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("no mail has the ID {id:?}")))
}

/// An answer that says what was wrong with the request.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(serde_json::json!({ "Error": self.1 }))).into_response()
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

#[derive(Debug, Serialize)]
struct List {
    /// Mails kept.
    total: usize,
    /// Of these, the unread ones.
    unread: usize,
    /// Mails in this answer.
    count: usize,
    /// Mails that match.
    messages_count: usize,
    /// Of these, the unread ones.
    messages_unread: usize,
    start: usize,
    tags: [String; 0],
    messages: Vec<Summary>,
}

impl List {
    fn new(all: &[Arc<Message>], matching: Vec<&Arc<Message>>, start: usize, limit: usize) -> Self {
        let messages: Vec<_> =
            matching.iter().skip(start).take(limit).map(|message| Summary::from(&***message)).collect();
        Self {
            total: all.len(),
            unread: all.iter().filter(|message| !message.is_read()).count(),
            count: messages.len(),
            messages_count: matching.len(),
            messages_unread: matching.iter().filter(|message| !message.is_read()).count(),
            start,
            tags: [],
            messages,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Summary {
    #[serde(rename = "ID")]
    id: Uuid,
    #[serde(rename = "MessageID")]
    message_id: String,
    read: bool,
    from: Option<AddressView>,
    to: Vec<AddressView>,
    cc: Vec<AddressView>,
    bcc: Vec<AddressView>,
    reply_to: Vec<AddressView>,
    subject: String,
    created: DateTime<Utc>,
    username: String,
    tags: [String; 0],
    size: usize,
    attachments: usize,
    snippet: String,
}

impl From<&Message> for Summary {
    fn from(message: &Message) -> Self {
        Self {
            id: message.id,
            message_id: message.message_id.clone(),
            read: message.is_read(),
            from: message.from.as_ref().map(AddressView::from),
            to: views(&message.to),
            cc: views(&message.cc),
            bcc: views(&message.bcc),
            reply_to: views(&message.reply_to),
            subject: message.subject.clone(),
            created: message.arrived_at,
            username: message.envelope.user.clone().unwrap_or_default(),
            tags: [],
            size: message.raw.len(),
            attachments: message.attachments.len(),
            snippet: message.snippet(),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct MessageView {
    #[serde(rename = "ID")]
    id: Uuid,
    #[serde(rename = "MessageID")]
    message_id: String,
    from: Option<AddressView>,
    to: Vec<AddressView>,
    cc: Vec<AddressView>,
    bcc: Vec<AddressView>,
    reply_to: Vec<AddressView>,
    return_path: String,
    subject: String,
    list_unsubscribe: ListUnsubscribe,
    date: DateTime<Utc>,
    tags: [String; 0],
    username: String,
    text: String,
    #[serde(rename = "HTML")]
    html: String,
    size: usize,
    inline: Vec<AttachmentView>,
    attachments: Vec<AttachmentView>,
}

impl From<&Message> for MessageView {
    fn from(message: &Message) -> Self {
        let (inline, attachments): (Vec<_>, Vec<_>) =
            message.attachments.iter().partition(|attachment| !attachment.content_id.is_empty());
        Self {
            id: message.id,
            message_id: message.message_id.clone(),
            from: message.from.as_ref().map(AddressView::from),
            to: views(&message.to),
            cc: views(&message.cc),
            bcc: views(&message.bcc),
            reply_to: views(&message.reply_to),
            return_path: message.envelope.from.clone(),
            subject: message.subject.clone(),
            list_unsubscribe: ListUnsubscribe::of(message),
            date: message.date.unwrap_or(message.arrived_at),
            tags: [],
            username: message.envelope.user.clone().unwrap_or_default(),
            text: message.text.clone(),
            html: message.html.clone(),
            size: message.raw.len(),
            inline: inline.into_iter().map(AttachmentView::from).collect(),
            attachments: attachments.into_iter().map(AttachmentView::from).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct AddressView {
    name: String,
    address: String,
}

impl From<&Address> for AddressView {
    fn from(address: &Address) -> Self {
        Self { name: address.name.clone(), address: address.address.clone() }
    }
}

fn views(addresses: &[Address]) -> Vec<AddressView> {
    addresses.iter().map(AddressView::from).collect()
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct AttachmentView {
    #[serde(rename = "PartID")]
    part_id: String,
    file_name: String,
    content_type: String,
    #[serde(rename = "ContentID")]
    content_id: String,
    size: usize,
}

impl From<&Attachment> for AttachmentView {
    fn from(attachment: &Attachment) -> Self {
        Self {
            part_id: attachment.part.clone(),
            file_name: attachment.file_name.clone(),
            content_type: attachment.content_type.clone(),
            content_id: attachment.content_id.clone(),
            size: attachment.size,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListUnsubscribe {
    header: String,
    links: Vec<String>,
    /// Mailpit checks the links; the sink does not.
    errors: String,
    header_post: String,
}

impl ListUnsubscribe {
    fn of(message: &Message) -> Self {
        let header = message.header("List-Unsubscribe").unwrap_or_default();
        let links = header.split(',').filter_map(|link| link.trim().strip_prefix('<')?.strip_suffix('>'));
        Self {
            links: links.map(str::to_owned).collect(),
            header: header.to_owned(),
            errors: String::new(),
            header_post: message.header("List-Unsubscribe-Post").unwrap_or_default().to_owned(),
        }
    }
}
