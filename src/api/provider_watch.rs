//! Pushes the picture of the providers to one watcher.
//!
//! A picture is read only when there is room to send it, so that a slow client gets the latest and
//! never a queue of old ones.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::convert::provider;
use super::error::Refusal;
use crate::domain::ProviderName;
use crate::engine::{Engine, ProviderError};
use crate::pb;

/// How long a picture may stand unchanged before it is sent again.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long a client has to take the end of a stream.
const LAST_WORD: Duration = Duration::from_secs(1);

type Pictures = mpsc::Sender<Result<pb::WatchProvidersResponse, Status>>;

/// Starts to push; ends when the client is gone or the server shuts down.
pub(super) fn start(
    engine: &Engine,
    names: Vec<ProviderName>,
    min_interval: Duration,
) -> ReceiverStream<Result<pb::WatchProvidersResponse, Status>> {
    let (pictures, receiver) = mpsc::channel(1);
    let watcher = engine.clone();
    engine.spawn(async move {
        let end = {
            let pushed = pin!(push(&watcher, &names, min_interval, &pictures));
            tokio::select! {
                end = pushed => end,
                () = pictures.closed() => return,
                () = watcher.stopping() => Refusal::ShuttingDown,
            }
        };
        // A client that does not take it is gone or stuck; the connection ends it then.
        let _ = pictures.send_timeout(Err(end.into()), LAST_WORD).await;
    });
    ReceiverStream::new(receiver)
}

/// Sends picture after picture; returns why it cannot go on.
async fn push(
    engine: &Engine,
    names: &[ProviderName],
    min_interval: Duration,
    pictures: &Pictures,
) -> Refusal {
    let mut changes = engine.changes();
    let mut shown: Option<(Vec<pb::Provider>, Instant)> = None;
    loop {
        let Ok(room) = pictures.reserve().await else { return Refusal::ShuttingDown };
        let revision = *changes.borrow_and_update();
        let providers = match read(engine, names).await {
            Ok(providers) => providers,
            Err(error) => return Refusal::Provider(error),
        };
        let essence: Vec<_> = providers.iter().map(essence).collect();
        let last = shown.as_ref().map(|(shown, sent)| (shown.as_slice(), sent.elapsed()));
        if is_due(last, &essence, min_interval) {
            let store_epoch = engine.epoch().to_owned();
            room.send(Ok(pb::WatchProvidersResponse { revision, store_epoch, providers }));
            shown = Some((essence, Instant::now()));
        }
        let until_due =
            shown.as_ref().map_or(HEARTBEAT, |(_, sent)| HEARTBEAT.saturating_sub(sent.elapsed()));
        pause(min_interval, until_due, &mut changes).await;
    }
}

async fn read(engine: &Engine, names: &[ProviderName]) -> Result<Vec<pb::Provider>, ProviderError> {
    Ok(engine.providers(names).await?.into_iter().map(provider).collect())
}

/// Waits at least `min_interval`, and then for a change, but no longer than `until_due` in all.
async fn pause(min_interval: Duration, until_due: Duration, changes: &mut watch::Receiver<i64>) {
    tokio::time::sleep(min_interval).await;
    let rest = until_due.saturating_sub(min_interval);
    let changed = timeout(rest, changes.changed()).await;
    if matches!(changed, Ok(Err(_))) {
        // Nobody will tell of changes any more: the server is about to end.
        tokio::time::sleep(rest).await;
    }
}

/// Whether a picture is to be sent: it is the first, it changed, or the last has a certain age.
fn is_due(
    shown: Option<(&[pb::Provider], Duration)>,
    essence: &[pb::Provider],
    min_interval: Duration,
) -> bool {
    shown.is_none_or(|(shown, age)| shown != essence || age >= HEARTBEAT.max(min_interval))
}

/// A provider without what changes by the mere passing of time.
fn essence(provider: &pb::Provider) -> pb::Provider {
    pb::Provider { rates: None, oldest_pending_age: None, ..provider.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(running_count: i64, rate: f64) -> Vec<pb::Provider> {
        let rates = Some(pb::ProviderRates { succeeded_per_minute: rate, ..Default::default() });
        vec![essence(&pb::Provider { running_count, rates, ..Default::default() })]
    }

    #[test]
    fn a_picture_is_sent_first_when_it_changed_and_when_it_is_old() {
        let interval = Duration::from_secs(1);
        assert!(is_due(None, &picture(1, 0.0), interval));
        let shown = picture(1, 0.0);
        let after = |age, now: Vec<_>, interval| is_due(Some((&shown, age)), &now, interval);
        assert!(!after(interval, picture(1, 9.0), interval));
        assert!(after(interval, picture(2, 0.0), interval));
        assert!(after(HEARTBEAT, picture(1, 0.0), interval));
        assert!(!after(HEARTBEAT, picture(1, 0.0), 2 * HEARTBEAT));
    }
}
