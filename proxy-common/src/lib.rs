//! Shared plain data.
