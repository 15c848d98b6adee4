//! The erf form of GELU over the whole range of both types, to the last digits.

use super::{DEV, f64s, random};
use l2p_engine::ops::gelu::{self, GeluForm};
use l2p_engine::ops::linear::{self, Epilogue, LinearWeights};
use l2p_engine::ops::matmul::Write;
use l2p_engine::tensor::{DType, Tensor};

/// Values and slopes at the same places.
struct Pair<T> {
    value: T,
    slope: T,
}

fn erf_form(x: &Tensor) -> Pair<Tensor> {
    let mut value = Tensor::zeros(x.shape(), x.dtype());
    value.fill(f64::NAN);
    let mut slope = Tensor::from_f64(&vec![1.0; x.shape().len()], x.shape(), x.dtype());
    gelu::forward(&DEV, value.view_mut(), x.view(), GeluForm::Erf).expect("values");
    gelu::backward_in_place(&DEV, slope.view_mut(), x.view(), GeluForm::Erf).expect("slopes");
    Pair { value, slope }
}

fn f32_pairs(x: &[f32]) -> Vec<Pair<f32>> {
    let got = erf_form(&Tensor::from_vec(x.to_vec(), [x.len()]));
    let all = |t: &Tensor| t.to_f64().iter().map(|&v| v as f32).collect::<Vec<_>>();
    let pairs = all(&got.value).into_iter().zip(all(&got.slope));
    pairs.map(|(value, slope)| Pair { value, slope }).collect()
}

fn f64_pairs(x: &[f64]) -> Vec<Pair<f64>> {
    let got = erf_form(&f64s(x, [x.len()]));
    let pairs = got.value.to_f64().into_iter().zip(got.slope.to_f64());
    pairs.map(|(value, slope)| Pair { value, slope }).collect()
}

/// From the library's erfc and exp in f64, and what their arguments lose to rounding put back.
fn reference(x: f64) -> Pair<f64> {
    const ROOT: [f64; 2] = [std::f64::consts::FRAC_1_SQRT_2, -4.833_646_656_726_457e-17];
    let a = x.abs();
    let z = a * ROOT[0];
    let lost = a.mul_add(ROOT[0], -z) + a * ROOT[1];
    let tail = 0.5 * (libm::erfc(z) - std::f64::consts::FRAC_2_SQRT_PI * libm::exp(-z * z) * lost);
    let square = a * a;
    let lost = a.mul_add(a, -square);
    let density = 0.398_942_280_401_432_7 * libm::exp(-0.5 * square) * (1.0 - 0.5 * lost);
    let slope = tail - a * density;
    match x < 0.0 {
        true => Pair { value: x * tail, slope },
        false => Pair { value: x - x * tail, slope: 1.0 - slope },
    }
}

/// A difference in units of the last place that a type has at `wanted`.
fn ulp(difference: f64, wanted: f64, (bits, smallest): (i32, i32)) -> f64 {
    let exponent = if wanted == 0.0 { smallest } else { libm::ilogb(wanted).max(smallest) };
    libm::scalbn(difference.abs(), bits - exponent)
}

fn ulp_f32(got: f32, wanted: f64) -> f64 {
    ulp(f64::from(got) - wanted, wanted, (23, -126))
}

fn ulp_f64(difference: f64, wanted: f64) -> f64 {
    ulp(difference, wanted, (52, -1022))
}

/// The largest error so far and where it is; NaN is larger than any.
fn keep_worse(worst: &mut (f64, f64), error: f64, x: f64) {
    if !(error <= worst.0) {
        *worst = (error, x);
    }
}

/// Every exponent, both signs, subnormal numbers too; more of those around 1, where everything happens.
#[test]
fn f32_is_within_two_ulp_everywhere() {
    let every = (0..=u32::MAX).step_by(1999).map(f32::from_bits);
    let busy = (0x3d00_0000..0x4180_0000u32).step_by(41).flat_map(|b| [b, b | 1 << 31]).map(f32::from_bits);
    let all: Vec<f32> = every.chain(busy).filter(|x| x.is_finite()).collect();
    let mut worst = [(0f64, 0f64); 2];
    for x in all.chunks(1 << 16) {
        for (&x, got) in x.iter().zip(f32_pairs(x)) {
            let wanted = reference(f64::from(x));
            keep_worse(&mut worst[0], ulp_f32(got.value, wanted.value), f64::from(x));
            keep_worse(&mut worst[1], ulp_f32(got.slope, wanted.slope), f64::from(x));
            assert_eq!(got.value.is_sign_negative(), x.is_sign_negative(), "the sign of gelu({x:e})");
        }
    }
    let [value, slope] = worst;
    assert!(value.0 <= 2.0, "gelu({:e}) is off by {} ulp", value.1, value.0);
    assert!(slope.0 <= 2.0, "gelu'({:e}) is off by {} ulp", slope.1, slope.0);
}

#[test]
fn f64_is_within_four_ulp_of_the_library() {
    let busy =
        (0x3e10_0000_0000_0000..0x4090_0000_0000_0000u64).step_by(0x8_7654_3210_fedc).map(f64::from_bits);
    let tail = (0..1 << 17).map(|i| f64::from(i) * (37.5 / f64::from(1 << 17)));
    let all: Vec<f64> = busy.chain(tail).filter(|&a| a < 37.5).flat_map(|a| [a, -a]).collect();
    let mut worst = [(0f64, 0f64); 2];
    for (&x, got) in all.iter().zip(f64_pairs(&all)) {
        let wanted = reference(x);
        keep_worse(&mut worst[0], ulp_f64(got.value - wanted.value, wanted.value), x);
        // The reference is a difference: it has the digits of its larger term.
        let larger = wanted.slope.abs().max(reference(-x.abs()).value.abs() / x.abs());
        keep_worse(&mut worst[1], ulp_f64(got.slope - wanted.slope, larger), x);
    }
    let [value, slope] = worst;
    assert!(value.0 <= 4.0, "gelu({:e}) is off by {} ulp", value.1, value.0);
    assert!(slope.0 <= 4.0, "gelu'({:e}) is off by {} ulp", slope.1, slope.0);
}

/// (x, gelu(x), gelu'(x)), around the root of the slope and in both tails. Python, mpmath at 400 bits, for each x:
/// p = erfc(-x / sqrt(2)) / 2; (float(x), float(x * p), float(p + x * exp(-x * x / 2) / sqrt(2 * pi)))
const LITERALS: [(f64, f64, f64); 33] = [
    (1e-300, 5e-301, 0.5),
    (-1e-300, -5e-301, 0.5),
    (-0.03125, -0.015235471330175715, 0.4750742221932489),
    (0.001, 0.000500398942213911, 0.5007978842948414),
    (-0.001, -0.000499601057786089, 0.4992021157051586),
    (0.3, 0.1853734266566858, 0.7323277668271099),
    (-0.3, -0.1146265733433142, 0.26767223317289013),
    (-0.625, -0.16624095565543784, 0.06088492370471613),
    (-0.75, -0.16997051428265114, 0.0007742782607648957),
    (-0.7517, -0.16997120567254156, 3.94956079812864e-05),
    (-0.7517915, -0.16997120747990352, 1.065512497231613e-08),
    (-0.7517915246935645, -0.16997120747990366, -6.453751729367753e-18),
    (0.7517915246935645, 0.5818203172136608, 1.0),
    (-0.76, -0.16995674225257557, -0.0035157359521246637),
    (-0.9080422089843752, -0.1651982673862776, -0.05793841562622149),
    (1.0, 0.8413447460685429, 1.0833154705876864),
    (-1.0, -0.15865525393145705, -0.0833154705876863),
    (-1.5, -0.1002108019032871, -0.12746919222997952),
    (-1.8558401, -0.05890098062661992, -0.10056326743026937),
    (2.5, 2.4844758366855597, 1.037611085908145),
    (-2.5, -0.015524163314440337, -0.03761108590814521),
    (-4.0, -0.0001266849673324797, -0.0005036496612264215),
    (-5.5, -1.0444259356238245e-07, -5.733472398739924e-07),
    (6.0, 5.999999994080474, 1.0000000354687095),
    (-8.25, -6.533774209580044e-16, -5.388191138027795e-15),
    (8.5, 8.5, 1.0000000000000007),
    (-12.0, -2.1317785344932147e-32, -2.5578956616748956e-31),
    (-17.3, -4.068863913739972e-66, -7.038979965265607e-65),
    (-25.0, -7.641741765956403e-137, -1.9104257373984655e-135),
    (-30.90955665668167, -1.3735113592409951e-208, -4.2454534638516605e-207),
    (-33.1, -4.918423401081652e-239, -1.6279954455405342e-237),
    (-37.5, -1.7270073785932332e-306, -6.476271143055812e-305),
    (-38.3, -1.17355e-319, -4.49466e-318),
];

#[test]
fn f64_literals() {
    let x: Vec<f64> = LITERALS.iter().map(|l| l.0).collect();
    for ((x, value, slope), got) in LITERALS.into_iter().zip(f64_pairs(&x)) {
        let value = ulp_f64(got.value - value, value);
        let slope = ulp_f64(got.slope - slope, slope);
        assert!(value <= 1.5 && slope <= 1.5, "x = {x:e}: {value} and {slope} ulp");
    }
}

#[test]
fn ends_of_the_range() {
    let x = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN];
    let value = [0.0, -0.0, f32::INFINITY, -0.0, f32::MAX, -0.0];
    let slope = [0.5f32, 0.5, 1.0, -0.0, 1.0, -0.0];
    for (i, got) in f32_pairs(&x).iter().enumerate() {
        assert_eq!(got.value.to_bits(), value[i].to_bits(), "gelu({:e}) is {:e}", x[i], got.value);
        assert_eq!(got.slope.to_bits(), slope[i].to_bits(), "gelu'({:e}) is {:e}", x[i], got.slope);
    }
    let x = [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN];
    let value = [0.0, -0.0, f64::INFINITY, -0.0, f64::MAX, -0.0];
    for (i, got) in f64_pairs(&x).iter().enumerate() {
        assert_eq!(got.value.to_bits(), value[i].to_bits(), "gelu({:e}) is {:e}", x[i], got.value);
        assert_eq!(
            got.slope.to_bits(),
            f64::from(slope[i]).to_bits(),
            "gelu'({:e}) is {:e}",
            x[i],
            got.slope
        );
    }
    for x in [f32::NAN, -f32::NAN] {
        assert!(f32_pairs(&[x])[0].value.is_nan() && f32_pairs(&[x])[0].slope.is_nan());
        let x = f64::from(x);
        assert!(f64_pairs(&[x])[0].value.is_nan() && f64_pairs(&[x])[0].slope.is_nan());
    }
}

/// The ending of a large product gives the bits of the op by itself.
#[test]
fn an_epilogue_is_the_op() {
    let (b, t, k, n) = (2, 70, 512, 640);
    for dtype in [DType::F32, DType::F64] {
        let (x, kernel) = (random(1, [b, t, k], dtype), random(2, [k, n], dtype));
        let (bias, mut y, mut pre) =
            (random(3, [n], dtype), random(4, [b, t, n], dtype), random(5, [b, t, n], dtype));
        let weights = LinearWeights::all(kernel.view(), bias.view());
        let ending = Epilogue::Gelu { pre: Some(pre.view_mut()), form: GeluForm::Erf };
        linear::forward(&DEV, y.view_mut(), x.view(), &weights, ending).expect("forward");
        assert_eq!(y.to_f64(), erf_form(&pre).value.to_f64(), "forward in {dtype:?}");

        let (dy, unscaled) = (&y, &mut random(6, [b, t, k], dtype));
        let pre = random(7, [b, t, k], dtype);
        let mut dx = random(8, [b, t, k], dtype);
        linear::backward_input_gelu(&DEV, dx.view_mut(), dy.view(), &weights, pre.view(), GeluForm::Erf)
            .expect("backward");
        linear::backward_input(&DEV, unscaled.view_mut(), dy.view(), &weights, Write::Set).expect("backward");
        gelu::backward_in_place(&DEV, unscaled.view_mut(), pre.view(), GeluForm::Erf).expect("slope");
        assert_eq!(dx.to_f64(), unscaled.to_f64(), "backward in {dtype:?}");
    }
}
