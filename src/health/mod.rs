//! What is said about the agent to those who look after it.
//!
//! [`notify`] speaks systemd's protocol to whoever started the agent. It asks
//! the line nothing: it is told what the line knows of itself.

pub mod notify;
