//! What is said about the agent to those who look after it.
//!
//! [`notify`] speaks systemd's protocol to whoever started the agent;
//! [`watchdog`] judges whether the line still lives. Neither asks the line
//! anything: they are told what it knows of itself.

pub mod notify;
pub mod watchdog;
