//! What row-level security would cost: the statements of the limits as they are, and behind the policies of
//! `sql/row_security.sql`, forced, with the viewer set in the same round trip.

use tokio_postgres::NoTls;

use super::{
    super::{
        say,
        table::{Samples, Table, rate},
    },
    limits::Limits,
    world::PERSON_HEAD,
};

/// Tables with a policy.
const TABLES: [&str; 6] = ["tasks", "task_tags", "tags", "reminders", "reminder_fires", "audit_events"];
/// Connections: what the pool of an API has.
const CONNECTIONS: u32 = 10;

/// Measures it in alternation.
pub(super) async fn compare(
    limits: &Limits<'_>,
    owner_url: &str,
    rounds: u32,
    seconds: u32,
) -> anyhow::Result<Table<4>> {
    let (owner, connection) = tokio_postgres::connect(owner_url, NoTls).await?;
    tokio::spawn(connection);
    owner.batch_execute(include_str!("sql/row_security.sql")).await?;
    let viewer = format!(
        "SELECT set_config('tasktracker.viewer', '{PERSON_HEAD}' || lpad(to_hex(:n::bigint % 1000), 12, '0'), true)"
    );
    let mut table = vec![["", "as it is", "behind the wall", "cost"].map(str::to_owned)];
    for name in ["get", "list", "patch", "create"] {
        let text = std::fs::read_to_string(limits.folder.join(format!("{name}.sql")))?;
        let (number, statement) = text.split_once('\n').unwrap_or_default();
        let is_write = ["patch", "create"].contains(&name);
        let wrapped = |inner: &str| {
            format!("{number}\n\\startpipeline\nBEGIN;\n{inner}{statement}COMMIT;\n\\endpipeline\n")
        };
        // A write has its transaction already.
        let plain = if is_write { wrapped("") } else { text.clone() };
        limits.keep("plain", &plain)?;
        limits.keep("walled", &wrapped(&format!("{viewer};\n")))?;
        let (mut before, mut after) = (Samples::default(), Samples::default());
        for round in 1..=rounds {
            switch(&owner, "DISABLE").await?;
            let plain = limits.run("plain", CONNECTIONS, seconds).await?;
            switch(&owner, "ENABLE").await?;
            let walled = limits.run("walled", CONNECTIONS, seconds).await?;
            say(&format!(
                "row-level security, {name}, round {round}: {plain:.0}/s without, {walled:.0}/s with"
            ));
            before.push(plain);
            after.push(walled);
        }
        let cost = format!("{:.0} %", (1.0 - after.median() / before.median()) * 100.0);
        table.push([name.to_owned(), rate(before.median()), rate(after.median()), cost]);
    }
    switch(&owner, "DISABLE").await?;
    Ok(Table(table))
}

async fn switch(owner: &tokio_postgres::Client, how: &str) -> anyhow::Result<()> {
    for table in TABLES {
        let force = if how == "ENABLE" { "FORCE" } else { "NO FORCE" };
        let statement = format!(
            "ALTER TABLE {table} {how} ROW LEVEL SECURITY; ALTER TABLE {table} {force} ROW LEVEL SECURITY"
        );
        owner.batch_execute(&statement).await?;
    }
    Ok(())
}
