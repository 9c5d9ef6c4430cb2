use chrono_tz::{America, Europe};
use proptest::prelude::*;

use super::*;

const BERLIN: Recipient = in_zone(Europe::Berlin);
const NEW_YORK: Recipient = in_zone(America::New_York);

const fn in_zone(tz: Tz) -> Recipient {
    let Some(day_start) = NaiveTime::from_hms_opt(9, 0, 0) else { panic!("09:00") };
    Recipient { tz, day_start }
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn floating(text: &str) -> Meaning {
    Meaning::Floating(text.parse().unwrap())
}

fn date(text: &str) -> Meaning {
    Meaning::Date(text.parse().unwrap())
}

fn relative(offset_minutes: i32) -> When {
    When::Relative { offset_minutes }
}

fn due(meaning: Meaning) -> TaskFacts {
    TaskFacts { closed: None, due: Some(meaning) }
}

fn fire(state: FireState, fire_at: &str) -> Existing {
    Existing { id: FireId::new(), plan_no: 1, fire_at: at(fire_at), state }
}

fn edited(task: &TaskFacts, when: &When, now: &str, fires: &[Existing]) -> Option<Change> {
    plan(task, when, false, in_zone(Tz::UTC), at(now), fires, Cause::Edited)
}

#[test]
fn t1_a_time_in_the_gap_fires_after_it() {
    let found = fire_at(Some(&floating("2026-03-29T02:30:00")), &relative(0), BERLIN);
    assert_eq!(found, Some(at("2026-03-29T01:30:00Z")));
}

#[test]
fn t3_a_time_that_comes_twice_fires_at_its_first_occurrence() {
    let found = fire_at(Some(&floating("2026-10-25T02:30:00")), &relative(0), BERLIN);
    assert_eq!(found, Some(at("2026-10-25T00:30:00Z")));
}

#[test]
fn t4_a_day_before_an_all_day_date_is_the_start_of_that_day() {
    let found = fire_at(Some(&date("2026-11-01")), &relative(-DAY), NEW_YORK);
    assert_eq!(found, Some(at("2026-10-31T13:00:00Z")));
}

#[test]
fn t5_a_zoned_time_does_not_depend_on_the_recipient() {
    let tokyo = Meaning::Zoned("2026-06-01T09:00:00".parse().unwrap(), Zone::stored("Asia/Tokyo"));
    for recipient in [BERLIN, NEW_YORK] {
        assert_eq!(fire_at(Some(&tokyo), &relative(0), recipient), Some(at("2026-06-01T00:00:00Z")));
        assert_eq!(fire_at(Some(&tokyo), &relative(-30), recipient), Some(at("2026-05-31T23:30:00Z")));
    }
}

#[test]
fn whole_days_are_calendar_days_and_the_rest_is_exact() {
    // The clocks go forward in the night between.
    let base = floating("2026-03-29T09:00:00");
    assert_eq!(fire_at(Some(&base), &relative(-DAY), BERLIN), Some(at("2026-03-28T08:00:00Z")));
    assert_eq!(fire_at(Some(&base), &relative(-DAY - 60), BERLIN), Some(at("2026-03-28T07:00:00Z")));
    assert_eq!(fire_at(Some(&base), &relative(-8 * 60), BERLIN), Some(at("2026-03-28T23:00:00Z")));
}

#[test]
fn t11_a_later_due_date_reminds_again() {
    let sent = fire(FireState::Sent, "2026-05-01T09:45:00Z");
    let change =
        edited(&due(floating("2026-05-01T16:00:00")), &relative(-15), "2026-05-01T11:00:00Z", &[sent]);
    let planned = Change::Insert {
        plan_no: 2,
        fire_at: at("2026-05-01T15:45:00Z"),
        state: FireState::Planned,
        reason: None,
    };
    assert_eq!(change, Some(planned));
}

#[test]
fn t12_an_earlier_due_date_does_not() {
    let sent = fire(FireState::Sent, "2026-05-01T09:45:00Z");
    let change =
        edited(&due(floating("2026-05-01T09:50:00")), &relative(-15), "2026-05-01T11:00:00Z", &[sent]);
    assert_eq!(change, None);
}

#[test]
fn a_change_of_zone_never_sends_again() {
    let sent = fire(FireState::Sent, "2026-05-01T09:45:00Z");
    let task = due(floating("2026-05-01T10:00:00"));
    let change =
        plan(&task, &relative(-15), false, NEW_YORK, at("2026-05-01T11:00:00Z"), &[sent], Cause::Moved);
    assert_eq!(change, None);
}

#[test]
fn what_is_just_past_is_sent_and_what_is_long_past_is_skipped() {
    let task = due(floating("2026-05-01T14:00:00"));
    let just = edited(&task, &relative(0), "2026-05-01T14:05:00Z", &[]).unwrap();
    assert!(matches!(just, Change::Insert { state: FireState::Planned, reason: None, .. }));
    let long = edited(&task, &relative(0), "2026-05-01T14:05:00.000001Z", &[]).unwrap();
    assert!(matches!(long, Change::Insert { state: FireState::Skipped, .. }) && long.is_too_late());
}

#[test]
fn open_fires_move_in_place_and_go_back_to_planned() {
    for state in [FireState::Planned, FireState::Deferred, FireState::Queued] {
        let open = fire(state, "2026-05-01T14:00:00Z");
        let id = open.id;
        let change =
            edited(&due(floating("2026-05-01T15:00:00")), &relative(0), "2026-05-01T12:00:00Z", &[open]);
        assert_eq!(change, Some(Change::Move { id, fire_at: at("2026-05-01T15:00:00Z") }));
    }
}

#[test]
fn an_open_fire_that_moves_into_the_past_is_skipped_in_place() {
    let open = fire(FireState::Planned, "2026-05-01T14:00:00Z");
    let change = edited(&due(floating("2026-05-01T09:00:00")), &relative(0), "2026-05-01T12:00:00Z", &[open]);
    assert!(matches!(&change, Some(Change::Settle { state: FireState::Skipped, .. })));
    assert!(change.is_some_and(|change| change.is_too_late()));
}

#[test]
fn what_is_not_wanted_is_cancelled_with_its_reason() {
    let now = "2026-05-01T12:00:00Z";
    let task = due(floating("2026-05-01T14:00:00"));
    for reason in [FireReason::TaskDone, FireReason::TaskDeleted, FireReason::TaskArchived] {
        let open = fire(FireState::Queued, "2026-05-01T14:00:00Z");
        let closed = TaskFacts { closed: Some(reason), ..task.clone() };
        let change = edited(&closed, &relative(0), now, std::slice::from_ref(&open));
        assert!(
            matches!(change, Some(Change::Settle { id, state: FireState::Cancelled, reason: why, .. }) if id == open.id && why == reason)
        );
        for state in
            [FireState::Sending, FireState::Sent, FireState::Dead, FireState::Skipped, FireState::Cancelled]
        {
            assert_eq!(
                edited(&closed, &relative(0), now, &[fire(state, "2026-05-01T14:00:00Z")]),
                None,
                "{state}"
            );
        }
    }
    let open = [fire(FireState::Planned, "2026-05-01T14:00:00Z")];
    let removed = plan(&task, &relative(0), true, BERLIN, at(now), &open, Cause::Edited);
    assert!(matches!(removed, Some(Change::Settle { reason: FireReason::ReminderRemoved, .. })));
    let no_due = TaskFacts { closed: None, due: None };
    let change = edited(&no_due, &relative(0), now, &open);
    assert!(matches!(change, Some(Change::Settle { reason: FireReason::DueRemoved, .. })));
    let absolute = When::Absolute { wall: "2026-05-01T14:00:00".parse().unwrap(), zone: Zone::UTC };
    assert_eq!(edited(&no_due, &absolute, now, &open), None, "an absolute reminder stays");
}

#[test]
fn reopening_plans_what_lies_ahead_and_leaves_what_has_passed() {
    let cancelled = fire(FireState::Cancelled, "2026-05-01T14:00:00Z");
    let id = cancelled.id;
    let task = due(floating("2026-05-01T14:00:00"));
    let before = edited(&task, &relative(0), "2026-05-01T13:00:00Z", std::slice::from_ref(&cancelled));
    assert_eq!(before, Some(Change::Move { id, fire_at: at("2026-05-01T14:00:00Z") }));
    assert_eq!(edited(&task, &relative(0), "2026-05-01T14:01:00Z", &[cancelled]), None);
}

/// What the rows are after a change.
fn apply(mut fires: Vec<Existing>, change: Option<Change>) -> Vec<Existing> {
    match change {
        None => {}
        Some(Change::Insert { plan_no, fire_at, state, .. }) => {
            fires.push(Existing { id: FireId::new(), plan_no, fire_at, state });
        }
        Some(Change::Move { id, fire_at }) => {
            for fire in fires.iter_mut().filter(|fire| fire.id == id) {
                (fire.fire_at, fire.state) = (fire_at, FireState::Planned);
            }
        }
        Some(Change::Settle { id, fire_at, state, .. }) => {
            for fire in fires.iter_mut().filter(|fire| fire.id == id) {
                (fire.fire_at, fire.state) = (fire_at, state);
            }
        }
    }
    fires
}

proptest! {
    #[test]
    fn planning_again_changes_nothing_and_nothing_fires_early(
        closed in any::<bool>(),
        has_due in any::<bool>(),
        minutes in 0_i64..3_000_000,
        offset in -60_000_i32..10_000,
        now in 0_i64..3_000_000,
        state in prop::option::of(0..FireState::ALL.len()),
        row in 0_i64..3_000_000,
    ) {
        let start = at("2024-01-01T00:00:00Z");
        let instant = |minutes: i64| start + Duration::minutes(minutes);
        let task = TaskFacts {
            closed: closed.then_some(FireReason::TaskDone),
            due: has_due.then(|| Meaning::Floating(instant(minutes).naive_utc())),
        };
        let fires: Vec<Existing> = state
            .map(|index| Existing { id: FireId::new(), plan_no: 1, fire_at: instant(row), state: FireState::ALL[index] })
            .into_iter()
            .collect();
        let ask = |fires: &[Existing]| plan(&task, &relative(offset), false, BERLIN, instant(now), fires, Cause::Edited);
        let after = apply(fires.clone(), ask(&fires));
        prop_assert_eq!(ask(&after), None);
        let wanted = fire_at(task.due.as_ref(), &relative(offset), BERLIN);
        for fire in after.iter().filter(|fire| fire.state.is_open()) {
            prop_assert_eq!(Some(fire.fire_at), wanted);
        }
    }
}
