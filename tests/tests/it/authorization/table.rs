//! Who may do what. A row is: the operation, who may, with which scope if it is an API token, the answer for those who may,
//! what it is done to; `?` a query, `{}` a body, and `but` who gets another status. `{names}` in queries and bodies are
//! parts of what it is done to (`stage.rs`). Who is who, and what those get who may not, is said in `authorization.rs`.

use super::{ALL, Actor, EDIT, MINE, OPEN, OWN, On, ROOT, RULE, Row, SEEN, SESSION};

macro_rules! table {
    ($($operation:ident $who:ident $scope:tt $status:literal $on:ident
       $(? $query:literal)? $({ $($body:tt)* })? $(but $($actor:ident $instead:literal),+)?;)*) => {
        pub(super) const TABLE: &[Row] = &[$(Row {
            operation: stringify!($operation),
            who: $who,
            scope: $scope,
            status: $status,
            on: On::$on,
            query: concat!("" $(, "?", $query)?),
            body: body!($({ $($body)* })?),
            but: &[$($((Actor::$actor, $instead)),+)?],
        }),*];
    };
}

macro_rules! body {
    () => {
        None
    };
    ($body:tt) => {
        Some(|| serde_json::json!($body))
    };
}

// What is in no scope of a project token is 403 for a token of another project; the rest is 404, as for a stranger.
table! {
    // Public: what is needed is in the body, or was mailed.
    get_health              ALL  OPEN 200 Nothing;
    get_meta                ALL  OPEN 200 Nothing;
    register                ALL  OPEN 201 Nothing {"email": "{new}@example.com", "password": "correct horse battery", "full_name": "New"};
    login                   ALL  OPEN 200 Account {"email": "{email}", "password": "correct horse battery"};
    refresh                 ALL  OPEN 200 Account {"refresh_token": "{refresh_token}"};
    forgot_password         ALL  OPEN 202 Account {"email": "{email}"};
    reset_password          ALL  OPEN 410 Nothing {"token": "tto_forged", "password": "another horse battery"};
    verify_email            ALL  OPEN 410 Nothing {"token": "tto_forged"};

    // What guards the account: its owner, logged in.
    resend_verification     OWN  SESSION 202 Nothing;
    logout                  OWN  SESSION 204 Login;
    delete_me               OWN  SESSION 202 Nothing but Admin 409; // The last one.
    restore_me              OWN  SESSION 200 Nothing;
    change_password         OWN  SESSION 204 Nothing {"current_password": "correct horse battery", "new_password": "correct horse battery"};
    change_email            OWN  SESSION 202 Nothing {"new_email": "{new}@example.com", "current_password": "correct horse battery"};
    list_sessions           OWN  SESSION 200 Nothing;
    end_session             MINE SESSION 204 Session;
    list_api_tokens         OWN  SESSION 200 Nothing;
    create_api_token        OWN  SESSION 201 Nothing {"name": "script", "scopes": ["tasks:read"]};
    get_api_token           MINE SESSION 200 ApiToken;
    revoke_api_token        MINE SESSION 204 ApiToken;

    // One's own account and mails.
    get_me                  OWN  "profile:read"  200 Nothing;
    update_me               OWN  "profile:write" 200 Nothing {"day_start": "08:00"};
    get_notifications       OWN  "profile:read"  200 Nothing;
    update_notifications    OWN  "profile:write" 200 Nothing {"reminders_email": true};
    pause_notifications     OWN  "profile:write" 200 Nothing {"until": "2030-01-02T00:00:00Z"};
    preview_digest          OWN  "profile:write" 200 Nothing;
    send_digest             OWN  "profile:write" 202 Nothing;
    list_digest_runs        OWN  "profile:read"  200 Nothing;

    // Tasks. A project that one does not see is 422 where it stands in a body.
    list_tasks              OWN  "tasks:read"  200 Task;
    create_task             EDIT "tasks:write" 201 Project {"title": "New", "project_id": "{id}"} but Stranger 422, Admin 422, OtherToken 422;
    get_task                SEEN "tasks:read"  200 Task;
    update_task             EDIT "tasks:write" 200 Task {"title": "New"};
    replace_task            EDIT "tasks:write" 200 Task {"title": "New", "project_id": "{project}"};
    delete_task             EDIT "tasks:write" 204 Task;
    restore_task            EDIT "tasks:write" 200 TaskInTrash;
    complete_task           EDIT "tasks:write" 200 Task;
    reopen_task             EDIT "tasks:write" 200 Task;
    archive_task            EDIT "tasks:write" 200 Task;
    unarchive_task          EDIT "tasks:write" 200 Task;
    move_task               EDIT "tasks:write" 200 Task {"position": 7.0};
    batch_tasks             EDIT "tasks:write" 200 Task {"atomic": true, "operations": [{"complete": {"id": "{id}"}}, {"delete": {"id": "{id}"}}]}
                                               but Viewer 409, Stranger 409, Admin 409, OtherToken 409;
    list_activity           SEEN "tasks:read"  200 Task;

    list_comments           SEEN "comments:read"  200 CommentedTask;
    create_comment          EDIT "comments:write" 201 CommentedTask {"body": "New"};
    get_comment             SEEN "comments:read"  200 Comment;
    update_comment          RULE "comments:write" 200 Comment {"body": "New"};
    delete_comment          RULE "comments:write" 204 Comment;

    // Everybody who sees a task has reminders of their own, and sees no others.
    list_reminders          SEEN "reminders:read"  200 Task;
    create_reminder         SEEN "reminders:write" 201 Task {"kind": "absolute", "at": "2030-06-01T00:00:00Z"};
    get_reminder            MINE "reminders:read"  200 Reminder;
    update_reminder         MINE "reminders:write" 200 Reminder {"kind": "absolute", "at": "2030-07-01T00:00:00Z"};
    delete_reminder         MINE "reminders:write" 204 Reminder;
    list_fires              MINE "reminders:read"  200 Reminder;
    list_upcoming_fires     OWN  "reminders:read"  200 TaskWithReminders;
    snooze_task             SEEN "tasks:write"     200 TaskWithReminders {"minutes": 30};

    // Tags of the project.
    list_tags               OWN  "tasks:read"  200 Tag;
    create_tag              EDIT "tasks:write" 201 Project {"name": "{new}", "project_id": "{id}"} but Stranger 422, Admin 422, OtherToken 422;
    get_tag                 SEEN "tasks:read"  200 Tag;
    update_tag              EDIT "tasks:write" 200 Tag {"name": "{new}"};
    delete_tag              EDIT "tasks:write" 204 Tag;
    merge_tag               EDIT "tasks:write" 200 Tag {"into": "{other}"};

    // Projects. Everybody may leave one; here it is another that is taken out.
    list_projects           OWN  "projects:read"  200 Project;
    create_project          OWN  "projects:write" 201 Nothing {"name": "New"} but OtherToken 403;
    get_project             SEEN "projects:read"  200 Project;
    update_project          RULE "projects:write" 200 Project {"name": "New"};
    delete_project          RULE "projects:write" 204 Project ?"tasks=trash";
    archive_project         RULE "projects:write" 200 Project;
    unarchive_project       RULE "projects:write" 200 Project;
    list_project_tasks      SEEN "tasks:read"     200 Project;
    list_project_members    SEEN "projects:read"  200 Project;
    get_project_member      SEEN "projects:read"  200 Project;
    put_project_member      RULE "projects:write" 200 Project {"role": "owner"};
    remove_project_member   RULE "projects:write" 204 Project;

    list_teams              OWN  "projects:read"  200 Team;
    create_team             OWN  "projects:write" 201 Nothing {"name": "New"} but OtherToken 403;
    get_team                SEEN "projects:read"  200 Team;
    update_team             RULE "projects:write" 200 Team {"name": "New"};
    delete_team             RULE "projects:write" 204 Team;
    list_team_members       SEEN "projects:read"  200 Team;
    get_team_member         SEEN "projects:read"  200 Team;
    put_team_member         RULE "projects:write" 200 Team {"role": "owner"};
    remove_team_member      RULE "projects:write" 204 Team;

    // Webhooks are their owner's, also those of a project.
    list_webhooks           OWN  "webhooks:read"  200 Webhook;
    create_webhook          OWN  "webhooks:write" 201 Nothing {"url": "https://receiver.example/hook", "events": ["task.created"]};
    list_event_types        OWN  "webhooks:read"  200 Nothing;
    get_webhook             MINE "webhooks:read"  200 Webhook;
    update_webhook          MINE "webhooks:write" 200 Webhook {"description": "New"};
    delete_webhook          MINE "webhooks:write" 204 Webhook;
    rotate_webhook_secret   MINE "webhooks:write" 200 Webhook;
    test_webhook            MINE "webhooks:write" 202 Webhook ?"wait=0";
    redeliver_range         MINE "webhooks:write" 202 Webhook ?"from=2029-01-01T00:00:00Z";
    list_deliveries         MINE "webhooks:read"  200 Webhook;
    get_delivery            MINE "webhooks:read"  200 Delivery;
    redeliver               MINE "webhooks:write" 202 Delivery;

    get_stats               OWN  "reports:read" 200 Task;
    report_productivity     OWN  "reports:read" 200 Task ?"from=2030-01-01&to=2030-01-31";
    get_report              MINE "reports:read" 200 Report;

    // The operator's view, which shows nothing of what people keep.
    list_audit              ROOT SESSION 200 Task;
    list_jobs               ROOT SESSION 200 Job;
    get_job                 ROOT SESSION 200 Job;
    cancel_job              ROOT SESSION 202 Job;
    retry_job               ROOT SESSION 202 CancelledJob;
    retry_jobs              ROOT SESSION 202 CancelledJob ?"state=cancelled";
    list_queues             ROOT SESSION 200 Queue;
    pause_queue             ROOT SESSION 200 Queue {"reason": "The mail server moves house"};
    resume_queue            ROOT SESSION 200 Queue;
    list_outbox             ROOT SESSION 200 Task;
    list_late_reminders     ROOT SESSION 200 Task;
    test_mail               ROOT SESSION 409 PausedMail {}; // Let through, and told that the queue is paused.
    list_suppressions       ROOT SESSION 200 Suppression ?"address={email}";
    delete_suppression      ROOT SESSION 204 Suppression;
    list_users              ROOT SESSION 200 Account;
    get_user                ROOT SESSION 200 Account;
    update_user             ROOT SESSION 200 Account {"is_active": false};
}
