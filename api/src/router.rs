//! All routes, and the layers around them. The order of the layers is the order in which a request meets them.

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::{from_fn, from_fn_with_state},
    response::IntoResponse as _,
    routing::get,
};
use common::error::Code;
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::{
        CompressionLayer,
        predicate::{NotForContentType, Predicate as _, SizeAbove},
    },
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
    overload, problems, projects, reminders, reports, sessions,
    state::AppState,
    tags, tasks, teams, webhooks,
};

/// The routes that the document describes.
fn documented() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(Document::openapi()).nest(
        BASE,
        OpenApiRouter::new()
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
            .merge(meta::routes()),
    )
}

/// What the code says of itself: `openapi.json` is its copy.
pub(crate) fn document() -> OpenApi {
    let mut document = documented().into_openapi();
    scopes::document(&mut document);
    idempotency::document(&mut document);
    links::document(&mut document);
    refer_to_rows(&mut document);
    document
}

/// The API.
pub fn router(app: AppState) -> Router {
    let (routes, _) = documented().split_for_parts();
    let origins = app.settings.http.cors_origins.clone();
    routes
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
                .layer(from_fn(middleware::security_headers))
                .option_layer((!origins.is_empty()).then(|| middleware::cors(origins)))
                .layer(from_fn_with_state(app.clone(), overload::shed))
                .layer(
                    CompressionLayer::new()
                        .compress_when(SizeAbove::new(1024).and(NotForContentType::IMAGES)),
                )
                .layer(from_fn(answer::link_next))
                .layer(from_fn(middleware::time_limit))
                .layer(from_fn_with_state(app.clone(), availability::guard))
                .layer(CatchPanicLayer::custom(middleware::panicked))
                .layer(from_fn_with_state(app.clone(), admission::admit))
                .layer(DefaultBodyLimit::max(MAX_BODY))
                .layer(from_fn(idempotency::hash_body)),
        )
        .with_state(app)
}

fn problem(code: Code) -> axum::response::Response {
    Problem::new(code, code.help(), Vec::new()).into_response()
}
