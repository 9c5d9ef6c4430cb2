//! All routes, and the layers around them. The order of the layers is the order in which a request meets them.

use std::pin::pin;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::get,
};
use common::error::Code;
use tower::ServiceBuilder;
use tower_http::compression::{
    CompressionLayer,
    predicate::{NotForContentType, Predicate as _, SizeAbove},
};
use utoipa::{OpenApi as _, openapi::OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::SwaggerUi;

use crate::{
    account, activity, admin, admission, answer, api_tokens,
    auth::scopes::{self, BASE},
    availability, comments,
    error::Problem,
    idempotency::{self, MAX_BODY},
    mail_pages, meta, middleware, notifications,
    openapi::{self, Document, links, refer_to_rows},
    overload, problems, projects, reminders, reports,
    routes::Routes,
    sessions,
    state::AppState,
    stopping, tags, tasks, teams, webhooks,
};

/// The routes that the document describes, below [`BASE`].
fn nouns() -> Routes {
    Routes::new()
        .merge(account::routes())
        .merge(sessions::routes())
        .merge(api_tokens::routes())
        .merge(tasks::routes())
        .merge(projects::routes())
        .merge(teams::routes())
        .merge(comments::routes())
        .merge(tags::routes())
        .merge(reminders::routes())
        .merge(activity::routes())
        .merge(reports::routes())
        .merge(notifications::routes())
        .merge(webhooks::routes())
        .merge(admin::routes())
        .merge(meta::routes())
}

/// What the code says of itself: `openapi.json` is its copy.
pub(crate) fn document() -> OpenApi {
    let nouns = nouns().into_described();
    let mut document = OpenApiRouter::with_openapi(Document::openapi()).nest(BASE, nouns).into_openapi();
    scopes::document(&mut document);
    idempotency::document(&mut document);
    links::document(&mut document);
    refer_to_rows(&mut document);
    document
}

/// The API.
pub fn router(app: AppState) -> Router {
    let origins = app.settings.http.cors_origins.clone();
    Router::new()
        .nest(BASE, nouns().into_router())
        .route("/problems", get(problems::index))
        .route("/problems/{code}", get(problems::show))
        .merge(account::pages::routes())
        .merge(mail_pages::routes())
        .route("/openapi.json", get(openapi::show))
        .merge(SwaggerUi::new("/docs").config(utoipa_swagger_ui::Config::from("/openapi.json")))
        // For the routes above it only.
        .method_not_allowed_fallback(async || problem(Code::MethodNotAllowed))
        .fallback(async || problem(Code::NotFound))
        .layer(
            ServiceBuilder::new()
                .layer(from_fn(middleware::observe))
                .option_layer((!origins.is_empty()).then(|| middleware::cors(origins)))
                .layer(
                    CompressionLayer::new()
                        .compress_when(SizeAbove::new(1024).and(NotForContentType::IMAGES)),
                )
                .layer(from_fn_with_state(app.clone(), surround)),
        )
        .with_state(app)
}

/// What stands between a request and its handler, from the inside out. A layer of the router each would cost as much as what they
/// do: `axum` copies all layers that are inside one for each request.
async fn surround(State(app): State<AppState>, mut request: Request, next: Next) -> Response {
    DefaultBodyLimit::max(MAX_BODY).apply(&mut request);
    let uri = request.uri().clone();
    let needs = overload::Needs::of(&request);
    let work = pin!(admission::admit(&app, request, next));
    let work = pin!(availability::guard(&app, work));
    let work = pin!(middleware::time_limit(work));
    let work = pin!(middleware::catch_panic(work));
    let answer = overload::shed(&app, needs, work).await;
    let answer = answer::link_next(answer, &uri);
    stopping::end_connection(&app.stop, answer)
}

fn problem(code: Code) -> Response {
    Problem::new(code, code.help(), Vec::new()).into_response()
}
