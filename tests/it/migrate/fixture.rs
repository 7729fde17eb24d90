//! A store with everything in it that a store can hold, and what two databases hold, side by side.

use std::collections::BTreeMap;

use flowgate::domain::{
    AdaptiveBounds, Chunk, ChunkContent, Clock as _, Ending, Lease, Limits, OutputStream,
    Overrides, Rates, Signal, Timestamp, TraceContext, Usage, WorkerId,
};
use flowgate::store::{GateChange, WorkerRow, WorkerStatus};
use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, SqliteConnection};

use crate::store::fixture::{
    GRACE, Kind, LEASE, SECOND, TestStore, cancelled, crashed, failed, name, retry, succeeded,
};
use crate::support::StoreHome;

/// Text with everything in it that some format takes for something else.
pub(super) const AWKWARD: &str =
    "it's \"quoted\", \\N \\. \\\\ back\\slashed,\ttabbed\r\nand 日本語 🦀 \u{1}\u{7f}\u{2028}";

/// A store with executions in every state and situation.
pub(super) async fn lived() -> TestStore {
    let t = TestStore::open(Kind::Sqlite).await;
    for (provider, limit) in [("p", 4), ("q", 1), ("paused", 2), ("until", 3)] {
        t.declare(provider, limit).await;
    }
    t.limit("p", Some(8)).await;
    limited_in_every_way(&t).await;
    let pause = GateChange::Pause { reason: AWKWARD.to_owned(), until: None };
    t.store.set_gate(name("paused"), pause).await.unwrap();
    t.pause("until", Some(t.clock.now() + 3_600 * SECOND)).await;
    t.submit_plain("paused", 2).await;

    let p = t.submit_plain("p", 8).await;
    let claimed = t.claim("p", 8).await;
    let usage = Some(Usage { input_tokens: 7, output_tokens: i64::MAX });
    let output = json!({ "text": AWKWARD, "nul": "\0", "number": 0.1 }).to_string();
    write(&t, &claimed[0].lease).await;
    let succeeds = Ending::Succeeded { output: output.into(), usage };
    t.settle(&claimed[0].lease, succeeds).await.unwrap();
    t.settle(&claimed[1].lease, failed()).await.unwrap();
    t.settle(&claimed[2].lease, retry(3_600 * SECOND)).await.unwrap();
    t.settle(&claimed[3].lease, crashed()).await.unwrap();
    t.cancel(p[4]).await;
    t.settle(&claimed[4].lease, cancelled()).await.unwrap();
    t.settle(&claimed[5].lease, Ending::Released { begun: true }).await.unwrap();
    t.submit_with("p", |spec| spec.retry_of = Some(p[1])).await;
    // Two lose their leases; one of them is taken again, by a worker that goes on.
    t.pass(LEASE + GRACE).await;
    write(&t, &t.claim("p", 1).await[0].lease).await;
    t.cancel(t.claim("p", 1).await[0].lease.id).await;

    // One runs, one waits for the limit, and the others for other things.
    t.submit_plain("q", 2).await;
    t.claim("q", 2).await;
    t.submit_with("q", |spec| spec.schedule_at = Some(spec.created_at + 3_600 * SECOND)).await;
    t.submit_with("q", |spec| spec.queue_timeout = Some(60 * SECOND)).await;
    t.submit_with("q", |spec| {
        spec.request_id = Some("once, and 'only' once".to_owned());
        spec.labels = BTreeMap::from([
            ("plain".to_owned(), AWKWARD.to_owned()),
            ("looks/like.an-escape".to_owned(), "\\u0000".to_owned()),
            ("empty".to_owned(), String::new()),
        ]);
        spec.input.json =
            json!({ "text": AWKWARD, "nul": "\0", "\\": [null, -1.5e300] }).to_string();
        spec.input.exact = true;
        spec.priority = i32::MIN;
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        spec.trace = TraceContext::parse(traceparent, Some("rojo=1"));
    })
    .await;
    t.cancel(t.submit_plain("q", 1).await[0]).await;
    for status in [WorkerStatus::Serving, WorkerStatus::Stopping, WorkerStatus::Stopped] {
        t.store.beat(worker(&t, status)).await.unwrap();
    }
    t
}

/// A provider of which everything is limited, some for a time, and something is held back.
async fn limited_in_every_way(t: &TestStore) {
    let rates = Rates {
        requests_per_minute: Some(1),
        input_tokens_per_minute: Some(u64::MAX / 2),
        output_tokens_per_minute: Some(9),
    };
    let limits = Limits {
        max_concurrent: 3,
        rates,
        max_pending: Some(7),
        adaptive: Some(AdaptiveBounds { min: 1, max: 4, target_latency: Some(LEASE) }),
        models: [(AWKWARD.replace('\u{0}', ""), rates), ("m".to_owned(), rates)].into(),
    };
    t.declare_limits("limited", limits).await;
    let until = Some(t.clock.now() + 3_600 * SECOND);
    t.override_limits("limited", Overrides::concurrent(2), until).await;
    for _ in 0..3 {
        t.submit_demanding("limited", Some("m"), (5, 5)).await;
    }
    let claimed = t.claim("limited", 1).await;
    let signal = Signal::RateLimited { retry_after: Some(LEASE), message: AWKWARD.to_owned() };
    t.settle_telling(&claimed[0], retry(SECOND), Some(signal)).await;
    t.submit_demanding("limited", Some(AWKWARD), (5, 5)).await;
    t.claim("limited", 9).await;
}

fn worker(t: &TestStore, status: WorkerStatus) -> WorkerRow {
    WorkerRow {
        id: if status == WorkerStatus::Serving { t.worker } else { WorkerId::new() },
        host: AWKWARD.to_owned(),
        version: "0.1.0".to_owned(),
        status,
        started_at: Timestamp::from_micros(1),
        heartbeat_at: t.clock.now() + SECOND,
        figures: json!({ "running": 3, "text": AWKWARD, "nul": "\0" }),
    }
}

/// Output of every sort.
async fn write(t: &TestStore, lease: &Lease) {
    let contents = [
        (OutputStream::Stdout, ChunkContent::Text(format!("{AWKWARD}\0"))),
        (OutputStream::Stderr, ChunkContent::Data((0..=255).collect())),
        (OutputStream::Result, ChunkContent::Text("\\u0000".to_owned())),
    ];
    let chunks = (0..).zip(contents).map(|(index, (stream, content))| Chunk {
        attempt: u32::try_from(lease.token.0).unwrap(),
        index,
        stream,
        content,
    });
    t.store.append_output(lease.clone(), chunks.collect()).await.unwrap().unwrap();
}

/// Executions in every state, as many as are asked for.
pub(super) async fn crowded(executions: usize) -> TestStore {
    let t = TestStore::open(Kind::Sqlite).await;
    t.declare("p", 100_000).await;
    t.declare("later", 1).await;
    for first in (0..executions).step_by(1_000) {
        let count = (executions - first).min(1_000);
        let new = (0..count).map(|number| match number % 10 {
            0 => t.new_with("later", |spec| spec.schedule_at = Some(spec.created_at + LEASE)),
            _ => t.new_with("p", |spec| {
                spec.request_id = Some(format!("request {}", first + number));
                spec.labels = BTreeMap::from([("batch".to_owned(), first.to_string())]);
            }),
        });
        let new: Vec<_> = new.collect();
        let unwanted = new.iter().skip(5).step_by(10).map(|new| new.spec.id).collect();
        t.store.submit(new).await.unwrap().unwrap();
        t.store.cancel(unwanted, "not wanted".to_owned()).await.unwrap();
        let mut claimed = Vec::new();
        while claimed.len() < count / 2 {
            claimed.extend(t.claim("p", 100).await);
        }
        let ended = claimed.iter().enumerate().filter_map(|(number, claimed)| {
            let ending = match number % 50 {
                0 => return None,
                1..10 => failed(),
                10..15 => retry(LEASE),
                _ => succeeded(r#"{"answer":"forty-two"}"#),
            };
            Some(t.settle(&claimed.lease, ending))
        });
        join_all(ended).await.into_iter().for_each(|settled| settled.unwrap());
    }
    t
}

/// Every row of a SQLite store, by table, in the order of the keys; every column by its name.
pub(super) async fn rows_of_sqlite(home: &StoreHome) -> BTreeMap<String, Vec<Value>> {
    let StoreHome::Sqlite { file, .. } = home else { panic!("it is not in a file") };
    let options = SqliteConnectOptions::new().filename(file).read_only(true);
    let mut connection: SqliteConnection = options.connect().await.unwrap();
    let tables: Vec<(String, String)> = sqlx::query_as(
        "SELECT tables.name, group_concat(format('''%s'', %s', columns.name, columns.name))
         FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns
         WHERE tables.type = 'table'
           AND tables.name <> '_sqlx_migrations'
         GROUP BY tables.name",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let mut found = BTreeMap::new();
    for (table, columns) in tables {
        let sql = format!("SELECT json_object({columns}) FROM {table} ORDER BY 1");
        let rows: Vec<(String,)> =
            sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
        let rows = rows.iter().map(|(row,)| serde_json::from_str(row).unwrap());
        found.insert(table, sorted(rows.map(alike)));
    }
    found
}

/// The same of a PostgreSQL store.
pub(super) async fn rows_of_postgres(
    connection: &mut PgConnection,
) -> BTreeMap<String, Vec<Value>> {
    let mut found = BTreeMap::new();
    for table in tables_of_postgres(connection).await {
        let sql = format!("SELECT row_to_json(t)::text FROM {table} AS t");
        let rows: Vec<(String,)> =
            sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut *connection).await.unwrap();
        let rows = rows.iter().map(|(row,)| serde_json::from_str(row).unwrap());
        found.insert(table, sorted(rows.map(alike)));
    }
    found
}

/// Every row with where it is and who wrote it: changes with every write, even of the same values.
pub(super) async fn versions(connection: &mut PgConnection) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for table in tables_of_postgres(connection).await {
        let sql = format!(
            "SELECT md5(coalesce(string_agg(concat(t.ctid, t.xmin, t), ',' ORDER BY t.ctid), ''))
             FROM {table} AS t"
        );
        let (hash,): (String,) =
            sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut *connection).await.unwrap();
        found.insert(table, hash);
    }
    found
}

async fn tables_of_postgres(connection: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT tablename::text FROM pg_tables
         WHERE schemaname = 'public' AND tablename <> '_sqlx_migrations'",
    )
    .fetch_all(connection)
    .await
    .unwrap()
}

/// What one database keeps in types that the other does not have, in types that both have.
fn alike(mut row: Map<String, Value>) -> Value {
    for (column, value) in &mut row {
        match value {
            Value::Bool(flag) => *value = json!(i32::from(*flag)),
            Value::String(text) if column == "labels" => {
                *value = serde_json::from_str(text).unwrap();
            }
            _ => {}
        }
    }
    Value::Object(row)
}

/// In the order of their keys, which are ids in one database and text in the other.
fn sorted(rows: impl Iterator<Item = Value>) -> Vec<Value> {
    let mut rows: Vec<_> = rows.collect();
    let key = |row: &Value| ["revision", "id", "name"].map(|key| row[key].to_string());
    rows.sort_by_cached_key(key);
    rows
}
