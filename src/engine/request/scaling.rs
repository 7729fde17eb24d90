//! What the service tells whoever decides how many replicas there are to be.

/// Whether more replicas would help, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Scaling {
    /// What keeps ready work from starting.
    pub bottleneck: Bottleneck,
    /// How many executions more replicas could start at once.
    pub pending_for_replicas: u64,
    /// The same for people.
    pub message: String,
    /// Attempts at all live replicas as a share of their slots; 0 if there are none.
    pub utilisation: f64,
    /// How many more attempts the live replicas could run.
    pub spare_slots: u64,
    /// Replicas that take work.
    pub live_replicas: u32,
    /// How many replicas like these could run what runs and what more of them could start.
    pub desired_replicas: u32,
}

/// What keeps ready work from starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bottleneck {
    /// Nothing does.
    None,
    /// All slots of all live replicas are in use.
    Slots,
    /// Its provider runs as many as its limit admits.
    ProviderLimit,
    /// Its provider's gate is not open.
    ProviderGate,
    /// Its provider's budget of requests or tokens is spent.
    Rate,
    /// The machines of the live replicas have too little left.
    Machine,
}
