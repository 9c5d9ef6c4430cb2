//! Every error code, once. Append only: clients match on them, so a code never changes its name or its meaning
//! (`codes.golden` holds the list, and a test compares).

use serde::{Serialize, Serializer};
use utoipa::{PartialSchema, ToSchema};

macro_rules! codes {
    ($($variant:ident = $name:literal, $status:literal, $title:literal, $help:literal;)*) => {
        /// A stable error code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// All codes, in the order in which they came to be.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The name that programs match on.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The HTTP status of a problem with this code. For the codes of single fields it is that of the
            /// problem which carries them.
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// A short summary that is the same at every occurrence (RFC 9457 §3.1.3).
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }

            /// What it means and what to do, for the page at `/problems/{code}`.
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

codes! {
    ValidationFailed = "validation_failed", 422, "The request breaks a rule",
        "Each entry of `errors` names a field by a JSON Pointer, says what is wrong with it and how to mend it.";
    MalformedBody = "malformed_body", 400, "The body is not the JSON that was expected",
        "Send a JSON object with the fields that the documentation lists; `errors` points at the first place that cannot be read.";
    MalformedParameter = "malformed_parameter", 400, "A parameter cannot be read",
        "The parameter that `errors` names is unknown or has a value of the wrong form.";
    UnsupportedMediaType = "unsupported_media_type", 415, "The body is not declared as JSON",
        "Send `Content-Type: application/json`, or `application/merge-patch+json` with PATCH.";
    BodyTooLarge = "body_too_large", 413, "The body is too large",
        "A body may have 1 MiB.";
    NotFound = "not_found", 404, "There is no such resource",
        "It does not exist, or it is not yours: the answer is the same.";
    MethodNotAllowed = "method_not_allowed", 405, "The resource does not know this method",
        "The header `Allow` lists the methods that it knows.";
    Unauthenticated = "unauthenticated", 401, "Log in first",
        "Send `Authorization: Bearer …` with an access token from `POST /api/v1/auth/login`.";
    InvalidToken = "invalid_token", 401, "The access token is not valid",
        "It is damaged, expired, or its session has ended. Get another one from `POST /api/v1/auth/refresh`, or log in.";
    InvalidCredentials = "invalid_credentials", 401, "Address or password is wrong",
        "The answer is the same for an unknown address and a wrong password.";
    InvalidRefreshToken = "invalid_refresh_token", 401, "The refresh token is not valid",
        "It is unknown, expired or revoked. Log in again.";
    RefreshTokenReused = "refresh_token_reused", 401, "The refresh token was used before",
        "A token that was rotated came again, so somebody else may hold a copy: the whole session was ended. Log in again.";
    Forbidden = "forbidden", 403, "You may not do this",
        "You see it, but your account, your role in the project or team, or your token does not allow the change.";
    RegistrationClosed = "registration_closed", 403, "Registration is closed",
        "Ask the operator of this installation for an account.";
    EmailTaken = "email_taken", 409, "This address has an account already",
        "Log in with it, or register another address.";
    StaleVersion = "stale_version", 412, "It has changed since you read it",
        "Read it again, look at what changed, and repeat with the `ETag` of the new version in `If-Match`.";
    IdempotencyKeyReused = "idempotency_key_reused", 422, "This Idempotency-Key belongs to another request",
        "The key was used with another body. Use a new key for each new request.";
    IdempotencyInProgress = "idempotency_in_progress", 409, "The same request is still being handled",
        "Repeat it with the same key after the time that `Retry-After` says.";
    RateLimited = "rate_limited", 429, "Too many requests",
        "Wait for as many seconds as `Retry-After` says.";
    Unavailable = "unavailable", 503, "Temporarily unavailable",
        "Something that the service depends on is away. Repeat the request after the time that `Retry-After` says; with an `Idempotency-Key` it happens once.";
    Internal = "internal", 500, "A defect on our side",
        "It was logged under the `request_id` of the answer; give that to the operator.";
    Required = "required", 422, "The field is missing",
        "The field has to be there and may not be null.";
    UnknownField = "unknown_field", 422, "There is no such field",
        "Unknown fields are refused, because a mistyped name would lose data silently.";
    InvalidType = "invalid_type", 422, "The value has the wrong type",
        "The documentation says which type the field has.";
    InvalidValue = "invalid_value", 422, "The value is not one of those allowed",
        "The detail lists the values that are allowed.";
    InvalidLength = "invalid_length", 422, "Too short or too long",
        "The detail says how long it may be.";
    ControlCharacter = "control_character", 422, "Control characters are not allowed here",
        "Line breaks and other control characters may stand in descriptions only.";
    InvalidEmail = "invalid_email", 422, "This is not a mail address",
        "An address has the form name@example.com.";
    InvalidTimeZone = "invalid_time_zone", 422, "There is no such time zone",
        "Use a name of the IANA time zone database, such as Europe/Berlin.";
    InvalidDate = "invalid_date", 422, "This is not a date",
        "Dates have the form 2026-12-01, times 17:00, and both together 2026-12-01T17:00.";
    TooMany = "too_many", 422, "Too many of them",
        "The detail says how many there may be.";
    Duplicate = "duplicate", 422, "It is there twice",
        "Leave one of the two out.";
    ReminderNeedsDue = "reminder_needs_due", 422, "A relative reminder needs a due date",
        "Give the task a due date, or use an absolute reminder.";
    InvalidCursor = "invalid_cursor", 400, "The cursor is not valid",
        "A cursor is good only for the list and the filters that it came with. Start again without one.";
    InvalidHeader = "invalid_header", 400, "A header cannot be read",
        "The header that `errors` names has a value of the wrong form.";
    TaskDeleted = "task_deleted", 409, "The task is in the trash",
        "Restore it first with `POST /api/v1/tasks/{id}/restore`.";
    ForbiddenTarget = "forbidden_target", 422, "Webhooks may not be sent there",
        "Use an http or https URL on the public internet, on a port that is allowed, without a user name or password in it.";
    EndpointInactive = "endpoint_inactive", 409, "The endpoint is switched off",
        "Set its `state` to `active` first, with `PATCH /api/v1/webhooks/{id}`.";
    DeliveryUnderWay = "delivery_under_way", 409, "The delivery is still under way",
        "It is tried again by itself; its `next_attempt_at` says when.";
    InvalidLink = "invalid_link", 410, "This link is not good any more",
        "It was used, has expired, was damaged on the way, or the account has another address by now. Ask for another one.";
    QueuePaused = "queue_paused", 409, "The queue is paused",
        "The detail says who paused it and why. Nothing was enqueued; resume the queue first.";
    MailRefused = "mail_refused", 502, "The mail server did not take the mail",
        "`transcript` is what was said to it and what it answered; `reply` is why no mail left.";
    JobInWrongState = "job_in_wrong_state", 409, "The job's state does not allow this",
        "Dead and cancelled jobs can be tried again; ready and running ones can be cancelled.";
    LastAdmin = "last_admin", 409, "Somebody has to be an administrator",
        "Make somebody else an administrator first.";
    TaskClosed = "task_closed", 409, "The task is done, cancelled or archived",
        "It reminds of nothing. Reopen it first with `POST /api/v1/tasks/{id}/reopen`, or take it out of the archive.";
    NoReminder = "no_reminder", 409, "The task has no reminder of yours",
        "There is nothing to snooze. Add a reminder with `POST /api/v1/tasks/{id}/reminders`.";
    ReportRunning = "report_running", 409, "The report is not done yet",
        "A job computes it. `GET /api/v1/reports/{id}` without `Accept: text/csv` says how far it is.";
    ProjectArchived = "project_archived", 409, "The project is archived",
        "Nothing is put into it. Take it out of the archive first with `POST /api/v1/projects/{id}/unarchive`.";
    ProjectNotEmpty = "project_not_empty", 409, "The project has tasks",
        "Say what becomes of them: `?tasks=trash`, or `?tasks=move:{id}` with another project of yours.";
    LastOwner = "last_owner", 409, "There has to be an owner",
        "Give somebody else the role `owner` first.";
    CommentSettled = "comment_settled", 409, "The comment stands as it is",
        "It was deleted, or it is older than 15 minutes: others may have answered it. Write another one.";
    TagExists = "tag_exists", 409, "There is such a tag already",
        "Use that one, or merge this one into it with `POST /api/v1/tags/{id}/merge`.";
    PasswordTooCommon = "password_too_common", 422, "This password is easy to guess",
        "It is one of those that are tried first, or made of words, dates, rows of keys or repetitions that are. Choose several words that have nothing to do with each other.";
    WrongPassword = "wrong_password", 403, "The password is wrong",
        "This needs the account's present password. Who has forgotten it sets another by `POST /api/v1/auth/password/forgot`.";
    SessionRequired = "session_required", 403, "API tokens cannot do this",
        "Log in, and use the access token of the session: an API token may not change what guards the account.";
    InsufficientScope = "insufficient_scope", 403, "The API token has no scope for this",
        "The detail names the scope. Scopes are chosen when a token is made: make another with `POST /api/v1/me/tokens`.";
    AddressNotAllowed = "address_not_allowed", 403, "Not from this address",
        "The operator allows this from certain networks only (`ADMIN_ALLOW_CIDRS`).";
    BatchUndone = "batch_undone", 409, "One of the operations failed, so none was done",
        "`errors` names the operation and says why it failed. Mend it and send the batch again, or send it with `atomic: false` to do those that can be done.";
    PreconditionRequired = "precondition_required", 428, "Say which version the change is meant for",
        "Send `If-Match` with the `ETag` of the version that you have seen, or `*` for any: the operator wants changes to say so (`REQUIRE_IF_MATCH`).";
    Overloaded = "overloaded", 503, "Too many requests at once",
        "More requests are waiting than can be answered soon. Repeat this one after the time that `Retry-After` says; with an `Idempotency-Key` it happens once.";
}

impl Code {
    /// Whether it says what is wrong with a single field, and is never the code of a whole problem.
    pub fn is_of_a_field(self) -> bool {
        self.status() == 422 && !matches!(self, Self::ValidationFailed | Self::IdempotencyKeyReused)
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl PartialSchema for Code {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .enum_values(Some(Self::ALL.iter().map(|code| code.name())))
            .description(Some("A stable error code; each is explained at `/problems/{code}`."))
            .into()
    }
}

impl ToSchema for Code {
    fn name() -> std::borrow::Cow<'static, str> {
        "Code".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_append_only() {
        let now: String =
            Code::ALL.iter().map(|code| format!("{} {}\n", code.status(), code.name())).collect();
        let golden = include_str!("codes.golden");
        assert!(
            now.starts_with(golden),
            "a code of codes.golden was renamed, moved or removed; clients match on them"
        );
        assert_eq!(now, golden, "a new code: append it to common/src/error/codes.golden");
    }
}
