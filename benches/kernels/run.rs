//! The run: tensors, measurements, rivals, table and JSON.

#[path = "forecast.rs"]
pub mod forecast;
#[path = "measure.rs"]
mod measure;
#[path = "rival.rs"]
mod rival;
#[path = "rows.rs"]
mod rows;

use forecast::{CHIPS, Chip};
use l2p_engine::config::schema::Kernels;
use l2p_engine::device::{Device, ElementType, Gpu, StreamKind, probe};
use l2p_engine::ops::gelu::GeluForm;
use l2p_engine::output::atomic;
use l2p_engine::rng::{Rng, Stream};
use l2p_engine::tensor::{DType, Tensor, View, ViewMut};
use l2p_engine::testing::plain;
use l2p_engine::{Error, Result};
use measure::Times;
use rival::CublasLt;
use rows::{Bound, Fill, Of, Product, Row, Size, Slot, With};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

#[derive(Debug, Clone, clap::Parser)]
pub struct Args {
    /// Batch sizes, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "128,16")]
    pub batch: Vec<usize>,
    /// `bf16`, `f16`, `f32`: which forms are timed. f32 always runs once, for the errors of the others.
    #[arg(long, value_delimiter = ',', default_value = "bf16,f16")]
    pub forms: Vec<String>,
    /// Only rows whose stage or op contains this.
    #[arg(long)]
    pub only: Option<String>,
    /// Milliseconds of timed replays per row and form.
    #[arg(long, default_value_t = 40.0)]
    pub budget_ms: f64,
    /// Tiny shapes and few replays: whether it runs, not how fast.
    #[arg(long)]
    pub smoke: bool,
    /// The rows and what is predicted of them; nothing runs.
    #[arg(long)]
    pub list: bool,
    /// Whose predictions are shown: `h200`, `a100`, `rtx4090`, `rtx5090` [default: the GPU's own, or h200].
    #[arg(long)]
    pub chip: Option<String>,
    /// Also written as JSON, row by row.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Passed by `cargo bench`; ignored.
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// Elements of random numbers of each deviation and type; an odd number, so that rows of matrices differ.
const STOCK: usize = 4_000_037;
/// Elements at either end of an output that are compared with f32.
const SAMPLE: usize = 1 << 20;
/// Bytes that all sets of a row's tensors together have at least, in caches of the second level.
const CACHES: usize = 3;
const MOST_SETS: usize = 24;
const MOST_BYTES: usize = 8 << 30;
impl Args {
    /// The chip that predictions are for, beside a GPU of this name.
    pub fn chip(&self, gpu: &str) -> Result<&'static Chip> {
        let Some(word) = &self.chip else {
            return Ok(CHIPS.iter().find(|chip| gpu.starts_with(chip.name)).unwrap_or(&CHIPS[0]));
        };
        CHIPS.iter().find(|chip| chip.word == word).ok_or_else(|| {
            let known: Vec<&str> = CHIPS.iter().map(|chip| chip.word).collect();
            Error::failed(format!("--chip must be one of {}, found {word}", known.join(", ")))
        })
    }
}

/// How far a time may be from what was predicted before it is marked.
const SURPRISE: f64 = 1.15;

pub fn forms(args: &Args) -> Result<Vec<ElementType>> {
    let form = |word: &String| {
        let all = [ElementType::F32, ElementType::Bf16, ElementType::F16];
        let found = all.into_iter().find(|f| f.name() == word);
        found.ok_or_else(|| Error::config(format!("--forms: wanted f32, bf16 or f16, found `{word}`")))
    };
    args.forms.iter().map(form).collect()
}

pub fn sizes(args: &Args) -> Vec<Size> {
    if args.smoke {
        return vec![Size::TINY];
    }
    args.batch.iter().map(|&batch| Size { batch, ..Size::VIT_B }).collect()
}

pub fn wanted(args: &Args, size: &Size) -> Vec<Row> {
    let mut rows = rows::all(size);
    if let Some(only) = &args.only {
        rows.retain(|row| row.stage.contains(only) || row.op.contains(only));
    }
    rows
}

/// The forms that a row is timed in; those that have none in 16 bits are timed once.
pub fn forms_of(row: &Row, forms: &[ElementType]) -> Vec<ElementType> {
    if row.is_narrow() { forms.to_vec() } else { vec![ElementType::F32] }
}

/// What a large product and a large copy reach on this machine.
struct Peaks {
    copy_bytes_per_s: f64,
    /// By form; empty without cuBLASLt.
    flops_per_s: HashMap<ElementType, f64>,
    /// Of the same product by what the operands hold: power, and by that the clock, depends on it. With the seconds since
    /// 1970 that it took, by which a log of clock and power is read.
    by_data: Vec<Value>,
}

/// What the left operand of the large product holds. Where it is zero, the right one is, too.
const OPERANDS: [(&str, Fill); 3] =
    [("random", Fill::Normal(1.0)), ("after GELU", Fill::Activated), ("zeros", Fill::Constant(0.0))];

/// Budgets of such a product: about a second, in which clock and power settle.
const LONG: f64 = 25.0;

fn seconds_since_1970() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64())
}

struct Bench<'a> {
    gpu: &'a Arc<Gpu>,
    chip: &'static Chip,
    dev: Device,
    budget_ms: f64,
    smoke: bool,
    l2_bytes: usize,
    stock: Vec<((Option<u64>, DType), Tensor)>,
    lt: std::result::Result<CublasLt, String>,
    /// For plain copies.
    room: [Tensor; 2],
}

/// Times every wanted row in the given forms; prints as it goes. The answer is what `--json` writes; its
/// `failures` counts the rows that did not run or are not near f32.
///
/// # Errors
/// `Error::Failed` if the device fails as a whole. A row that fails is counted.
pub fn run(args: &Args, forms: &[ElementType], gpu: &Arc<Gpu>) -> Result<Value> {
    let found = probe::gpus().map_err(Error::failed)?.into_iter().next();
    let found = found.ok_or_else(|| Error::failed("no GPU"))?;
    let dev = Device::Cuda(gpu.clone());
    let room = if args.smoke { 1 << 16 } else { 1 << 30 };
    let room = || Tensor::zeros_on(&dev, [room], DType::U8);
    let chip = args.chip(&found.name)?;
    let mut bench = Bench {
        gpu,
        chip,
        dev: dev.clone(),
        budget_ms: if args.smoke { 0.0 } else { args.budget_ms },
        smoke: args.smoke,
        l2_bytes: found.l2_bytes,
        stock: Vec::new(),
        lt: CublasLt::open(gpu).map_err(|e| e.to_string()),
        room: [room()?, room()?],
    };
    let peaks = bench.peaks(forms)?;
    let about = json!({
        "bench": "kernels", "version": env!("CARGO_PKG_VERSION"), "smoke": args.smoke,
        "gpu": { "name": found.name, "multiprocessors": found.multiprocessors, "l2_bytes": found.l2_bytes,
            "memory_bytes": found.memory_bytes, "driver": probe::driver_version(),
            "compute_capability": format!("{}.{}", found.compute_capability.0, found.compute_capability.1) },
        "cublaslt": match &bench.lt { Ok(lt) => lt.path.clone(), Err(why) => why.clone() },
        "peaks": { "copy_bytes_per_s": peaks.copy_bytes_per_s, "flops_per_s":
            peaks.flops_per_s.iter().map(|(f, v)| (f.name().to_string(), json!(v))).collect::<serde_json::Map<_, _>>(),
            "by_data": peaks.by_data },
        "predictions_for": format!("{}, portable kernels", chip.name),
    });
    println!("{}, {} multiprocessors, L2 {} MiB", found.name, found.multiprocessors, found.l2_bytes >> 20);
    println!("copy: {:.0} GB/s read and written", peaks.copy_bytes_per_s / 1e9);
    match &bench.lt {
        Ok(lt) => println!("cuBLASLt: {}", lt.path),
        Err(why) => println!("{why}: its columns and the shares of products stay empty"),
    }
    for (form, flops) in &peaks.flops_per_s {
        println!("large product in {}: {:.0} TFLOP/s", form.name(), flops / 1e12);
    }
    let (mut all, mut steps, mut failures) = (Vec::new(), Vec::new(), 0);
    let whole = |rows: &[Value], steps: &[Value], failures: usize| {
        let mut json = about.clone();
        json["rows"] = json!(rows);
        json["steps"] = json!(steps);
        json["failures"] = json!(failures);
        json
    };
    for size in sizes(args) {
        println!("\nbatch {}", size.batch);
        println!("{}", header());
        let mut sums: Vec<Sum> = Vec::new();
        for &form in forms {
            let hopper = gpu.has_hopper() && form != ElementType::F32;
            let each = [Kernels::Portable].into_iter().chain(hopper.then_some(Kernels::Hopper));
            sums.extend(each.map(|kernels| Sum { form, kernels, us: 0.0, predicted: 0.0 }));
        }
        let mut complete = args.only.is_none();
        for row in wanted(args, &size) {
            let exact = if row.is_narrow() { Some(bench.once(&row, ElementType::F32)) } else { None };
            for form in forms_of(&row, forms) {
                let timed = bench.generations(&row, form)?;
                for &kernels in &timed {
                    let line = bench.row(&row, form, kernels, exact.as_ref(), &peaks);
                    let line = line.unwrap_or_else(|e| {
                        let (stage, shape, form, kernels) =
                            (row.stage, &row.shape, form.name(), kernels.word());
                        println!("{stage:<24} {shape:<28} {form:>5} {kernels:>8}  FAILED: {e}");
                        json!({ "stage": stage, "shape": shape, "form": form, "kernels": kernels,
                            "batch": row.batch, "error": e.to_string(), "ok": false })
                    });
                    failures += usize::from(line["ok"] != json!(true));
                    match line["us"].as_f64() {
                        None => complete = false,
                        Some(us) => {
                            let part = |s: &&mut Sum| {
                                (s.form == form || !row.is_narrow())
                                    && (s.kernels == kernels || !timed.contains(&s.kernels))
                            };
                            for sum in sums.iter_mut().filter(part) {
                                sum.us += row.times as f64 * us;
                                sum.predicted +=
                                    row.times as f64 * row.predicted_us(form, chip).unwrap_or(us);
                            }
                        }
                    }
                    all.push(line);
                    save(args.json.as_deref(), &whole(&all, &steps, failures))?;
                }
            }
        }
        for Sum { form, kernels, us, predicted } in sums.into_iter().filter(|_| complete) {
            let rate = |us: f64| size.batch as f64 / us * 1e6;
            // Predictions are for portable kernels.
            let predicted = (kernels == Kernels::Portable).then_some(predicted);
            let words = predicted.map_or(String::new(), |us| {
                format!("; predicted {:.2} ms = {:.0} images/s", us / 1e3, rate(us))
            });
            println!(
                "{kernels} kernels of a step in {}: {:.2} ms = {:.0} images/s{words}",
                form.name(),
                us / 1e3,
                rate(us)
            );
            steps.push(
                json!({ "batch": size.batch, "form": form.name(), "kernels": kernels.word(), "ms": us / 1e3,
                "predicted_ms": predicted.map(|us| us / 1e3) }),
            );
        }
    }
    let json = whole(&all, &steps, failures);
    save(args.json.as_deref(), &json)?;
    Ok(json)
}

fn save(path: Option<&Path>, json: &Value) -> Result<()> {
    path.map_or(Ok(()), |path| atomic::write(path, format!("{json:#}\n").as_bytes()))
}

fn header() -> String {
    format!(
        "{:<24} {:<28} {:>5} {:>8} {:>9} {:>19} {:>8} {:>7} {:>6} {:>6} {:>8} {:>9} {:>6}",
        "stage",
        "shape",
        "form",
        "kernels",
        "us",
        "p10 to p90",
        "TFLOP/s",
        "GB/s",
        "peak %",
        "rival",
        "error",
        "predicted",
        "ratio"
    )
}

fn error_limit(row: &Row, form: ElementType) -> f64 {
    let (bf16, f16) = match row.bound {
        Bound::AttentionBackward => (1.5e-2, 3e-3),
        Bound::AttentionForward => (5e-3, 1e-3),
        Bound::Product(_) | Bound::Memory => (2.5e-3, 4e-4),
    };
    match form {
        ElementType::F32 => 0.0,
        ElementType::Bf16 => bf16,
        ElementType::F16 => f16,
    }
}

/// ‖a - b‖ / ‖b‖; infinite where anything is not a number.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    let of = |f: &dyn Fn((&f64, &f64)) -> f64| a.iter().zip(b).map(f).sum::<f64>().sqrt();
    let (difference, size) = (of(&|(a, b)| (a - b) * (a - b)), of(&|(_, b)| b * b));
    let distance = if size == 0.0 { difference } else { difference / size };
    if a.len() == b.len() && distance.is_finite() { distance } else { f64::INFINITY }
}

/// The kernels of a step together, in microseconds.
struct Sum {
    form: ElementType,
    kernels: Kernels,
    us: f64,
    predicted: f64,
}

/// Something else that does the work of a row.
struct Rival {
    name: &'static str,
    us: f64,
}

/// One set of a row's tensors.
struct Set {
    ins: Vec<Tensor>,
    outs: Vec<Tensor>,
}

impl Set {
    fn views(&mut self) -> (Vec<View<'_>>, Vec<ViewMut<'_>>) {
        (self.ins.iter().map(Tensor::view).collect(), self.outs.iter_mut().map(Tensor::view_mut).collect())
    }

    /// The ends of every output.
    fn sample(&self) -> Result<Vec<Vec<f64>>> {
        let ends = |tensor: &Tensor| {
            let (view, n) = (tensor.view(), tensor.len());
            if n <= 2 * SAMPLE {
                return view.reshaped([n]).read_f64();
            }
            let mut values = view.part(0, [SAMPLE]).read_f64()?;
            values.extend(view.part(n - SAMPLE, [SAMPLE]).read_f64()?);
            Ok(values)
        };
        self.outs.iter().map(ends).collect()
    }
}

impl Bench<'_> {
    fn peaks(&mut self, forms: &[ElementType]) -> Result<Peaks> {
        let [to, from] = &mut self.room;
        let bytes = 2 * to.len();
        let times = measure::time(self.gpu, self.budget_ms, 1, |_| to.view_mut().copy_from(from.view()))?;
        let copy_bytes_per_s = bytes as f64 / times.median * 1e6;
        let (mut flops_per_s, mut by_data) = (HashMap::new(), Vec::new());
        for &form in forms {
            let Some((flops, _)) = self.large_product(form, Fill::Normal(1.0), 2.0)? else { continue };
            flops_per_s.insert(form, flops);
            if form == ElementType::F32 {
                continue;
            }
            for (data, fill) in OPERANDS {
                let long = self.large_product(form, fill, LONG)?;
                let (flops, [begun, ended]) = long.expect("cuBLASLt, as above");
                by_data.push(
                    json!({ "form": form.name(), "data": data, "flops_per_s": flops, "begun": begun, "ended": ended }),
                );
            }
        }
        Ok(Peaks { copy_bytes_per_s, flops_per_s, by_data })
    }

    /// Operations per second of a large product by cuBLASLt in so many times the budget, and when it began and ended; `None`
    /// without cuBLASLt.
    fn large_product(
        &mut self,
        form: ElementType,
        left: Fill,
        budgets: f64,
    ) -> Result<Option<(f64, [f64; 2])>> {
        let side = if self.smoke { 64 } else { 8192 };
        let side = if form == ElementType::F32 { side / 2 } else { side };
        let product = Product { m: side, k: side, n: side, back: false, ending: With::Nothing };
        let slot = |fill| Slot { shape: [side, side].into(), of: Of::T, fill };
        let right = if left == Fill::Constant(0.0) { left } else { Fill::Normal(0.03) };
        let mut set = self.set(&[slot(left), slot(right)], &[slot(Fill::Anything)], form, 0)?;
        let Ok(lt) = &self.lt else { return Ok(None) };
        let call = lt.prepare(product, form)?;
        let begun = seconds_since_1970();
        let times = measure::time(self.gpu, budgets * self.budget_ms, 1, |_| {
            let (ins, outs) = set.views();
            call.queue(&ins, ins[0], outs)
        })?;
        let flops = 2.0 * (side as f64).powi(3) / times.median * 1e6;
        Ok(Some((flops, [begun, seconds_since_1970()])))
    }

    /// Random numbers of this deviation, or GELU of those of deviation 1, on the device.
    fn stock(&mut self, deviation: Option<f64>, dtype: DType) -> Result<&Tensor> {
        let n = if self.smoke { 4999 } else { STOCK };
        let key = (deviation.map(f64::to_bits), dtype);
        if !self.stock.iter().any(|(k, _)| *k == key) {
            let mut rng = Rng::new(7, Stream::Test, deviation.unwrap_or(1.0).to_bits());
            let mut number = || match (deviation, rng.normal()) {
                (Some(deviation), x) => deviation * x,
                (None, x) => plain::gelu(x, GeluForm::Tanh).0,
            };
            let values: Vec<f64> = (0..n).map(|_| half::bf16::from_f64(number()).to_f64()).collect();
            self.stock.push((key, Tensor::from_f64(&values, [n], dtype).to(&self.dev)?));
        }
        let found = self.stock.iter().find(|(k, _)| *k == key);
        Ok(&found.expect("pushed above").1)
    }

    fn tensor(&mut self, slot: &Slot, form: ElementType, seed: usize) -> Result<Tensor> {
        let (dtype, n, dev) = (slot.of.dtype(form), slot.shape.len(), self.dev.clone());
        let mut rng = Rng::new(11, Stream::Test, seed as u64);
        match slot.fill {
            Fill::Below(most) => {
                let values: Vec<u32> = (0..n).map(|_| rng.below(most)).collect();
                return Tensor::from_vec(values, slot.shape).to(&dev);
            }
            Fill::Bytes => {
                let values: Vec<u8> = (0..n).map(|_| rng.next_u32() as u8).collect();
                return Tensor::from_vec(values, slot.shape).to(&dev);
            }
            _ => {}
        }
        let mut tensor = Tensor::zeros_on(&dev, slot.shape, dtype)?;
        match slot.fill {
            Fill::Normal(_) | Fill::Activated => {
                let deviation = if let Fill::Normal(deviation) = slot.fill { Some(deviation) } else { None };
                let stock = self.stock(deviation, dtype)?.view();
                let (mut at, mut from) = (0, rng.below(stock.len() as u32 / 2) as usize);
                while at < n {
                    let len = (n - at).min(stock.len() - from);
                    tensor.view_mut().part(at, [len]).copy_from(stock.part(from, [len]))?;
                    (at, from) = (at + len, 0);
                }
            }
            Fill::Constant(value) => tensor.fill(value),
            Fill::Poison => tensor.fill(f64::NAN),
            Fill::Anything | Fill::Below(_) | Fill::Bytes => {}
        }
        Ok(tensor)
    }

    fn set(&mut self, ins: &[Slot], outs: &[Slot], form: ElementType, number: usize) -> Result<Set> {
        // The same numbers in every form.
        let mut make = |slots: &[Slot], first: usize| {
            let each = slots.iter().enumerate();
            each.map(|(i, s)| self.tensor(s, form, 100 * number + first + i)).collect::<Result<Vec<_>>>()
        };
        Ok(Set { ins: make(ins, 0)?, outs: make(outs, 50)? })
    }

    /// The ends of the outputs of one launch.
    fn once(&mut self, row: &Row, form: ElementType) -> Result<Vec<Vec<f64>>> {
        let mut set = self.set(&row.ins, &row.outs, form, 0)?;
        let (ins, outs) = set.views();
        (row.run)(&self.dev, &ins, outs)?;
        set.sample()
    }

    /// The kernels that a row is timed with in this form: portable ones, and Hopper kernels where they have a part in it.
    fn generations(&mut self, row: &Row, form: ElementType) -> Result<Vec<Kernels>> {
        let mut timed = vec![Kernels::Portable];
        if self.gpu.has_hopper() && form != ElementType::F32 && !matches!(row.bound, Bound::Memory) {
            self.gpu.use_hopper(true)?;
            self.gpu.take_launched();
            let tried = self.once(row, form);
            self.gpu.use_hopper(false)?;
            // What fails here has a row that says so.
            if tried.is_err() || self.gpu.take_launched().iter().any(|name| name.contains("_hopper_")) {
                timed.push(Kernels::Hopper);
            }
        }
        Ok(timed)
    }

    fn row(
        &mut self,
        row: &Row,
        form: ElementType,
        kernels: Kernels,
        exact: Option<&Result<Vec<Vec<f64>>>>,
        peaks: &Peaks,
    ) -> Result<Value> {
        self.gpu.use_hopper(kernels == Kernels::Hopper)?;
        let line = self.row_now(row, form, kernels, exact, peaks);
        self.gpu.use_hopper(false)?;
        line
    }

    fn row_now(
        &mut self,
        row: &Row,
        form: ElementType,
        kernels: Kernels,
        exact: Option<&Result<Vec<Vec<f64>>>>,
        peaks: &Peaks,
    ) -> Result<Value> {
        let got = self.once(row, form)?;
        let worst = |of: &[Vec<f64>]| of.iter().zip(&got).map(|(e, g)| distance(g, e)).fold(0.0, f64::max);
        // Where there is no form in 16 bits, that everything was written and is a number.
        let error = match exact {
            Some(Ok(exact)) => worst(exact),
            Some(Err(e)) => return Err(Error::failed(format!("in f32: {e}"))),
            None => worst(&got),
        };
        let ok = error <= error_limit(row, form);
        let bytes = row.bytes(form);
        let sets = (CACHES * self.l2_bytes).div_ceil(bytes.max(1)).clamp(1, MOST_SETS);
        let sets = if self.smoke { 2 } else { sets.min((MOST_BYTES / bytes.max(1)).max(1)) };
        let mut tensors =
            (0..sets).map(|i| self.set(&row.ins, &row.outs, form, i)).collect::<Result<Vec<Set>>>()?;
        let dev = self.dev.clone();
        let times = measure::time(self.gpu, self.budget_ms, sets, |i| {
            let (ins, outs) = tensors[i].views();
            (row.run)(&dev, &ins, outs)
        })?;
        let rival = match row.bound {
            Bound::Product(product) if form != ElementType::F32 => {
                self.product(product, row, form, &mut tensors, &got).transpose()
            }
            Bound::Memory => Some(self.copy(bytes)),
            _ => None,
        };
        drop(tensors);
        Ok(self.line(row, (form, kernels), times, rival, (error, ok), peaks))
    }

    /// The same product by cuBLASLt, if it is there and gives what ours gives; where it has no such ending, the plain
    /// product.
    fn product(
        &mut self,
        product: Product,
        row: &Row,
        form: ElementType,
        tensors: &mut [Set],
        ours: &[Vec<f64>],
    ) -> Result<Option<Rival>> {
        let bias = Slot { shape: row.ins[2].shape, of: Of::T, fill: row.ins[2].fill };
        let mut fresh = self.set(&row.ins, &row.outs, form, 0)?;
        // The same numbers as our bias, in the form's type.
        let bias = self.tensor(&bias, form, 2)?;
        let Ok(lt) = &self.lt else { return Ok(None) };
        let plain = Product { ending: With::Nothing, ..product };
        let (call, name) = match lt.prepare(product, form) {
            Ok(call) => (call, "cublaslt"),
            Err(_) => (lt.prepare(plain, form)?, "cublaslt, plain product"),
        };
        if name == "cublaslt" {
            let (ins, outs) = fresh.views();
            call.queue(&ins, bias.view(), outs)?;
            self.gpu.synchronize(StreamKind::Compute)?;
            let theirs = fresh.sample()?;
            // Sums in another order, and theirs may round before the ending.
            let apart = distance(&theirs[0], &ours[0]);
            let limit = if form == ElementType::Bf16 { 1e-2 } else { 1.5e-3 };
            if apart > limit {
                return Err(Error::failed(format!("cuBLASLt gives something else: {apart:.1e} apart")));
            }
        }
        let times = measure::time(self.gpu, self.budget_ms, tensors.len(), |i| {
            let (ins, outs) = tensors[i].views();
            call.queue(&ins, bias.view(), outs)
        })?;
        Ok(Some(Rival { name, us: times.median }))
    }

    /// A plain copy that reads and writes as many bytes.
    fn copy(&mut self, bytes: usize) -> Result<Rival> {
        let [to, from] = &mut self.room;
        let half = (bytes / 2).clamp(1, to.len());
        let places = (to.len() / half).clamp(1, MOST_SETS);
        let times = measure::time(self.gpu, self.budget_ms, places, |i| {
            to.view_mut().part(i * half, [half]).copy_from(from.view().part(i * half, [half]))
        })?;
        Ok(Rival { name: "copy", us: times.median * (bytes as f64 / 2.0) / half as f64 })
    }

    fn line(
        &self,
        row: &Row,
        (form, kernels): (ElementType, Kernels),
        times: Times,
        rival: Option<Result<Rival>>,
        (error, ok): (f64, bool),
        peaks: &Peaks,
    ) -> Value {
        let bytes = row.bytes(form);
        let (flops_per_s, bytes_per_s) =
            (row.flops as f64 / times.median * 1e6, bytes as f64 / times.median * 1e6);
        let share = match row.bound {
            Bound::Memory => Some(bytes_per_s / peaks.copy_bytes_per_s),
            _ => peaks.flops_per_s.get(&form).map(|peak| flops_per_s / peak),
        };
        let (name, rival_us, why) = match rival {
            Some(Ok(Rival { name, us })) => (Some(name), Some(us), None),
            Some(Err(e)) => (None, None, Some(e.to_string())),
            None => (None, None, None),
        };
        // Of portable kernels.
        let predicted = (kernels == Kernels::Portable).then(|| row.predicted_us(form, self.chip)).flatten();
        let surprise = predicted.map(|p| times.median / p);
        let mark = match surprise {
            Some(r) if !(1.0 / SURPRISE..=SURPRISE).contains(&r) => "!",
            _ => "",
        };
        let or_dash = |v: Option<f64>, digits: usize| v.map_or("-".into(), |v| format!("{v:.digits$}"));
        let of = |v: f64, scale: f64, digits| or_dash((v > 0.0).then_some(v / scale), digits);
        println!(
            "{:<24} {:<28} {:>5} {:>8} {:>9.1} {:>19} {:>8} {:>7} {:>6} {:>6} {:>8} {:>9} {:>6}{mark}{}",
            row.stage,
            row.shape,
            form.name(),
            kernels.word(),
            times.median,
            format!("{:.1} to {:.1}", times.p10, times.p90),
            of(flops_per_s, 1e12, 0),
            of(bytes_per_s, 1e9, 0),
            or_dash(share.map(|s| 100.0 * s), 0),
            or_dash(rival_us.map(|us| us / times.median), 2),
            format!("{error:.1e}{}", if ok { "" } else { " WRONG" }),
            or_dash(predicted, 1),
            or_dash(surprise, 2),
            why.as_ref().map_or(String::new(), |why| format!("  {why}"))
        );
        json!({
            "stage": row.stage, "op": row.op, "shape": row.shape, "batch": row.batch, "form": form.name(),
            "kernels": kernels.word(), "times_per_step": row.times, "us": times.median, "p10_us": times.p10, "p90_us": times.p90,
            "replays": times.replays, "launches_per_replay": times.launches, "flops": row.flops, "bytes": bytes,
            "flops_per_s": flops_per_s, "bytes_per_s": bytes_per_s, "share_of_peak": share,
            "rival": name,
            "rival_us": rival_us, "rival_over_ours": rival_us.map(|us| us / times.median), "rival_says": why,
            "relative_error": error, "error_limit": error_limit(row, form), "ok": ok,
            "floor_us": row.floor_us(form, self.chip), "predicted_us": predicted, "measured_over_predicted": surprise,
        })
    }
}
