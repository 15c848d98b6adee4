//! The kernels that this program holds.

/// Images start where the driver may read words of any size. (Not used where nvcc was missing.)
#[allow(dead_code)]
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

#[allow(unused_macros)]
macro_rules! aligned {
    ($path:literal) => {{
        static IMAGE: &Aligned<[u8]> = &Aligned(*include_bytes!($path));
        &IMAGE.0
    }};
}
include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The image of `kernels/<op>.cu`; `None` if the program was built without nvcc, or there is no such
/// file.
pub fn image(op: &str) -> Option<&'static [u8]> {
    IMAGES.iter().find(|(name, _)| *name == op).and_then(|(_, image)| *image)
}
