//! When a machine is too busy to take more of a provider's work, and how that is told.
//!
//! What must stay true: what is not known of a machine never counts as short; and a machine that was
//! short is so until it is clearly over, so that figures about the bound do not open and close the gate.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::WorkerId;

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

/// How far below the bound processor use must fall before a shortage is over, in percent points; a
/// quarter of the bound if that is less.
const CPU_MARGIN: u8 = 3;
/// How much more than the bound must be available before a shortage is over; a hundredth of the
/// bound if that is less.
const MEMORY_MARGIN: u64 = 64 * MIB;

/// What a machine must have left for a provider's work to start on it. What is `None` is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceGate {
    /// The most processor use, of all cores together; 1 to 100.
    pub cpu_max_percent: Option<u8>,
    /// The least memory that must be available.
    pub memory_min_bytes: Option<u64>,
    /// What becomes of work that finds the machine short.
    pub when_short: WhenShort,
}

/// What becomes of work that finds the machine short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenShort {
    /// It waits, holding no slot, until the machine has room or another worker takes it.
    #[default]
    Wait,
    /// It fails.
    Fail,
}

/// How busy a machine is, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MachineLoad {
    /// Processor use of all cores together over a short time, 0 to 100.
    pub cpu_percent: Option<f64>,
    /// Memory that can be had without swapping.
    pub memory_available_bytes: Option<u64>,
}

/// What a machine lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lack {
    /// Idle processors.
    Cpu {
        /// In use.
        percent: u8,
        /// The most that may be.
        max_percent: u8,
    },
    /// Memory.
    Memory {
        /// What can be had.
        available_bytes: u64,
        /// The least that must be left.
        needed_bytes: u64,
    },
}

/// That a worker which could take a provider's work does not, because its machine is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// Whose machine.
    pub worker: WorkerId,
    /// Of what.
    pub lack: Lack,
}

impl ResourceGate {
    /// What the machine lacks under this load; processors are looked at first. `before` is what it
    /// lacked when last looked at.
    pub fn lack(&self, load: &MachineLoad, before: Option<&Lack>) -> Option<Lack> {
        self.lack_of_cpu(load, before).or_else(|| self.lack_of_memory(load, before))
    }

    fn lack_of_cpu(&self, load: &MachineLoad, before: Option<&Lack>) -> Option<Lack> {
        let max_percent = self.cpu_max_percent?;
        let percent = whole_percent(load.cpu_percent?);
        let margin = match before {
            Some(Lack::Cpu { .. }) => CPU_MARGIN.min(max_percent / 4),
            Some(Lack::Memory { .. }) | None => 0,
        };
        (percent > max_percent - margin).then_some(Lack::Cpu { percent, max_percent })
    }

    fn lack_of_memory(&self, load: &MachineLoad, before: Option<&Lack>) -> Option<Lack> {
        let needed_bytes = self.memory_min_bytes?;
        let available_bytes = load.memory_available_bytes?;
        let margin = match before {
            Some(Lack::Memory { .. }) => MEMORY_MARGIN.min(needed_bytes / 100),
            Some(Lack::Cpu { .. }) | None => 0,
        };
        (available_bytes < needed_bytes.saturating_add(margin))
            .then_some(Lack::Memory { available_bytes, needed_bytes })
    }
}

impl Lack {
    /// Whether saying this after `said` tells anything new: another sort of lack or another bound, or
    /// figures that moved by a tenth of the bound.
    pub fn is_news_after(&self, said: &Self) -> bool {
        match (*self, *said) {
            (
                Self::Cpu { percent, max_percent },
                Self::Cpu { percent: before, max_percent: max_before },
            ) => max_percent != max_before || percent.abs_diff(before) >= 10,
            (
                Self::Memory { available_bytes, needed_bytes },
                Self::Memory { available_bytes: before, needed_bytes: needed_before },
            ) => {
                needed_bytes != needed_before
                    || available_bytes.abs_diff(before) > (needed_bytes / 10).max(MIB)
            }
            (Self::Cpu { .. }, Self::Memory { .. }) | (Self::Memory { .. }, Self::Cpu { .. }) => {
                true
            }
        }
    }

    /// Why work fails that is not to wait for a machine with room.
    pub fn refusal(&self) -> String {
        match self {
            Self::Cpu { percent, .. } => {
                format!("Insufficient system resources: CPU usage too high: {percent}%")
            }
            Self::Memory { available_bytes, .. } => format!(
                "Insufficient system resources: available memory too low: {}",
                size(*available_bytes)
            ),
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu { percent, max_percent } => write!(f, "cpu {percent} % of {max_percent} %"),
            Self::Memory { available_bytes, needed_bytes } => {
                write!(
                    f,
                    "memory {} of {} free needed",
                    size(*available_bytes),
                    size(*needed_bytes)
                )
            }
        }
    }
}

fn whole_percent(percent: f64) -> u8 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped before; what is not a number becomes 0"
    )]
    let whole = percent.clamp(0.0, 100.0).round() as u8;
    whole
}

/// `1.2 GiB`, `512 MiB`: rounded down, so that what is too little never looks enough.
fn size(bytes: u64) -> String {
    let (unit, name) = if bytes < GIB { (MIB, "MiB") } else { (GIB, "GiB") };
    let tenths = u128::from(bytes) * 10 / u128::from(unit);
    match tenths % 10 {
        0 => format!("{} {name}", tenths / 10),
        tenth => format!("{}.{tenth} {name}", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATE: ResourceGate = ResourceGate {
        cpu_max_percent: Some(80),
        memory_min_bytes: Some(4 * GIB),
        when_short: WhenShort::Wait,
    };

    fn load(cpu_percent: f64, available: u64) -> MachineLoad {
        MachineLoad { cpu_percent: Some(cpu_percent), memory_available_bytes: Some(available) }
    }

    fn said(gate: ResourceGate, load: &MachineLoad, before: Option<&Lack>) -> Option<String> {
        gate.lack(load, before).map(|lack| lack.to_string())
    }

    #[test]
    fn a_machine_is_short_above_the_one_bound_and_below_the_other() {
        assert_eq!(said(GATE, &load(80.0, 4 * GIB), None), None);
        assert_eq!(said(GATE, &load(80.4, 4 * GIB), None), None, "in whole percent");
        let cpu = said(GATE, &load(93.0, 4 * GIB), None);
        assert_eq!(cpu.as_deref(), Some("cpu 93 % of 80 %"));
        let memory = said(GATE, &load(10.0, GIB + GIB / 4), None);
        assert_eq!(memory.as_deref(), Some("memory 1.2 GiB of 4 GiB free needed"));
        let both = said(GATE, &load(93.0, 0), None);
        assert_eq!(both.as_deref(), Some("cpu 93 % of 80 %"));
    }

    #[test]
    fn what_is_not_set_or_not_known_is_no_shortage() {
        let open = ResourceGate { cpu_max_percent: None, memory_min_bytes: None, ..GATE };
        assert_eq!(open.lack(&load(100.0, 0), None), None);
        assert_eq!(GATE.lack(&MachineLoad::default(), None), None);
        assert_eq!(GATE.lack(&load(f64::NAN, 4 * GIB), None), None);
    }

    #[test]
    fn a_shortage_is_over_only_with_some_room_to_spare() {
        let cpu = GATE.lack(&load(93.0, 4 * GIB), None).expect("short");
        assert!(GATE.lack(&load(78.0, 4 * GIB), Some(&cpu)).is_some());
        assert_eq!(GATE.lack(&load(77.0, 4 * GIB), Some(&cpu)), None);
        let memory = GATE.lack(&load(0.0, GIB), None).expect("short");
        assert!(GATE.lack(&load(0.0, 4 * GIB), Some(&memory)).is_some());
        assert_eq!(GATE.lack(&load(0.0, 4 * GIB + 64 * MIB), Some(&memory)), None);
    }

    #[test]
    fn every_bound_can_be_met_again() {
        for max_percent in 1..=100 {
            let gate = ResourceGate { cpu_max_percent: Some(max_percent), ..GATE };
            let before = Lack::Cpu { percent: 100, max_percent };
            assert_eq!(gate.lack(&load(0.0, 5 * GIB), Some(&before)), None, "{max_percent}");
        }
    }

    #[test]
    fn only_what_moved_is_news() {
        let cpu = |percent| Lack::Cpu { percent, max_percent: 80 };
        assert!(!cpu(93).is_news_after(&cpu(85)));
        assert!(cpu(95).is_news_after(&cpu(85)));
        let memory = |available_bytes| Lack::Memory { available_bytes, needed_bytes: 4 * GIB };
        assert!(!memory(2 * GIB).is_news_after(&memory(2 * GIB + 100 * MIB)));
        assert!(memory(GIB).is_news_after(&memory(2 * GIB)));
        assert!(memory(GIB).is_news_after(&cpu(95)));
    }

    #[test]
    fn a_refusal_names_the_figure() {
        let cpu = Lack::Cpu { percent: 95, max_percent: 80 };
        assert_eq!(cpu.refusal(), "Insufficient system resources: CPU usage too high: 95%");
        let memory = Lack::Memory { available_bytes: GIB + GIB / 4, needed_bytes: 4 * GIB };
        assert_eq!(
            memory.refusal(),
            "Insufficient system resources: available memory too low: 1.2 GiB"
        );
    }

    #[test]
    fn sizes_are_rounded_down() {
        assert_eq!(size(4 * GIB - 1), "3.9 GiB");
        assert_eq!(size(GIB - 1), "1023.9 MiB");
        assert_eq!(size(0), "0 MiB");
        assert_eq!(size(u64::MAX), "17179869183.9 GiB");
    }
}
