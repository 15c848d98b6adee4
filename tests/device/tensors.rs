//! Tensors in the memory of a device, and the border between 16 and 32 bits.

use super::device;
use l2p_engine::device::Device;
use l2p_engine::ops::axpy;
use l2p_engine::tensor::{DType, Tensor};

/// Every number of 16 bits to f32 and back, and f32 numbers that lie between.
#[test]
fn rounding_is_that_of_the_cpu() {
    let Some(gpu) = device() else { return };
    rounding(&Device::Cuda(gpu));
}

pub fn rounding(dev: &Device) {
    let all: Vec<f32> = (0..=u16::MAX).map(|high| f32::from_bits(u32::from(high) << 16 | 0x8000)).collect();
    let between = Tensor::from_vec(all, [1 << 16]);
    for dtype in [DType::BF16, DType::F16] {
        let (mut here, mut there) = (Tensor::zeros([1 << 16], dtype), None);
        axpy::cast(&Device::Cpu, here.view_mut(), between.view()).expect("rounded");
        let narrow = there.insert(Tensor::zeros_on(dev, [1 << 16], dtype).expect("memory"));
        axpy::cast(dev, narrow.view_mut(), between.to(dev).expect("a copy").view()).expect("rounded");
        let same = |a: &Tensor, b: &Tensor| {
            let pairs = a.to_f64().into_iter().zip(b.to_f64());
            pairs.enumerate().find(|(_, (a, b))| a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan()))
        };
        assert_eq!(same(&here, narrow), None, "{dtype:?}");
        let mut back = Tensor::zeros_on(dev, [1 << 16], DType::F32).expect("memory");
        axpy::cast(dev, back.view_mut(), narrow.view()).expect("widened");
        assert_eq!(same(&here, &back), None, "{dtype:?}");
    }
}

#[test]
fn tensors_are_filled_copied_and_refused() {
    let Some(gpu) = device() else { return };
    let dev = Device::Cuda(gpu);
    for dtype in [DType::F32, DType::BF16, DType::F16, DType::U32, DType::U8] {
        let mut x = Tensor::zeros_on(&dev, [3, 5], dtype).expect("memory");
        assert_eq!(x.to_f64(), [0.0; 15]);
        x.view_mut().part(5, [5]).fill(7.0);
        let mut wanted = vec![0.0; 15];
        wanted[5..10].fill(7.0);
        assert_eq!(x.to_f64(), wanted);
        let mut y = x.clone();
        y.view_mut().part(0, [5]).copy_from(x.view().part(5, [5])).expect("a copy");
        assert_eq!((y.to_f64()[..10].to_vec(), x.to_f64()), (vec![7.0; 10], wanted.clone()));
        let mut host = Tensor::zeros([15], dtype);
        host.view_mut().copy_from(y.view().reshaped([15])).expect("a copy");
        assert_eq!(host.to_f64(), y.to_f64());
    }
    let x = Tensor::zeros_on(&dev, [2], DType::F32).expect("memory");
    let host = x.view().get::<f32>("test", "x").expect_err("is on the device").to_string();
    assert_eq!(host, "test: `x` must be F32, got F32 in GPU memory");
    let error = Tensor::zeros_on(&dev, [2], DType::F64).expect_err("f64").to_string();
    assert_eq!(error, "cuda:0: F64 tensors live on the CPU only");
    let (mut y, x) = (Tensor::zeros([2], DType::F32), x);
    let error = axpy::axpy(&dev, y.view_mut(), x.view(), 1.0).expect_err("host memory").to_string();
    assert_eq!(error, "axpy: `y` must be in GPU memory, got host memory");
}
