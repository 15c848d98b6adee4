//! Where this process stands among those that were launched together.

use std::time::Duration;

/// The processes of a launch and how they find each other.
#[derive(Debug, Clone)]
pub struct Launch {
    /// How long a rank may say nothing while it is not in a call, and a process nothing at all.
    pub rank_timeout: Duration,
    /// How long ranks have to come back after a failure before the process ends without them.
    pub grace: Duration,
}

impl Launch {
    /// This process and no other.
    pub fn single() -> Launch {
        Launch { rank_timeout: Duration::from_secs(600), grace: Duration::from_secs(60) }
    }

    /// Whether this process is the only one.
    pub fn is_single(&self) -> bool {
        true
    }
}
