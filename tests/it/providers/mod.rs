//! Every provider against the real thing, and what the tests of providers stand on.
//!
//! These run once: which database is below makes no difference to what a provider is asked.

mod replay;
mod servers;
