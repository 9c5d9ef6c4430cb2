//! Routes with what the document says of them. A server needs the routes only: what describes them is asked for when the document is
//! made, and is not even a part of an optimised program. There it would be megabytes of code between what is needed.

use axum::Router;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::state::AppState;

/// The routes of one or of several nouns.
#[derive(Default)]
pub(crate) struct Routes {
    router: Router<AppState>,
    described: Vec<Described>,
}

/// Makes a route once more, with what describes it.
type Described = fn() -> UtoipaMethodRouter<AppState>;

/// What [`routes!`] makes of handlers.
pub(crate) struct Route {
    pub(crate) path: String,
    pub(crate) handlers: axum::routing::MethodRouter<AppState>,
    pub(crate) described: Option<Described>,
}

impl Routes {
    /// None.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// And this one.
    pub(crate) fn routes(mut self, route: Route) -> Self {
        self.described.extend(route.described);
        Self { router: self.router.route(&route.path, route.handlers), ..self }
    }

    /// And those.
    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.described.extend(other.described);
        Self { router: self.router.merge(other.router), ..self }
    }

    /// The routes alone.
    pub(crate) fn into_router(self) -> Router<AppState> {
        self.router
    }

    /// The routes with their part of the document.
    pub(crate) fn into_described(self) -> OpenApiRouter<AppState> {
        self.described.into_iter().fold(OpenApiRouter::new(), |all, described| all.routes(described()))
    }
}

/// One path and the handlers of its methods, each with `#[utoipa::path]`.
macro_rules! routes {
    ($($handler:ident),+) => {
        utoipa_axum::paste! {{
            use utoipa::Path as _;
            use utoipa_axum::PathItemExt as _;

            let [path, ..] = [$([<__path_ $handler>]::path()),+];
            let handlers = axum::routing::MethodRouter::new();
            $(
                let handlers = [<__path_ $handler>]::methods()
                    .iter()
                    .fold(handlers, |handlers, method| handlers.on(method.to_method_filter(), $handler));
            )+
            let described = if cfg!(debug_assertions) {
                Some((|| utoipa_axum::routes!($($handler),+)) as _)
            } else {
                None
            };
            $crate::routes::Route { path, handlers, described }
        }}
    };
}
pub(crate) use routes;
