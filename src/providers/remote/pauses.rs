//! Pauses between questions to a provider: short ones first, then longer ones, never none.

use std::time::Duration;

/// Grows with each pause.
#[derive(Debug, Clone)]
pub(in crate::providers) struct Pauses {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Pauses {
    /// From `first` on, each twice as long as the one before, up to `longest`.
    pub(in crate::providers) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// Between questions after work that goes on.
    pub(in crate::providers) const fn polling() -> Self {
        Self::new(Duration::from_millis(250), Duration::from_secs(2))
    }

    /// The next pause, which is over when this returns; not shorter than `least`.
    pub(in crate::providers) async fn pause(&mut self, least: Option<Duration>) {
        tokio::time::sleep(self.take(least)).await;
    }

    fn take(&mut self, least: Option<Duration>) -> Duration {
        let pause = self.next.max(least.unwrap_or_default());
        self.next = (self.next * 2).min(self.longest);
        pause
    }

    /// Begins with short ones again.
    pub(in crate::providers) const fn start_over(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest_and_are_as_long_as_asked_for() {
        let mut pauses = Pauses::polling();
        let grown: Vec<_> = (0..5).map(|_| pauses.take(None).as_millis()).collect();
        assert_eq!(grown, [250, 500, 1_000, 2_000, 2_000]);
        pauses.start_over();
        assert_eq!(pauses.take(Some(Duration::from_secs(7))).as_secs(), 7);
        assert_eq!(pauses.take(Some(Duration::from_millis(1))).as_millis(), 500);
    }
}
