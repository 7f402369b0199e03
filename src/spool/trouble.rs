//! Trouble that comes and goes: said once each time, and tried again ever more
//! seldom.

/// What failed is tried again after this long, then after twice that, and so
/// on.
const FIRST_RETRY_MS: u64 = 1_000;
const LAST_RETRY_MS: u64 = 60_000;

/// Tries that a medium which fails to read gets, with such a wait before each
/// but the first: ten minutes. A cable, a card in a loose slot or a controller
/// that resets is back by then; after that the rest counts without what fails.
pub const PATIENCE: u32 = 16;

/// When something that failed may be tried again.
#[derive(Default)]
pub struct Backoff {
    failures: u32,
    /// Boot time (ms).
    pub until_ms: u64,
}

impl Backoff {
    pub fn failed(&mut self, now_ms: u64) {
        self.until_ms = now_ms + wait_ms(self.failures);
        self.failures += 1;
    }
}

/// How long to wait for the next try after `failures` that went before the last.
pub fn wait_ms(failures: u32) -> u64 {
    (FIRST_RETRY_MS << failures.min(16)).min(LAST_RETRY_MS)
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
