//! Trouble that comes and goes: said once each time, and tried again ever more
//! seldom.

/// What failed is tried again after this long, then after twice that, and so
/// on.
const FIRST_RETRY_MS: u64 = 1_000;
const LAST_RETRY_MS: u64 = 60_000;

/// When something that failed may be tried again.
#[derive(Default)]
pub struct Backoff {
    failures: u32,
    /// Boot time (ms).
    pub until_ms: u64,
}

impl Backoff {
    pub fn failed(&mut self, now_ms: u64) {
        let wait_ms = FIRST_RETRY_MS << self.failures.min(16);
        self.failures += 1;
        self.until_ms = now_ms + wait_ms.min(LAST_RETRY_MS);
    }
}

/// Something that fails for a while: logged when it begins and when it ends.
pub struct Trouble {
    begins: &'static str,
    ends: &'static str,
    pub why: Option<String>,
}

impl Trouble {
    pub fn of(begins: &'static str, ends: &'static str) -> Self {
        Self { begins, ends, why: None }
    }

    pub fn is(&mut self, why: Option<String>) {
        match (&self.why, &why) {
            (None, Some(why)) => tracing::error!("the spool {}: {why}", self.begins),
            (Some(_), None) => tracing::info!("the spool {}", self.ends),
            _ => {}
        }
        self.why = why;
    }
}
