//! SVHN, cropped digits. Source: Netzer et al. 2011, <http://ufldl.stanford.edu/housenumbers/>.
//!
//! `X` is (32, 32, 3, n) with the row varying fastest, `y` is (n, 1); label 10 is the digit 0.

use std::path::Path;

use super::folder::{self, FolderLayout};
use super::image_set::{DataSet, ImageSet, PixelArray};
use super::{idx, mat};
use crate::error::{Error, Result};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const FILES: [&str; 2] = ["train_32x32.mat", "test_32x32.mat"];

/// The set from `dir` or its usual sub-folders.
///
/// # Errors
/// As [`super::load`].
pub fn load(dir: &str) -> Result<DataSet> {
    let dir = folder::open(dir, "svhn")?;
    let layout = FolderLayout { folders: &["", "svhn", "SVHN"], files: &FILES, or_gz: false };
    let paths = layout.find(dir).ok_or_else(|| folder::not_found(dir, "svhn", &[layout.describe()]))?;
    let part = |path: &Path| read(&folder::read(path, folder::FILE_BYTES_MAX)?, path);
    DataSet::new("svhn", part(&paths[0])?, part(&paths[1])?, idx::digit_names())
}

/// The images and labels of one file; `path` is only for messages.
///
/// # Errors
/// `Error::File` as [`mat::array`], or for wrong extents or labels.
pub fn read(bytes: &[u8], path: &Path) -> Result<ImageSet> {
    let (x, y) = (mat::array(bytes, path, "X")?, mat::array(bytes, path, "y")?);
    let n = y.values.len();
    if x.dims.get(..3) != Some(&[SIDE, SIDE, 3]) || x.values.len() != n * 3 * PLANE || n == 0 {
        let (x, y) = (&x.dims, &y.dims);
        return Err(Error::file(path, format!("`X` must be 32x32x3xn for n labels, found {x:?} for {y:?}")));
    }
    if let Some(i) = y.values.iter().position(|label| !(1..=10).contains(label)) {
        let found = y.values[i];
        return Err(Error::file(path, format!("`y`: label {i} must be from 1 to 10, found {found}")));
    }
    let mut pixels = Vec::with_capacity(x.values.len());
    for image in x.values.chunks_exact(3 * PLANE) {
        for (row, column) in (0..PLANE).map(|i| (i / SIDE, i % SIDE)) {
            pixels.extend((0..3).map(|channel| image[channel * PLANE + column * SIDE + row]));
        }
    }
    let pixels = PixelArray { height: SIDE, width: SIDE, channels: 3, bytes: pixels };
    Ok(ImageSet::in_memory(pixels, y.values.iter().map(|&label| u32::from(label % 10)).collect()))
}
