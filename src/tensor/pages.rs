//! Large memory pages for large buffers. A row-wise walk through a matrix of 12 kB rows meets a new
//! page every row; with pages of 2 MiB the address translations stay in the processor.

/// From here a buffer holds at least one large page for certain.
const LARGE_FROM_BYTES: usize = 4 << 20;

/// Asks the system to back `values` with large pages, which must not have been written to yet. Advice
/// only: where it is not taken, nothing changes.
#[cfg(target_os = "linux")]
pub fn large<T>(mut values: Vec<T>) -> Vec<T> {
    use rustix::mm::{Advice, madvise};
    let bytes = std::mem::size_of_val(values.as_slice());
    if bytes < LARGE_FROM_BYTES {
        return values;
    }
    let page = rustix::param::page_size();
    let start = values.as_mut_ptr().cast::<u8>();
    let skip = start.align_offset(page);
    let len = (bytes - skip) / page * page;
    // SAFETY: the whole pages between `start + skip` and the end belong to `values`, and this advice
    // does not change what they hold.
    let _ = unsafe { madvise(start.add(skip).cast(), len, Advice::LinuxHugepage) };
    values
}

#[cfg(not(target_os = "linux"))]
pub fn large<T>(values: Vec<T>) -> Vec<T> {
    values
}
