//! A port of 127.0.0.1 that a server can be started on, stopped, and started again.

use std::net::TcpListener;
use std::ops::RangeInclusive;

use rand::Rng as _;

/// Below those that systems give to whoever asks for any, which could take the port of a server
/// that is down; and below those of PostgreSQL's clusters.
const PORTS: RangeInclusive<u16> = 10_000..=14_990;

/// A port, and the one after it, that no other test takes as long as this lives.
pub(crate) struct Port {
    pub(crate) number: u16,
    /// Listens two ports on. That is what other tests see, in this process and in others, while
    /// nothing listens on the port itself yet.
    _claim: TcpListener,
}

impl Port {
    pub(crate) fn take() -> Self {
        let bind = |port: u16| TcpListener::bind(("127.0.0.1", port));
        let taken = (0..1_000).find_map(|_| {
            // In fours, so that no claim stands where another's server goes.
            let number = rand::rng().random_range(PORTS) / 4 * 4;
            let claim = bind(number + 2).ok()?;
            let is_free = bind(number).is_ok() && bind(number + 1).is_ok();
            is_free.then_some(Self { number, _claim: claim })
        });
        taken.expect("a port is free on 127.0.0.1")
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.number)
    }
}
