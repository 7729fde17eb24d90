//! The output of a remote attempt on its way out, with secrets taken out, also those that a server
//! would spread over two pieces.

use tokio::sync::Mutex;

use super::Redactor;
use crate::providers::Output;

/// Where a remote attempt puts the text of its result as it grows.
#[derive(Debug)]
pub(in crate::providers) struct Progress {
    output: Output,
    redactor: Redactor,
    /// The end of what was said so far, which may be the beginning of a secret.
    held: Mutex<String>,
}

impl Progress {
    pub(in crate::providers) fn new(output: Output, redactor: Redactor) -> Self {
        Self { output, redactor, held: Mutex::default() }
    }

    /// What must not be seen of anything else that the attempt leaves behind.
    pub(in crate::providers) fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// Hands on more of the result.
    pub(in crate::providers) async fn text(&self, more: &str) {
        let ready = {
            let mut held = self.held.lock().await;
            held.push_str(more);
            self.redactor.text(&mut held);
            let keep = self.redactor.held_back(&held);
            let cut = held.len() - keep;
            held.drain(..cut).collect::<String>()
        };
        if !ready.is_empty() {
            self.output.result_text(ready).await;
        }
    }

    /// Hands on what was held back: no more is to come. If the result was cut off, it may be half a
    /// secret.
    pub(in crate::providers) async fn finish(&self, is_whole: bool) {
        let mut rest = std::mem::take(&mut *self.held.lock().await);
        if !is_whole {
            self.redactor.end(&mut rest);
        }
        if !rest.is_empty() {
            self.output.result_text(rest).await;
        }
    }
}
