#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy.toml does not cover")]

use super::*;
use crate::{
    clock::Clock,
    db::Db,
    secrets::{Purpose, SecretKeys},
    testing::{TestDatabase, at, secret_keys},
};

const START: &str = "2030-01-01T12:00:00Z";
const ALL: &[TokenPurpose] = TokenPurpose::ALL;

async fn start() -> (Db, Vec<Key>) {
    let (db, _) = TestDatabase::create().await.open(Clock::fixed(at(START)));
    (db, secret_keys().derive(Purpose::OneTime))
}

async fn run(db: &Db, sql: &str) {
    diesel::sql_query(sql).execute(&mut db.conn().await.unwrap()).await.unwrap();
}

async fn user(db: &Db, email: &str) -> UserId {
    let id = UserId::new();
    run(
        db,
        &format!(
            "INSERT INTO users (id, email, full_name, time_zone, created_at, updated_at)
             VALUES ('{id}', '{email}', 'Somebody', 'UTC', '2026-01-01Z', '2026-01-01Z')"
        ),
    )
    .await;
    id
}

async fn create(db: &Db, user: UserId, purpose: TokenPurpose) -> Option<OneTimeTokenId> {
    let mut tx = db.begin().await.unwrap();
    let created = OneTimeToken::create(&mut tx, user, purpose).await;
    tx.finish(created).await.unwrap()
}

/// The token of a new link, as the mail has it.
async fn token(db: &Db, keys: &[Key], user: UserId, purpose: TokenPurpose) -> String {
    let id = create(db, user, purpose).await.unwrap();
    let row = OneTimeToken::load(&mut db.conn().await.unwrap(), db.clock().now(), id).await.unwrap();
    row.unwrap().sign(keys).unwrap()
}

async fn redeem(db: &Db, keys: &[Key], token: &str, purposes: &[TokenPurpose]) -> Result<Redeemed> {
    let link = Link::read(token, purposes, keys, db.clock().instant())?;
    let mut tx = db.begin().await?;
    let redeemed = link.redeem(&mut tx).await;
    tx.finish(redeemed).await
}

#[track_caller]
fn assert_invalid<T>(result: Result<T>) {
    assert!(matches!(result.err(), Some(Error::Conflict { code: Code::InvalidLink, .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_good_once_though_two_come_at_the_same_time() {
    let (db, keys) = start().await;
    let ann = user(&db, "ann@example.com").await;
    let token = token(&db, &keys, ann, TokenPurpose::ResetPassword).await;
    assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'), "{token}");
    let both = futures::future::join_all((0..8).map(|_| redeem(&db, &keys, &token, ALL))).await;
    let good: Vec<Redeemed> = both.into_iter().filter_map(Result::ok).collect();
    assert_eq!(good.len(), 1);
    assert_eq!((good[0].user_id, good[0].purpose), (ann, TokenPurpose::ResetPassword));
    assert_invalid(redeem(&db, &keys, &token, ALL).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_or_for_something_else_is_refused_and_used_up_by_nothing() {
    let (db, keys) = start().await;
    let ann = user(&db, "ann@example.com").await;
    let good = token(&db, &keys, ann, TokenPurpose::VerifyEmail).await;
    let other_keys: SecretKeys = "other:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=".parse().unwrap();
    let forged = token(&db, &other_keys.derive(Purpose::OneTime), ann, TokenPurpose::VerifyEmail).await;
    let other_use =
        token(&db, &secret_keys().derive(Purpose::MailAction), ann, TokenPurpose::VerifyEmail).await;
    for bad in ["", "tto_", "tto_!!", &good[4..], &good[..good.len() - 1], &forged, &other_use] {
        assert_invalid(redeem(&db, &keys, bad, ALL).await);
    }
    // Each bit of it is signed: id, purpose, expiry.
    let bytes = URL_SAFE_NO_PAD.decode(&good[4..]).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert_invalid(redeem(&db, &keys, &format!("tto_{}", URL_SAFE_NO_PAD.encode(changed)), ALL).await);
    }
    assert_invalid(
        redeem(&db, &keys, &good, &[TokenPurpose::ResetPassword, TokenPurpose::SetPassword]).await,
    );
    redeem(&db, &keys, &good, &[TokenPurpose::VerifyEmail]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_lives_as_long_as_its_purpose_says() {
    let (db, keys) = start().await;
    let ann = user(&db, "ann@example.com").await;
    for (purpose, hours) in [
        (TokenPurpose::VerifyEmail, 24),
        (TokenPurpose::ResetPassword, 1),
        (TokenPurpose::ChangeEmail, 24),
        (TokenPurpose::SetPassword, 24),
    ] {
        db.clock().set(at(START));
        let (late, punctual) = (token(&db, &keys, ann, purpose).await, token(&db, &keys, ann, purpose).await);
        let end = at(START) + Duration::hours(hours);
        db.clock().set(end - Duration::seconds(1));
        redeem(&db, &keys, &punctual, ALL).await.unwrap();
        db.clock().set(end);
        assert_invalid(redeem(&db, &keys, &late, ALL).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_for_the_address_it_was_mailed_to_and_an_account_that_is_on() {
    let (db, keys) = start().await;
    let ann = user(&db, "ann@example.com").await;
    let id = create(&db, ann, TokenPurpose::ResetPassword).await.unwrap();
    let token = token(&db, &keys, ann, TokenPurpose::ResetPassword).await;
    let load =
        async || OneTimeToken::load(&mut db.conn().await.unwrap(), db.clock().now(), id).await.unwrap();
    for (change, back) in [
        ("email = 'eve@example.com'", "email = 'ANN@example.com'"),
        ("is_active = false", "is_active = true"),
    ] {
        run(&db, &format!("UPDATE users SET {change}")).await;
        assert_invalid(redeem(&db, &keys, &token, ALL).await);
        assert!(load().await.is_none(), "and it is not mailed any more");
        run(&db, &format!("UPDATE users SET {back}")).await;
        assert!(load().await.is_some());
    }
    redeem(&db, &keys, &token, ALL).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_reset_ends_the_others_and_a_new_request_does_not() {
    let (db, keys) = start().await;
    let ann = user(&db, "ann@example.com").await;
    let first = token(&db, &keys, ann, TokenPurpose::ResetPassword).await;
    let second = token(&db, &keys, ann, TokenPurpose::ResetPassword).await;
    let verify = token(&db, &keys, ann, TokenPurpose::VerifyEmail).await;
    redeem(&db, &keys, &first, ALL).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    end(&mut tx, ann, &[TokenPurpose::ResetPassword]).await.unwrap();
    tx.commit().await.unwrap();
    assert_invalid(redeem(&db, &keys, &second, ALL).await);
    redeem(&db, &keys, &verify, ALL).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_mailed_more_than_five_links_an_hour_however_many_ask_at_once() {
    let (db, _) = start().await;
    let (ann, bob) = (user(&db, "ann@example.com").await, user(&db, "bob@example.com").await);
    let asked =
        futures::future::join_all((0..9).map(|_| create(&db, ann, TokenPurpose::ResetPassword))).await;
    assert_eq!(asked.into_iter().flatten().count(), 5);
    assert!(create(&db, ann, TokenPurpose::VerifyEmail).await.is_some(), "of each purpose");
    assert!(create(&db, bob, TokenPurpose::ResetPassword).await.is_some(), "of each account");
    db.clock().set(at(START) + Duration::hours(1));
    assert!(create(&db, ann, TokenPurpose::ResetPassword).await.is_some());
}
