//! The fair queue: one lane a tenant, weighted, O(1), never one key twice at once.
