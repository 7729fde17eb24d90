//! Room for connections: many systems allow 1,024 open files unless a program asks for more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one.
pub(super) fn raise_limit() {
    let old = getrlimit(Resource::Nofile);
    if old.current == old.maximum {
        return;
    }
    let new = Rlimit { current: old.maximum, maximum: old.maximum };
    match setrlimit(Resource::Nofile, new) {
        Ok(()) => tracing::debug!(old = old.current, new = new.current, "Raised the open files"),
        Err(error) => {
            tracing::warn!(old = old.current, error = %error, "Cannot raise the open files limit");
        }
    }
}
