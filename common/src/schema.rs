//! The tables as diesel sees them. Only columns that the code reads or writes are listed; a test compares names,
//! types and nullability with the migrated database.
#![expect(missing_docs, reason = "the migrations document tables and columns")]

pub mod sql_types {
    macro_rules! sql_types {
        ($($name:ident = $sql:literal),* $(,)?) => {$(
            #[derive(diesel::sql_types::SqlType, diesel::query_builder::QueryId)]
            #[diesel(postgres_type(name = $sql))]
            pub struct $name;
        )*};
    }

    sql_types! {
        Channel = "channel",
        DeliveryState = "delivery_state",
        DigestState = "digest_state",
        DueKind = "due_kind",
        EndpointState = "endpoint_state",
        FireState = "fire_state",
        JobState = "job_state",
        MailKind = "mail_kind",
        MemberRole = "member_role",
        ReminderKind = "reminder_kind",
        ReportGroup = "report_group",
        SuppressionReason = "suppression_reason",
        TaskPriority = "task_priority",
        TaskStatus = "task_status",
        TokenPurpose = "token_purpose",
        UserRole = "user_role",
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::sql_types::ReportGroup;

    reports (id) {
        id -> Uuid,
        user_id -> Uuid,
        first_day -> Date,
        last_day -> Date,
        grouped_by -> ReportGroup,
        time_zone -> Text,
        periods -> Integer,
        done_periods -> Integer,
        lines -> Jsonb,
        job_id -> Nullable<Uuid>,
        created_at -> Timestamptz,
        finished_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    audit_events (seq) {
        seq -> BigInt,
        id -> Uuid,
        happened_at -> Timestamptz,
        actor_id -> Nullable<Uuid>,
        actor_label -> Text,
        event_type -> Text,
        entity_type -> Text,
        entity_id -> Nullable<Uuid>,
        task_id -> Nullable<Uuid>,
        request_id -> Nullable<Text>,
        details -> Nullable<Jsonb>,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::sql_types::JobState;

    jobs (id) {
        id -> Uuid,
        kind -> Text,
        queue -> Text,
        lane -> Text,
        args -> Jsonb,
        state -> JobState,
        priority -> SmallInt,
        run_at -> Timestamptz,
        attempt -> SmallInt,
        fence -> Integer,
        crashes -> SmallInt,
        max_attempts -> SmallInt,
        alive_until -> Nullable<Timestamptz>,
        pushed_at -> Nullable<Timestamptz>,
        unique_key -> Nullable<Text>,
        created_at -> Timestamptz,
        started_at -> Nullable<Timestamptz>,
        finished_at -> Nullable<Timestamptz>,
        worker -> Nullable<Text>,
        errors -> Jsonb,
        request_id -> Nullable<Text>,
        traceparent -> Nullable<Text>,
        result -> Nullable<Jsonb>,
    }
}

diesel::table! {
    queues (name) {
        name -> Text,
        paused_at -> Nullable<Timestamptz>,
        paused_by -> Nullable<Text>,
        reason -> Nullable<Text>,
        probe_at -> Nullable<Timestamptz>,
        epoch -> Nullable<Uuid>,
    }
}

diesel::table! {
    scheduler_state (name) {
        name -> Text,
        last_slot_at -> Timestamptz,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::sql_types::UserRole;

    users (id) {
        id -> Uuid,
        email -> Citext,
        email_verified_at -> Nullable<Timestamptz>,
        password_hash -> Nullable<Text>,
        full_name -> Text,
        role -> UserRole,
        is_active -> Bool,
        time_zone -> Text,
        day_start -> Time,
        version -> Integer,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        deletion_requested_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    api_tokens (id) {
        id -> Uuid,
        user_id -> Uuid,
        name -> Text,
        prefix -> Text,
        token_hash -> Bytea,
        scopes -> Array<Text>,
        project_id -> Nullable<Uuid>,
        expires_at -> Nullable<Timestamptz>,
        last_used_at -> Nullable<Timestamptz>,
        revoked_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    refresh_tokens (id) {
        id -> Uuid,
        family_id -> Uuid,
        user_id -> Uuid,
        token_hash -> Bytea,
        issued_at -> Timestamptz,
        expires_at -> Timestamptz,
        absolute_expires_at -> Timestamptz,
        rotated_at -> Nullable<Timestamptz>,
        reused_at -> Nullable<Timestamptz>,
        revoked_at -> Nullable<Timestamptz>,
        user_agent -> Nullable<Text>,
        ip_hash -> Nullable<Bytea>,
    }
}

diesel::table! {
    projects (id) {
        id -> Uuid,
        name -> Text,
        description -> Nullable<Text>,
        owner_id -> Uuid,
        archived_at -> Nullable<Timestamptz>,
        version -> Integer,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        team_id -> Nullable<Uuid>,
        archive_done_after_days -> Nullable<Integer>,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::sql_types::MemberRole;

    project_members (project_id, user_id) {
        project_id -> Uuid,
        user_id -> Uuid,
        role -> MemberRole,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    teams (id) {
        id -> Uuid,
        name -> Text,
        version -> Integer,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::sql_types::MemberRole;

    team_members (team_id, user_id) {
        team_id -> Uuid,
        user_id -> Uuid,
        role -> MemberRole,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::sql_types::{DueKind, TaskPriority, TaskStatus};

    tasks (id) {
        id -> Uuid,
        project_id -> Nullable<Uuid>,
        owner_id -> Uuid,
        assignee_id -> Nullable<Uuid>,
        created_by -> Nullable<Uuid>,
        title -> Text,
        description -> Nullable<Text>,
        status -> TaskStatus,
        priority -> TaskPriority,
        due_kind -> Nullable<DueKind>,
        due_date -> Nullable<Date>,
        due_time -> Nullable<Time>,
        due_zone -> Nullable<Text>,
        due_at -> Nullable<Timestamptz>,
        completed_at -> Nullable<Timestamptz>,
        cancelled_at -> Nullable<Timestamptz>,
        archived_at -> Nullable<Timestamptz>,
        deleted_at -> Nullable<Timestamptz>,
        occurrence_no -> Integer,
        version -> Integer,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        parent_id -> Nullable<Uuid>,
        position -> Double,
    }
}

diesel::table! {
    tags (id) {
        id -> Uuid,
        owner_id -> Nullable<Uuid>,
        name -> Text,
        name_key -> Text,
        created_at -> Timestamptz,
        project_id -> Nullable<Uuid>,
        version -> Integer,
    }
}

diesel::table! {
    comments (id) {
        id -> Uuid,
        task_id -> Uuid,
        author_id -> Nullable<Uuid>,
        body -> Text,
        edited_at -> Nullable<Timestamptz>,
        deleted_at -> Nullable<Timestamptz>,
        version -> Integer,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    task_tags (task_id, tag_id) {
        task_id -> Uuid,
        tag_id -> Uuid,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::sql_types::ReminderKind;

    reminders (id) {
        id -> Uuid,
        task_id -> Uuid,
        user_id -> Uuid,
        kind -> ReminderKind,
        offset_minutes -> Nullable<Integer>,
        at_local -> Nullable<Timestamp>,
        at_zone -> Nullable<Text>,
        created_at -> Timestamptz,
        removed_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::sql_types::{Channel, FireState};

    reminder_fires (id) {
        id -> Uuid,
        reminder_id -> Uuid,
        task_id -> Uuid,
        user_id -> Uuid,
        channel -> Channel,
        occurrence_no -> Integer,
        plan_no -> Integer,
        slot -> Integer,
        fire_at -> Timestamptz,
        planned_for -> Timestamptz,
        state -> FireState,
        reason -> Nullable<Text>,
        job_id -> Nullable<Uuid>,
        message_id -> Nullable<Text>,
        smtp_reply -> Nullable<Text>,
        sent_at -> Nullable<Timestamptz>,
        late_by_s -> Nullable<Integer>,
        missed_at -> Nullable<Timestamptz>,
        request_id -> Nullable<Text>,
        traceparent -> Nullable<Text>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    idempotency_keys (principal, method, path, key) {
        principal -> Uuid,
        method -> Text,
        path -> Text,
        key -> Text,
        body_sha256 -> Bytea,
        status -> SmallInt,
        response_headers -> Jsonb,
        response_body -> Bytea,
        created_at -> Timestamptz,
        expires_at -> Timestamptz,
    }
}

diesel::table! {
    user_notification_prefs (user_id) {
        user_id -> Uuid,
        reminders_email -> Bool,
        digest_enabled -> Bool,
        digest_time -> Time,
        digest_days -> SmallInt,
        digest_lookahead_days -> SmallInt,
        digest_include_nodate -> Bool,
        digest_skip_empty -> Bool,
        paused_until -> Nullable<Timestamptz>,
        next_digest_at -> Nullable<Timestamptz>,
        version -> Integer,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::sql_types::DigestState;

    digest_runs (id) {
        id -> Uuid,
        user_id -> Uuid,
        local_date -> Date,
        requested -> Bool,
        scheduled_at -> Timestamptz,
        state -> DigestState,
        reason -> Nullable<Text>,
        item_count -> Nullable<Integer>,
        job_id -> Nullable<Uuid>,
        message_id -> Nullable<Text>,
        smtp_reply -> Nullable<Text>,
        sent_at -> Nullable<Timestamptz>,
        late_by_s -> Nullable<Integer>,
        request_id -> Nullable<Text>,
        traceparent -> Nullable<Text>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::sql_types::{MailKind, SuppressionReason};

    mail_suppressions (id) {
        id -> Uuid,
        user_id -> Nullable<Uuid>,
        address_hash -> Bytea,
        kind -> Nullable<MailKind>,
        reason -> SuppressionReason,
        detail -> Nullable<Text>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    mail_bounces (address_hash) {
        address_hash -> Bytea,
        bounces -> Integer,
        last_reply -> Nullable<Text>,
        last_at -> Timestamptz,
    }
}

diesel::table! {
    mail_counts (user_id, day) {
        user_id -> Uuid,
        day -> Date,
        sent -> Integer,
    }
}

diesel::table! {
    mail_actions (token_id) {
        token_id -> Uuid,
        user_id -> Uuid,
        task_id -> Uuid,
        action -> Text,
        used_at -> Timestamptz,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::sql_types::EndpointState;

    webhook_endpoints (id) {
        id -> Uuid,
        owner_id -> Uuid,
        project_id -> Nullable<Uuid>,
        url -> Text,
        description -> Nullable<Text>,
        events -> Array<Text>,
        secret_enc -> Bytea,
        previous_secret_enc -> Nullable<Bytea>,
        previous_secret_until -> Nullable<Timestamptz>,
        state -> EndpointState,
        failure_streak -> Integer,
        first_failure_at -> Nullable<Timestamptz>,
        last_success_at -> Nullable<Timestamptz>,
        retry_at -> Nullable<Timestamptz>,
        version -> Integer,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    events (id) {
        id -> Uuid,
        seq -> BigInt,
        event_type -> Text,
        actor_id -> Nullable<Uuid>,
        owner_id -> Nullable<Uuid>,
        assignee_id -> Nullable<Uuid>,
        project_id -> Nullable<Uuid>,
        task_id -> Nullable<Uuid>,
        data -> Jsonb,
        changes -> Nullable<Jsonb>,
        request_id -> Nullable<Text>,
        traceparent -> Nullable<Text>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::sql_types::DeliveryState;

    webhook_deliveries (id) {
        id -> Uuid,
        endpoint_id -> Uuid,
        event_id -> Uuid,
        event_type -> Text,
        task_id -> Nullable<Uuid>,
        state -> DeliveryState,
        attempts -> Integer,
        job_id -> Nullable<Uuid>,
        redelivery_of -> Nullable<Uuid>,
        response_status -> Nullable<SmallInt>,
        response_ms -> Nullable<Integer>,
        response_body -> Nullable<Text>,
        error -> Nullable<Text>,
        last_attempt_at -> Nullable<Timestamptz>,
        finished_at -> Nullable<Timestamptz>,
        request_id -> Nullable<Text>,
        traceparent -> Nullable<Text>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::sql_types::TokenPurpose;

    one_time_tokens (id) {
        id -> Uuid,
        user_id -> Uuid,
        purpose -> TokenPurpose,
        email -> Citext,
        expires_at -> Timestamptz,
        used_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
        previous_email -> Nullable<Citext>,
    }
}

diesel::table! {
    backups (id) {
        id -> BigInt,
        finished_at -> Timestamptz,
        size_bytes -> BigInt,
        file -> Text,
    }
}

diesel::joinable!(refresh_tokens -> users (user_id));
diesel::joinable!(reminder_fires -> reminders (reminder_id));
diesel::joinable!(reminder_fires -> tasks (task_id));
diesel::joinable!(reminder_fires -> users (user_id));
diesel::joinable!(reminders -> tasks (task_id));
diesel::joinable!(task_tags -> tags (tag_id));
diesel::joinable!(task_tags -> tasks (task_id));
diesel::joinable!(tasks -> projects (project_id));
diesel::joinable!(user_notification_prefs -> users (user_id));
diesel::joinable!(digest_runs -> users (user_id));
diesel::joinable!(one_time_tokens -> users (user_id));
diesel::joinable!(webhook_deliveries -> webhook_endpoints (endpoint_id));
diesel::joinable!(webhook_endpoints -> users (owner_id));

diesel::allow_tables_to_appear_in_same_query!(
    backups,
    comments,
    digest_runs,
    events,
    idempotency_keys,
    jobs,
    mail_actions,
    mail_bounces,
    mail_counts,
    mail_suppressions,
    one_time_tokens,
    project_members,
    projects,
    queues,
    refresh_tokens,
    reminder_fires,
    reminders,
    tags,
    task_tags,
    tasks,
    team_members,
    teams,
    user_notification_prefs,
    users,
    webhook_deliveries,
    webhook_endpoints,
);
