#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy.toml does not cover")]

use common::{
    db::RunQueryDsl as _,
    ids::{DigestRunId, UserId},
};
use diesel::{
    QueryableByName,
    sql_types::{Integer, Nullable, Text, Uuid},
};

use super::*;
use crate::testing::{Bench, smtp};

/// The morning of Tue 1 Dec 2026 in Berlin, where everybody lives.
const MORNING: &str = "2026-12-01T07:00:00Z";

#[derive(Debug, QueryableByName)]
struct RunRow {
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = Nullable<Text>)]
    reason: Option<String>,
    #[diesel(sql_type = Nullable<Integer>)]
    item_count: Option<i32>,
    #[diesel(sql_type = Nullable<Integer>)]
    late_by_s: Option<i32>,
    #[diesel(sql_type = Nullable<Text>)]
    smtp_reply: Option<String>,
}

impl RunRow {
    fn stands(&self) -> (&str, Option<&str>) {
        (&self.state, self.reason.as_deref())
    }
}

/// A run of the morning, as the scheduler makes it.
async fn planned(bench: &Bench, user_id: UserId) -> SendDailySummary {
    let run_id = DigestRunId::new();
    bench
        .run(&format!(
            "INSERT INTO digest_runs (id, user_id, local_date, scheduled_at, created_at)
             VALUES ('{run_id}', '{user_id}', '2026-12-01', '{MORNING}', '{MORNING}')"
        ))
        .await;
    SendDailySummary { run_id, user_id }
}

async fn row(bench: &Bench, summary: &SendDailySummary) -> RunRow {
    let mut conn = bench.db().conn().await.unwrap();
    let rows: Vec<RunRow> = diesel::sql_query(
        "SELECT state::text AS state, reason, item_count, late_by_s, smtp_reply FROM digest_runs WHERE id = $1",
    )
    .bind::<Uuid, _>(summary.run_id)
    .load(&mut conn)
    .await
    .unwrap();
    rows.into_iter().next().unwrap()
}

async fn send(bench: &Bench, summary: &SendDailySummary) -> Result<(), JobError> {
    deliver(&bench.context, summary, None, false).await
}

/// Somebody with a task for today.
async fn busy(bench: &Bench, email: &str) -> UserId {
    let user = bench.user(email).await;
    bench.task(user, "Ship it").await;
    user
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_sent_once_and_says_what_is_true_now() {
    let bench = Bench::at(MORNING).await;
    let ann = busy(&bench, "ann@example.com").await;
    let summary = planned(&bench, ann).await;
    bench.task(ann, "Added after the plan").await;
    bench.advance_to("2026-12-01T07:00:02Z");
    send(&bench, &summary).await.unwrap();
    send(&bench, &summary).await.unwrap();
    let mails = bench.mails();
    let [mail] = mails.as_slice() else { panic!("{} mails", mails.len()) };
    assert_eq!(mail.subject, "Tue 1 Dec 2026: 2 due today");
    for part in [&mail.text, &mail.html] {
        assert!(part.contains("Added after the plan") && part.contains("17:00 CET, in 9 hours"), "{part}");
    }
    assert_eq!(mail.header("List-Id"), Some("<daily-summary.localhost>"));
    let row = row(&bench, &summary).await;
    assert_eq!((row.stands(), row.item_count, row.late_by_s), (("sent", None), Some(2), Some(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_send_one() {
    let bench = Bench::at(MORNING).await;
    let ann = busy(&bench, "ann@example.com").await;
    let summary = planned(&bench, ann).await;
    let (first, second) = tokio::join!(send(&bench, &summary), send(&bench, &summary));
    first.unwrap();
    second.unwrap();
    assert_eq!(bench.mails().len(), 1);
}

/// T18 of semantics §11, at the worker: what waited too long for a mail server is not sent either.
#[tokio::test(flavor = "multi_thread")]
async fn t18_more_than_four_hours_late_is_not_sent() {
    for (now, state) in [("2026-12-01T11:00:00Z", "sent"), ("2026-12-01T11:00:01Z", "skipped_late")] {
        let bench = Bench::at(now).await;
        let ann = busy(&bench, "ann@example.com").await;
        let summary = planned(&bench, ann).await;
        send(&bench, &summary).await.unwrap();
        assert_eq!(row(&bench, &summary).await.stands(), (state, None), "{now}");
        let mails = bench.mails();
        assert_eq!(mails.len(), usize::from(state == "sent"));
        assert!(
            mails
                .iter()
                .all(|mail| mail.text.contains("This summary was planned for 08:00 and is 4 h late."))
        );
    }
}

/// Skips, and that each says why; what a person asked for by hand comes where it was they who had stopped it.
#[tokio::test(flavor = "multi_thread")]
async fn silence_is_explained() {
    let mut bench = Bench::at(MORNING).await;
    let unsubscribed = |reason: &str| {
        format!(
            "INSERT INTO mail_suppressions (id, user_id, address_hash, kind, reason, created_at)
             SELECT gen_random_uuid(), id, sha256(email::text::bytea), 'daily_summary', '{reason}', created_at
             FROM users WHERE id = "
        )
    };
    let prefs = |columns: &str, values: &str| {
        format!(
            "INSERT INTO user_notification_prefs (user_id, {columns}, updated_at)
             SELECT id, {values}, created_at FROM users WHERE id = "
        )
    };
    let paused = prefs("paused_until", "'2026-12-01T07:00:01Z'::timestamptz");
    let off = prefs("digest_enabled", "false");
    let nothing = "DELETE FROM tasks WHERE owner_id = ".to_owned();
    for (change, stands, by_hand) in [
        (paused, ("skipped", Some("paused")), "sent"),
        (off, ("skipped", Some("switched_off")), "sent"),
        (unsubscribed("unsubscribe"), ("skipped", Some("unsubscribed")), "sent"),
        (unsubscribed("bounce"), ("skipped", Some("address_suppressed")), "skipped"),
        (
            "UPDATE users SET is_active = false WHERE id = ".into(),
            ("skipped", Some("recipient_disabled")),
            "skipped",
        ),
        (nothing, ("skipped_empty", None), "sent"),
    ] {
        let user = busy(&bench, &format!("{}@example.com", DigestRunId::new())).await;
        bench.run(&format!("{change}'{user}'")).await;
        let summary = planned(&bench, user).await;
        send(&bench, &summary).await.unwrap();
        assert_eq!(row(&bench, &summary).await.stands(), stands, "{change}");
        bench
            .run(&format!(
                "UPDATE digest_runs SET requested = true, state = 'planned' WHERE user_id = '{user}'"
            ))
            .await;
        send(&bench, &summary).await.unwrap();
        assert_eq!(row(&bench, &summary).await.state, by_hand, "{change}");
    }
    assert_eq!(bench.mails().len(), 4);

    bench.context.settings.require_email_verification = true;
    let user = busy(&bench, "new@example.com").await;
    let summary = planned(&bench, user).await;
    send(&bench, &summary).await.unwrap();
    assert_eq!(row(&bench, &summary).await.stands(), ("skipped", Some("unverified")));
    assert_eq!(bench.mails().len(), 4);
}

/// T21 of semantics §11: the worker is killed after the server's 250 and before `sent` is stored.
#[tokio::test(flavor = "multi_thread")]
async fn t21_one_in_doubt_is_not_sent_again() {
    let bench = Bench::at(MORNING).await;
    let ann = busy(&bench, "ann@example.com").await;
    let summary = planned(&bench, ann).await;
    let smtp = bench.context.smtp.clone().unwrap();
    let draft = smtp.open("ann@example.com").await.unwrap();
    let claim =
        summaries::claim(bench.db(), summary.run_id, None, rules(&bench.context)).await.unwrap().unwrap();
    assert_eq!(row(&bench, &summary).await.stands(), ("sending", None));
    let url = &bench.context.settings.public_url;
    let mail = mail::daily_summary(&claim.content, claim.scheduled_at, url, "https://tasks.example.com/u/x")
        .unwrap();
    let header = Header {
        message_id: &claim.message_id,
        list_id: "daily-summary.localhost".into(),
        thread: None,
        unsubscribe: None,
        date: claim.content.at,
        origin: &claim.origin,
    };
    draft.send(&mail, &header).await.unwrap();

    send(&bench, &summary).await.unwrap();
    assert_eq!(bench.mails().len(), 1);
    assert_eq!(row(&bench, &summary).await.stands(), ("unknown", None));
    // And should the one that was thought dead come back, it knows better.
    let ending = Ending::Sent { reply: "250 ok" };
    settle(&bench.context, &summary, &ending).await.unwrap();
    assert_eq!(row(&bench, &summary).await.stands(), ("sent", None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_the_mail_is_handed_over_is_tried_again() {
    let bench = Bench::at(MORNING).await;
    let ann = busy(&bench, "ann@example.com").await;
    let summary = planned(&bench, ann).await;
    let smtp = bench.context.smtp.clone().unwrap();
    summaries::waiting(bench.db(), summary.run_id, None, rules(&bench.context)).await.unwrap().unwrap();
    drop(smtp.open("ann@example.com").await.unwrap());
    send(&bench, &summary).await.unwrap();
    assert_eq!((bench.mails().len(), row(&bench, &summary).await.state), (1, "sent".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_is_tried_again_and_at_last_it_has_failed() {
    let bench = Bench::at(MORNING).await;
    let ann = busy(&bench, "tempfail@example.com").await;
    let (first, second) = (planned(&bench, ann).await, busy(&bench, "tempfail+2@example.com").await);
    assert!(matches!(send(&bench, &first).await, Err(JobError::Retry(_))));
    let row_ = row(&bench, &first).await;
    assert_eq!(row_.stands(), ("planned", None));
    assert!(row_.smtp_reply.is_some(), "what the server said is kept");
    // The last try is over: the job is done, for this is nobody's fault here.
    deliver(&bench.context, &first, None, true).await.unwrap();
    assert_eq!(row(&bench, &first).await.stands(), ("failed", Some("gave_up")));
    // Or the four hours are.
    let second = planned(&bench, second).await;
    assert!(send(&bench, &second).await.is_err());
    bench.advance_to("2026-12-01T11:00:01Z");
    send(&bench, &second).await.unwrap();
    assert_eq!(row(&bench, &second).await.stands(), ("failed", Some("gave_up")));

    bench.advance_to(MORNING);
    let bounced = busy(&bench, "bounce@example.com").await;
    let summary = planned(&bench, bounced).await;
    send(&bench, &summary).await.unwrap();
    assert_eq!(row(&bench, &summary).await.stands(), ("failed", Some("rejected")));
    assert!(bench.mails().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_mail_server_it_waits_and_costs_no_try() {
    let mut bench = Bench::at(MORNING).await;
    let ann = busy(&bench, "ann@example.com").await;
    let summary = planned(&bench, ann).await;
    let there = bench.context.smtp.take();
    assert!(matches!(send(&bench, &summary).await, Err(JobError::Snooze(_))));
    bench.context.smtp = Some(smtp("smtp://127.0.0.1:1", Duration::from_secs(1)));
    assert!(matches!(send(&bench, &summary).await, Err(JobError::Retry(_))));
    bench.context.smtp = there;
    send(&bench, &summary).await.unwrap();
    assert_eq!(row(&bench, &summary).await.state, "sent");
    assert_eq!(bench.mails().len(), 1);
}
