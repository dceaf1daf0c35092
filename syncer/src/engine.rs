//! The engine: attaches tenants, lets informers fill the index, and works on keys by turn.
