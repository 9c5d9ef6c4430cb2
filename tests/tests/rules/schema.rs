//! What the migrated database looks like: `schema.rs` agrees with it, keys have their indexes, instants are instants,
//! migrations can be undone, and the application's role may change rows and nothing else (design §4.10).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use common::{
    clock::Clock,
    testing::{TestDatabase, at},
};
use diesel::{QueryableByName, sql_types::Text};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};

use crate::workspace::{read, root};

/// Foreign keys without an index of their own, and why.
const UNINDEXED: &[(&str, &str)] = &[
    (
        "refresh_tokens(user_id)",
        "only live ones are looked for; accounts are rarely deleted, and old tokens are pruned",
    ),
    ("reminder_fires(user_id)", "only open ones are looked for; the same"),
];
/// The one wall time: an absolute reminder is what its person meant (semantics §3.2).
const WALL_TIMES: &[&str] = &["reminders.at_local"];

async fn owner(database: &TestDatabase) -> AsyncPgConnection {
    AsyncPgConnection::establish(&database.owner_url).await.unwrap()
}

/// The rows of a statement that has one text column called `line`.
async fn lines(conn: &mut AsyncPgConnection, statement: &str) -> Vec<String> {
    #[derive(QueryableByName)]
    struct Line {
        #[diesel(sql_type = Text)]
        line: String,
    }

    let rows: Vec<Line> = diesel::sql_query(statement).load(conn).await.unwrap();
    rows.into_iter().map(|row| row.line).collect()
}

/// `table.column type`, with `?` behind a type that may be null, for each column of `schema.rs`; and its keys as
/// `table(column, …)`.
fn declared() -> (BTreeSet<String>, BTreeSet<String>) {
    let text = read("common/src/schema.rs");
    let mut enums = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, sql)) = line.trim().trim_end_matches(',').split_once(" = \"") {
            enums.insert(name.to_owned(), sql.trim_end_matches('"').to_owned());
        }
    }
    let (mut columns, mut keys) = (BTreeSet::new(), BTreeSet::new());
    for table in text.split("diesel::table! {").skip(1) {
        let mut name = String::new();
        for line in table.lines().map(str::trim).take_while(|line| !line.starts_with("diesel::")) {
            if let Some((column, sql_type)) = line.trim_end_matches(',').split_once(" -> ") {
                columns.insert(format!("{name}.{column} {}", sql_type_name(sql_type, &enums)));
            } else if let Some(key) = line.strip_suffix(" {") {
                name = key.split(' ').next().unwrap().to_owned();
                keys.insert(key.replacen(' ', "", 1));
            }
        }
    }
    (columns, keys)
}

/// PostgreSQL's name of a type of diesel's.
fn sql_type_name(diesel: &str, enums: &BTreeMap<String, String>) -> String {
    let inner = |wrapper: &str| diesel.strip_prefix(wrapper).and_then(|rest| rest.strip_suffix('>'));
    if let Some(inner) = inner("Nullable<") {
        return format!("{}?", sql_type_name(inner, enums));
    }
    if let Some(inner) = inner("Array<") {
        return format!("_{}", sql_type_name(inner, enums).trim_end_matches('?'));
    }
    let name = match diesel {
        "BigInt" => "int8",
        "Bool" => "bool",
        "Double" => "float8",
        "Integer" => "int4",
        "SmallInt" => "int2",
        "Bytea" | "Citext" | "Date" | "Jsonb" | "Text" | "Time" | "Timestamp" | "Timestamptz" | "Uuid" => {
            return diesel.to_lowercase();
        }
        other => return enums.get(other).unwrap_or_else(|| panic!("what is the type {other}?")).clone(),
    };
    name.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_rs_agrees_with_the_database() {
    let database = TestDatabase::create().await;
    let mut conn = owner(&database).await;
    let columns: BTreeSet<String> = lines(
        &mut conn,
        "SELECT table_name || '.' || column_name || ' ' || udt_name || CASE is_nullable WHEN 'YES' THEN '?' ELSE '' END AS line
         FROM information_schema.columns WHERE table_schema = 'public'",
    )
    .await
    .into_iter()
    .collect();
    let keys: BTreeSet<String> = lines(
        &mut conn,
        "SELECT conrelid::regclass || replace(pg_get_constraintdef(oid), 'PRIMARY KEY ', '') AS line
         FROM pg_constraint WHERE contype = 'p' AND connamespace = 'public'::regnamespace",
    )
    .await
    .into_iter()
    .collect();
    let (declared_columns, declared_keys) = declared();
    assert!(declared_columns.len() > 50, "schema.rs was read: {declared_columns:?}");
    // citext reads and writes as text.
    let known =
        |column: &String| columns.contains(column) || columns.contains(&column.replace(" text", " citext"));
    let wrong: Vec<_> = declared_columns.iter().filter(|column| !known(column)).collect();
    assert!(wrong.is_empty(), "schema.rs has what the database has not: {wrong:#?}");
    let wrong: Vec<_> = declared_keys.difference(&keys).collect();
    assert!(wrong.is_empty(), "primary keys of schema.rs that are others in the database: {wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_has_a_primary_key() {
    let database = TestDatabase::create().await;
    let without = lines(
        &mut owner(&database).await,
        "SELECT relname::text AS line FROM pg_class c WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
         AND NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = c.oid AND contype = 'p')",
    )
    .await;
    assert_eq!(without, [""; 0]);
}

/// Else a deletion reads the whole referring table, and holds its locks as long.
#[tokio::test(flavor = "multi_thread")]
async fn every_foreign_key_has_an_index_that_begins_with_it() {
    let database = TestDatabase::create().await;
    let without = lines(
        &mut owner(&database).await,
        "SELECT k.conrelid::regclass || '(' || string_agg(a.attname, ', ' ORDER BY u.place) || ')' AS line
         FROM pg_constraint k
         CROSS JOIN unnest(k.conkey) WITH ORDINALITY u(attnum, place)
         JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum
         WHERE k.contype = 'f' AND k.connamespace = 'public'::regnamespace
         GROUP BY k.oid, k.conrelid, k.conkey
         HAVING NOT EXISTS (
             SELECT FROM pg_index i WHERE i.indrelid = k.conrelid AND i.indisvalid
             AND k.conkey <@ (i.indkey::smallint[])[0:cardinality(k.conkey) - 1]
             -- A partial index serves if it leaves out nothing but NULL.
             AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid)
                 = format('(%s IS NOT NULL)', min(a.attname)) AND cardinality(k.conkey) = 1))
         ORDER BY 1",
    )
    .await;
    let argued: Vec<&str> = UNINDEXED.iter().map(|(key, _)| *key).collect();
    assert_eq!(without, argued, "foreign keys without an index (left) and those of UNINDEXED (right)");
}

#[tokio::test(flavor = "multi_thread")]
async fn instants_are_timestamptz_and_versions_are_there() {
    let database = TestDatabase::create().await;
    let mut conn = owner(&database).await;
    let wall_times = lines(
        &mut conn,
        "SELECT table_name || '.' || column_name AS line FROM information_schema.columns
         WHERE table_schema = 'public' AND table_name NOT LIKE '\\_\\_diesel%' AND udt_name = 'timestamp' ORDER BY 1",
    )
    .await;
    assert_eq!(wall_times, WALL_TIMES);
    let columns = "SELECT table_name || '.' || column_name AS line FROM information_schema.columns
         WHERE table_schema = 'public' AND table_name NOT LIKE '\\_\\_diesel%'";
    let misnamed =
        lines(&mut conn, &format!("{columns} AND column_name LIKE '%\\_at' AND udt_name <> 'timestamptz'"))
            .await;
    assert_eq!(misnamed, [""; 0], "what is called …_at is an instant");
    let versions = format!(
        "{columns} AND column_name = 'version' AND (is_nullable = 'YES' OR udt_name <> 'int4' OR column_default <> '1')"
    );
    assert_eq!(lines(&mut conn, &versions).await, [""; 0], "a version is an integer, not null, from 1");
}

/// Everything that a migration may change, as text.
const SNAPSHOT: &str = "
    SELECT line FROM (
        SELECT concat_ws(' ', 'column', table_name, column_name, udt_name, is_nullable, column_default) AS line
            FROM information_schema.columns WHERE table_schema = 'public'
        UNION ALL SELECT concat_ws(' ', 'relation', relname, relkind, reloptions, relacl, obj_description(oid))
            FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind <> 'i'
        UNION ALL SELECT concat_ws(' ', 'comment', objoid::regclass, objsubid, description)
            FROM pg_description WHERE classoid = 'pg_class'::regclass
            AND objoid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
        UNION ALL SELECT concat_ws(' ', 'index', indexdef) FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT concat_ws(' ', 'constraint', conrelid::regclass, conname, pg_get_constraintdef(oid))
            FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT concat_ws(' ', 'enum', enumtypid::regtype, enumsortorder, enumlabel) FROM pg_enum
        UNION ALL SELECT concat_ws(' ', 'function', oid::regprocedure, md5(prosrc))
            FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT concat_ws(' ', 'trigger', pg_get_triggerdef(oid)) FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT concat_ws(' ', 'extension', extname) FROM pg_extension
        UNION ALL SELECT concat_ws(' ', 'default grant', defaclrole::regrole, defaclobjtype, defaclacl)
            FROM pg_default_acl
    ) things ORDER BY 1";

/// The folders of the migrations, in order.
fn migrations() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("migrations")).unwrap();
    let mut folders: Vec<PathBuf> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// Down to nothing and up again, step by step: each `down.sql` undoes its `up.sql`, all of it and no more.
#[tokio::test(flavor = "multi_thread")]
async fn migrations_can_be_undone() {
    let database = TestDatabase::create().await;
    let mut conn = owner(&database).await;
    let mut snapshots = vec![lines(&mut conn, SNAPSHOT).await];
    for folder in migrations().iter().rev() {
        let down = fs::read_to_string(folder.join("down.sql")).unwrap();
        conn.batch_execute(&down)
            .await
            .unwrap_or_else(|error| panic!("{}/down.sql: {error}", folder.display()));
        snapshots.push(lines(&mut conn, SNAPSHOT).await);
    }
    let rest = snapshots.pop().unwrap();
    let left = rest
        .iter()
        .filter(|line| line.starts_with("relation") && !line.contains("__diesel_schema_migrations"));
    assert_eq!(left.collect::<Vec<_>>(), [""; 0], "what no down.sql removes");
    for folder in migrations() {
        let up = fs::read_to_string(folder.join("up.sql")).unwrap();
        conn.batch_execute(&up).await.unwrap_or_else(|error| panic!("{}/up.sql: {error}", folder.display()));
        assert_eq!(lines(&mut conn, SNAPSHOT).await, snapshots.pop().unwrap(), "after {}", folder.display());
    }
}

#[test]
fn migrations_say_why() {
    for folder in migrations() {
        let up = fs::read_to_string(folder.join("up.sql")).unwrap();
        assert!(up.starts_with("-- "), "{}/up.sql opens with why it is there", folder.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_may_change_rows_and_nothing_else() {
    let database = TestDatabase::create().await;
    let (db, _due) = database.open(Clock::fixed(at("2030-01-02T08:00:00Z")));
    let mut conn = db.conn().await.unwrap();
    let tables = lines(
        &mut owner(&database).await,
        "SELECT tablename::text AS line FROM pg_tables WHERE schemaname = 'public'",
    )
    .await;
    let mut statements = vec![
        "CREATE TABLE mine (id int)".to_owned(),
        "CREATE TYPE mine AS ENUM ()".to_owned(),
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'".to_owned(),
        "CREATE SCHEMA mine".to_owned(),
        "CREATE ROLE mine".to_owned(),
        "DROP TYPE job_state CASCADE".to_owned(),
        "ALTER TYPE job_state ADD VALUE 'mine'".to_owned(),
        "DROP INDEX jobs_unfinished".to_owned(),
        "DELETE FROM __diesel_schema_migrations".to_owned(),
        "SET ROLE tasktracker_owner".to_owned(),
    ];
    for table in tables {
        statements.push(format!("ALTER TABLE {table} ADD COLUMN mine int"));
        statements.push(format!("TRUNCATE {table} CASCADE"));
        statements.push(format!("DROP TABLE {table} CASCADE"));
        statements.push(format!("CREATE INDEX ON {table} ((1))"));
    }
    for statement in statements {
        let error = conn.batch_execute(&statement).await.expect_err(&statement).to_string();
        assert!(
            error.contains("permission denied") || error.contains("must be owner"),
            "{statement}: {error}"
        );
    }
}

/// A migration may run for as long as it needs.
#[tokio::test(flavor = "multi_thread")]
async fn the_owner_has_no_statement_timeout() {
    let database = TestDatabase::create().await;
    let settings = "SELECT concat_ws(' ', current_user, setting) AS line FROM pg_settings WHERE name = 'statement_timeout'";
    assert_eq!(lines(&mut owner(&database).await, settings).await, ["tasktracker_owner 0"]);
}
