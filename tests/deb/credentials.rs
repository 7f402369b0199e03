//! Each documented way for credentials to reach the service.
