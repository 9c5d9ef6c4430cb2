//! Who asks: accounts that are made for it.

use std::{fmt, net::Ipv4Addr};

use anyhow::{Context as _, ensure};
use diesel::sql_types::Text;
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use serde_json::{Value, json};

/// No secret: it guards data that are deleted afterwards. The examples of the document have it, too.
const PASSWORD: &str = "correct horse battery";

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    User,
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::User => "user",
            Self::Admin => "admin",
        })
    }
}

/// An account that is logged in.
pub(super) struct Account {
    pub(super) email: String,
    pub(super) password: &'static str,
    /// Good for 15 minutes.
    pub(super) access_token: String,
    /// Where they are: nobody else is there, so nobody uses up what is limited by address (`TRUSTED_PROXIES`).
    pub(super) address: Ipv4Addr,
}

impl Account {
    /// A new one; `purpose` makes its mail address, and `number` that of its machine.
    pub(super) async fn make(
        api: &str,
        database: &str,
        role: Role,
        purpose: &str,
        number: u8,
    ) -> anyhow::Result<Self> {
        // For documentation, RFC 5737.
        let address = Ipv4Addr::new(203, 0, 113, number);
        let email = format!("{}-{role}@example.com", purpose.replace('_', "-"));
        let http = crate::client().build()?;
        let post = async |path: &str, body: Value| -> anyhow::Result<Value> {
            let response = http
                .post(format!("{api}/api/v1{path}"))
                .header("content-type", "application/json")
                .header("x-forwarded-for", address.to_string())
                .body(body.to_string())
                .send()
                .await?;
            let (status, text) = (response.status(), response.text().await?);
            ensure!(status.is_success(), "POST {path} answered {status}: {text}");
            Ok(serde_json::from_str(&text)?)
        };
        let account = json!({"email": email, "password": PASSWORD, "full_name": purpose});
        post("/auth/register", account).await?;
        if role == Role::Admin {
            let mut conn = AsyncPgConnection::establish(database).await?;
            diesel::sql_query("UPDATE users SET role = 'admin' WHERE email = $1::citext")
                .bind::<Text, _>(&email)
                .execute(&mut conn)
                .await?;
        }
        let session = post("/auth/login", json!({"email": email, "password": PASSWORD})).await?;
        let access_token =
            session["access_token"].as_str().context("a session has an access token")?.to_owned();
        Ok(Self { email, password: PASSWORD, access_token, address })
    }
}
