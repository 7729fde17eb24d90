//! Leases that are nearly over when a replica gets them (promises P4, P8).

use flowgate::pb::{ErrorCode, ExecutionState};
use serde_json::json;
use sqlx::Executor as _;

use crate::support::{Config, Db, TestServer, audit_is_clean, eventually, on_postgres, submit};

on_postgres! {
    #[tokio::test]
    what_took_too_long_to_claim_is_handed_back_uncharged_and_not_begun;
}

/// Every claim takes longer than work may go on under its lease, and not as long as the lease.
const LINGER: &str = "
    CREATE TABLE lingering AS SELECT 3.3 AS seconds;
    CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_sleep(seconds) FROM lingering;
        RETURN NEW;
    END $$;
    CREATE TRIGGER lingering BEFORE UPDATE ON records
        FOR EACH ROW WHEN (OLD.state = 0 AND NEW.state = 1) EXECUTE FUNCTION linger()";

async fn what_took_too_long_to_claim_is_handed_back_uncharged_and_not_begun() {
    let server = TestServer::start(Config::on(Db::Postgres).simulated("sim", 1).lease("4s")).await;
    let mut session = server.database().connect().await;
    session.execute(LINGER).await.unwrap();
    let id = server.submit(submit("sim", json!({}))).await.id;
    let first = eventually("an attempt is over", async || {
        let attempts = server.get(&id).await.attempts;
        attempts.into_iter().find(|attempt| attempt.end_time.is_some())
    })
    .await;
    let code = first.error.as_ref().map(flowgate::pb::Error::code);
    assert_eq!(code, Some(ErrorCode::Released), "{first:?}");
    session.execute("DELETE FROM lingering").await.unwrap();
    let ended = server.ended(&id).await;
    assert_eq!((ended.state(), ended.crash_count), (ExecutionState::Succeeded, 0), "{ended:?}");
    audit_is_clean(&server.store_url());
}
