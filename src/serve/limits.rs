//! What one client may ask for, so that no request takes the server down.

use std::time::Duration;

/// Bounds of a server. What is beyond them is refused with a sentence.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Images that the network answers for at once, and so the most of one request.
    pub batch: usize,
    /// The longest time that an image waits for others to be answered with.
    pub wait: Duration,
    /// Images that may wait, those that are being decoded included.
    pub queue: usize,
    /// Pixels of an image.
    pub pixels: u64,
    /// Bytes of an image file.
    pub file_bytes: usize,
    /// Bytes of a request to predict, and of one to teach as JSON.
    pub body_bytes: usize,
    /// Bytes of a request to teach as multipart, which is written to the disk image by image.
    pub upload_bytes: usize,
    /// Images of a class that is taught.
    pub class_images: usize,
    /// Classes of a version.
    pub classes: usize,
    /// Versions beside the original run.
    pub versions: usize,
    /// Characters of the name of a class.
    pub name_chars: usize,
    /// Open connections.
    pub connections: usize,
    /// Bytes of bodies that are being read, all requests together.
    pub reading_bytes: usize,
    /// A request head, the body of a request to predict, and that of one to teach must have come after this time.
    pub head_time: Duration,
    pub body_time: Duration,
    pub upload_time: Duration,
    /// The time that open requests have after a signal.
    pub drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            batch: 32,
            wait: Duration::from_millis(5),
            queue: 256,
            pixels: 25_000_000,
            file_bytes: 16 << 20,
            body_bytes: 32 << 20,
            upload_bytes: 512 << 20,
            class_images: 2000,
            classes: 1000,
            versions: 50,
            name_chars: 100,
            connections: 256,
            reading_bytes: 256 << 20,
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(30),
            upload_time: Duration::from_secs(600),
            drain_time: Duration::from_secs(30),
        }
    }
}
