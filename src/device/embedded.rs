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

/// The version of this program and a checksum of all images, which another build of the kernels changes.
pub fn build() -> String {
    let add = |sum: u32, (op, image): &(&'static str, Option<&'static [u8]>)| {
        let named = crc32c::crc32c_append(sum, op.as_bytes());
        crc32c::crc32c_append(named, image.unwrap_or_default())
    };
    format!("{} {:08x}", env!("CARGO_PKG_VERSION"), IMAGES.iter().fold(0, add))
}
