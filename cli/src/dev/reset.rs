//! `longshore dev --reset`: stop every task of an instance and remove every trace of it.
//!
//! The agent's crate knows what an instance has on a host and removes it; here it is told to people.
