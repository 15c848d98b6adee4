//! Token sequences on slices.

use crate::ops::float::{Float, for_rows};
use crate::ops::matmul::Write;
use std::ops::Range;

pub fn embed<T: Float>(x: &mut [T], patches: &[T], cls: &[T], positions: &[T]) {
    let c = cls.len();
    let t = positions.len() / c;
    for_rows(
        x,
        c,
        #[inline(always)]
        |first, x| {
            for (i, x) in x.chunks_exact_mut(c).enumerate() {
                let (b, row) = ((first + i) / t, (first + i) % t);
                let source = if row == 0 { cls } else { &patches[(b * (t - 1) + row - 1) * c..][..c] };
                let position = &positions[row * c..][..c];
                for j in 0..c {
                    x[j] = source[j] + position[j];
                }
            }
        },
    );
}

pub fn sum_images_acc<T: Float>(sum: &mut [T], x: &[T], t: usize, c: usize, from: usize) {
    for_rows(
        sum,
        c,
        #[inline(always)]
        |first, sum| {
            for (i, sum) in sum.chunks_exact_mut(c).enumerate() {
                for image in x.chunks_exact(t * c) {
                    let row = &image[(from + first + i) * c..][..c];
                    for j in 0..c {
                        sum[j] += row[j];
                    }
                }
            }
        },
    );
}

pub fn copy<T: Float>(y: (&mut [T], usize, usize), x: (&[T], usize, Range<usize>), c: usize, write: Write) {
    let ((y, ty, to), (x, tx, from)) = (y, x);
    let n = from.len() * c;
    for_rows(
        y,
        ty * c,
        #[inline(always)]
        |first, y| {
            for (i, y) in y.chunks_exact_mut(ty * c).enumerate() {
                let x = &x[((first + i) * tx + from.start) * c..][..n];
                let y = &mut y[to * c..][..n];
                match write {
                    Write::Set => y.copy_from_slice(x),
                    Write::Add => y.iter_mut().zip(x).for_each(|(y, &x)| *y += x),
                }
            }
        },
    );
}
