//! Limits that several replicas share and change (promise P1), seen by the audit and by the
//! providers themselves.
//!
//! `FLOWGATE_TEST_ROUNDS` sets how many seeded rounds are played (2 unless set),
//! `FLOWGATE_TEST_SEED` the first seed.

use std::time::{Duration, Instant};

use flowgate::pb::{BatchSubmitExecutionsRequest, ProviderLimits, SetLimitsRequest};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::meter::{Meter, Reading};
use crate::support::{Config, Db, TestServer, audit_is_clean, from_env, on_postgres, submit};

on_postgres! {
    #[tokio::test(flavor = "multi_thread")]
    limits_that_three_replicas_share_and_change_are_never_exceeded;
}

const LIMIT: u32 = 3;
const SIMULATED: usize = 7;
const METERS: usize = 3;
/// Of each provider.
const EXECUTIONS: usize = 80;
const RUNS: usize = 20;
/// A round takes seconds, on a loaded machine much longer.
const DEADLINE: Duration = Duration::from_secs(240);

async fn limits_that_three_replicas_share_and_change_are_never_exceeded() {
    let first: u64 = from_env("FLOWGATE_TEST_SEED", 1);
    for seed in first..first + from_env::<u64>("FLOWGATE_TEST_ROUNDS", 2) {
        let began = Instant::now();
        let readings = play(seed).await;
        println!("round with seed {seed}: {:?}, at the meters {readings:?}", began.elapsed());
    }
}

async fn play(seed: u64) -> Vec<Reading> {
    let meters: Vec<_> = (0..METERS).map(|n| Meter::new(&format!("meter-{n}"), LIMIT)).collect();
    let config = (0..SIMULATED)
        .fold(Config::on(Db::Postgres), |config, n| config.simulated(&name(n), LIMIT));
    let config = meters.iter().fold(config, |config, meter| meter.configure(config));
    let replicas = TestServer::replicas(config, 3).await;
    let mut rng = StdRng::seed_from_u64(seed);

    let simulated = (0..SIMULATED * EXECUTIONS)
        .map(|n| submit(&name(n % SIMULATED), json!({ "duration_ms": 5 })));
    let metered = (0..METERS * RUNS).map(|n| meters[n % METERS].execution(5));
    let mut requests: Vec<_> = simulated.chain(metered).collect();
    requests.shuffle(&mut rng);
    let total = requests.len();

    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut left = requests.chunks(200);
    let until = Instant::now() + DEADLINE;
    loop {
        tick.tick().await;
        let any = |rng: &mut StdRng| replicas.choose(rng).expect("there are three");
        change_limits(any(&mut rng), &mut rng).await;
        if let Some(requests) = left.next() {
            let batch = BatchSubmitExecutionsRequest { requests: requests.to_vec() };
            any(&mut rng).execution().batch_submit_executions(batch).await.unwrap();
        }
        let status = any(&mut rng).status().await;
        if usize::try_from(status.succeeded_count).unwrap() == total {
            break;
        }
        assert!(Instant::now() < until, "not all have succeeded: {status:?}");
    }
    audit_is_clean(&replicas[0].store_url());
    let readings: Vec<_> = meters.iter().map(Meter::read).collect();
    for reading in &readings {
        assert_eq!(*reading, Reading { runs: RUNS, most: LIMIT }, "{readings:?}");
    }
    readings
}

/// Those of the meters stay as they are, so that what they read has one limit to be compared with.
async fn change_limits(server: &TestServer, rng: &mut StdRng) {
    let limits = (0..SIMULATED).map(|n| ProviderLimits {
        provider: name(n),
        max_concurrent: Some(rng.random_range(1..=6)),
        ..Default::default()
    });
    let request = SetLimitsRequest { limits: limits.collect(), ..Default::default() };
    server.provider().set_limits(request).await.unwrap();
}

fn name(n: usize) -> String {
    format!("provider-{n}")
}
