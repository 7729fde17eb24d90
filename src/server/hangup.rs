//! SIGHUP: neither the end of the server nor a way to change it.

use tokio::signal::unix::{SignalKind, signal};

use crate::tasks::Tasks;

/// Sees to it that a closed terminal, or a manager that means to reload, does not kill the server.
pub(super) fn survive(tasks: &Tasks) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let stop = tasks.stopping();
    tasks.spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                heard = hangup.recv() => if heard.is_none() { return },
            }
            tracing::info!(
                "SIGHUP is ignored: settings are read at the start only, and the log level is changed \
                 with `flowgate log-level`"
            );
        }
    });
    Ok(())
}
