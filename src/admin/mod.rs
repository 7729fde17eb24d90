//! What an operator does to a store directly, without asking a server.

mod audit;
mod checker;
mod migrate;
mod report;

pub use audit::{AuditArgs, AuditError, ReportFormat, audit, run};
pub use checker::{Checker, ProviderCheck, Rule, Violation};
pub use migrate::{MigrateArgs, MigrateError, migrate, run as run_migrate};
pub use report::{Finding, Report};
