//! Lines on their way to stderr, which a thread of its own writes.
//!
//! What must stay true: who logs never waits for who reads; what nobody reads in time is dropped, and that is told;
//! every line that was taken is written before the process ends in order, unless nobody reads it until then.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

/// What may wait to be written: many thousand lines.
const MAX_WAITING_BYTES: usize = 8 * 1024 * 1024;

/// Takes lines; clones share the way.
#[derive(Debug, Clone)]
pub(super) struct Stderr {
    queue: Sender<Message>,
    load: Arc<Load>,
}

#[derive(Debug, Default)]
struct Load {
    waiting_bytes: AtomicUsize,
    dropped: AtomicU64,
}

enum Message {
    Line(String),
    /// All before it is written.
    Flush(SyncSender<()>),
}

impl Stderr {
    /// Starts the thread.
    pub(super) fn start() -> Self {
        Self::to(std::io::stderr())
    }

    fn to(out: impl Write + Send + 'static) -> Self {
        let (queue, messages) = channel();
        let load = Arc::new(Load::default());
        let seen = Arc::clone(&load);
        let thread = std::thread::Builder::new().name("flowgate-log".to_owned());
        // Where there can be no thread lines are written by who logs them, as nobody takes them from the queue.
        let _ = thread.spawn(move || write_all(&messages, &seen, out));
        Self { queue, load }
    }

    /// Takes a line, with its end, unless too much waits.
    pub(super) fn write(&self, line: String) {
        let bytes = line.len();
        let waiting = self.load.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting.saturating_add(bytes) > MAX_WAITING_BYTES {
            self.load.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.load.dropped.fetch_add(1, Ordering::Relaxed);
        } else if let Err(unsent) = self.queue.send(Message::Line(line)) {
            self.load.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            if let Message::Line(line) = unsent.0 {
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
        }
    }

    /// How many lines were dropped that nobody was told of, once there is room again for telling.
    pub(super) fn dropped(&self) -> u64 {
        let full = self.load.waiting_bytes.load(Ordering::Relaxed) > MAX_WAITING_BYTES / 2;
        if full { 0 } else { self.load.dropped.swap(0, Ordering::Relaxed) }
    }

    /// Waits until all that was taken is written, for no longer than `within`.
    pub(super) fn flush(&self, within: Duration) {
        let (done, flushed) = sync_channel(1);
        if self.queue.send(Message::Flush(done)).is_ok() {
            // What nobody reads is lost.
            let _ = flushed.recv_timeout(within);
        }
    }
}

fn write_all(messages: &Receiver<Message>, load: &Load, mut out: impl Write) {
    while let Ok(message) = messages.recv() {
        match message {
            Message::Line(line) => {
                // Complaining of a closed stderr on that same stderr would help nobody.
                let _ = out.write_all(line.as_bytes());
                load.waiting_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            }
            Message::Flush(done) => {
                let _ = out.flush();
                // Whoever asked may have gone.
                let _ = done.try_send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn lines_are_written_in_order_and_all_of_them_by_the_end_of_a_flush() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let stderr = Stderr::to(writer);
        for number in 0..100 {
            stderr.write(format!("{number}\n"));
        }
        stderr.flush(PATIENCE);
        drop(stderr);
        let mut written = String::new();
        reader.read_to_string(&mut written).expect("the thread ends with its last handle");
        assert_eq!(written, (0..100).map(|number| format!("{number}\n")).collect::<String>());
    }

    #[test]
    fn a_reader_that_stalls_holds_up_nobody_and_costs_what_is_beyond_the_bound() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let stderr = Stderr::to(writer);
        let line = "x".repeat(1024 * 1024);
        for _ in 0..12 {
            stderr.write(line.clone());
        }
        stderr.flush(Duration::ZERO);
        assert_eq!(stderr.dropped(), 0, "there is no room yet to tell of it");
        let reading = std::thread::spawn(move || {
            let mut read = Vec::new();
            reader.read_to_end(&mut read).map(|_| read.len())
        });
        stderr.flush(PATIENCE);
        // Of the first only a part went into the pipe, so that all of it still counts as waiting.
        assert_eq!(stderr.dropped(), 4);
        assert_eq!(stderr.dropped(), 0, "it is told once");
        drop(stderr);
        let read = reading.join().expect("it does not panic").expect("a pipe can be read");
        assert_eq!(read, 8 * line.len());
    }
}
