//! cuBLASLt, found at run time, as the rival of our products. Types and numbers are those of `cublasLt.h`, which
//! has kept them since CUDA 11.4.
//!
//! Its matrices are column by column. A row-major (R, S) matrix is its (S, R) matrix, so that y = x w is asked
//! for as yᵀ = wᵀ xᵀ, and dx = dy wᵀ as dxᵀ = w dyᵀ.

use super::rows::{Product, With};
use l2p_engine::device::{ElementType, Gpu, StreamKind};
use l2p_engine::tensor::{DType, Tensor, View, ViewMut};
use l2p_engine::{Error, Result};
use libloading::os::unix::{Library, Symbol};
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

type Status = c_int;
type Opaque = *mut c_void;

const COMPUTE_32F: c_int = 68;
const R_32F: c_int = 0;
const R_16F: c_int = 2;
const R_16BF: c_int = 14;
const DESC_TRANSA: c_int = 3;
const DESC_EPILOGUE: c_int = 7;
const DESC_BIAS_POINTER: c_int = 8;
const DESC_EPILOGUE_AUX_POINTER: c_int = 11;
const DESC_EPILOGUE_AUX_LD: c_int = 12;
const EPILOGUE_DEFAULT: c_int = 1;
const EPILOGUE_BIAS: c_int = 4;
const EPILOGUE_GELU_BIAS: c_int = 36;
const EPILOGUE_GELU_AUX_BIAS: c_int = 164;
const EPILOGUE_DGELU: c_int = 192;
const OP_T: c_int = 1;
const PREFERENCE_MAX_WORKSPACE_BYTES: c_int = 1;

/// What the vendor recommends for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;

#[repr(C)]
#[derive(Clone, Copy)]
struct Heuristic {
    algo: [u64; 8],
    workspace_bytes: usize,
    state: Status,
    waves: f32,
    reserved: [c_int; 4],
}
const _: () = assert!(size_of::<Heuristic>() == 96);

macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($arg:ty),* $(,)?);)*) => {
        struct Functions {
            $($field: Symbol<unsafe extern "C" fn($($arg),*) -> Status>,)*
        }

        impl Functions {
            fn load(library: &Library) -> std::result::Result<Functions, libloading::Error> {
                // SAFETY: the types are those of the header.
                Ok(unsafe { Functions { $($field: library.get(concat!($symbol, "\0").as_bytes())?,)* } })
            }
        }
    };
}

functions! {
    create = "cublasLtCreate": fn(*mut Opaque);
    desc_create = "cublasLtMatmulDescCreate": fn(*mut Opaque, c_int, c_int);
    desc_set = "cublasLtMatmulDescSetAttribute": fn(Opaque, c_int, *const c_void, usize);
    desc_destroy = "cublasLtMatmulDescDestroy": fn(Opaque);
    layout_create = "cublasLtMatrixLayoutCreate": fn(*mut Opaque, c_int, u64, u64, i64);
    layout_destroy = "cublasLtMatrixLayoutDestroy": fn(Opaque);
    preference_create = "cublasLtMatmulPreferenceCreate": fn(*mut Opaque);
    preference_set = "cublasLtMatmulPreferenceSetAttribute": fn(Opaque, c_int, *const c_void, usize);
    preference_destroy = "cublasLtMatmulPreferenceDestroy": fn(Opaque);
    heuristic = "cublasLtMatmulAlgoGetHeuristic": fn(
        Opaque, Opaque, Opaque, Opaque, Opaque, Opaque, Opaque, c_int, *mut Heuristic, *mut c_int,
    );
    matmul = "cublasLtMatmul": fn(
        Opaque, Opaque, *const c_void, *const c_void, Opaque, *const c_void, Opaque, *const c_void, *const c_void,
        Opaque, *mut c_void, Opaque, *const [u64; 8], *mut c_void, usize, *mut c_void,
    );
}

/// The library with a handle for one device.
pub struct CublasLt {
    pub path: String,
    gpu: Arc<Gpu>,
    functions: Functions,
    handle: Opaque,
    workspace: Tensor,
    // The functions are its own.
    _library: Library,
}

fn address(view: View) -> *mut c_void {
    use l2p_engine::device::{Argument, Cell};
    match view.argument().1 {
        Cell::Pointer(address) => address as *mut c_void,
        _ => null_mut(),
    }
}

fn type_of(form: ElementType) -> c_int {
    match form {
        ElementType::F32 => R_32F,
        ElementType::F16 => R_16F,
        ElementType::Bf16 => R_16BF,
    }
}

fn checked(what: &str, status: Status) -> Result<()> {
    if status == 0 { Ok(()) } else { Err(Error::failed(format!("cuBLASLt: {what}: status {status}"))) }
}

impl CublasLt {
    /// # Errors
    /// A sentence saying what was looked for.
    pub fn open(gpu: &Arc<Gpu>) -> Result<CublasLt> {
        let named = std::env::var("L2P_CUBLASLT").ok();
        let names = match &named {
            Some(path) => vec![path.as_str()],
            None => vec!["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
        };
        // SAFETY: the library's constructors are the vendor's.
        let found = names.iter().find_map(|&n| Some((n, unsafe { Library::new(n) }.ok()?)));
        let Some((path, library)) = found else {
            return Err(Error::failed(format!("cuBLASLt was not found: looked for {}", names.join(", "))));
        };
        let functions = Functions::load(&library).map_err(|e| Error::failed(format!("{path}: {e}")))?;
        gpu.raw_stream(StreamKind::Compute)?;
        let mut handle = null_mut();
        // SAFETY: the context is current; the handle is written.
        checked("cublasLtCreate", unsafe { (functions.create)(&raw mut handle) })?;
        let dev = l2p_engine::device::Device::Cuda(gpu.clone());
        let workspace = Tensor::zeros_on(&dev, [WORKSPACE_BYTES], DType::U8)?;
        Ok(CublasLt { path: path.into(), gpu: gpu.clone(), functions, handle, workspace, _library: library })
    }

    /// The product prepared for a form, by the algorithm that the library thinks best.
    pub fn prepare(&self, product: Product, form: ElementType) -> Result<Call<'_>> {
        let Product { m, k, n, back, ending } = product;
        let (ld_out, depth) = if back { (k, n) } else { (n, k) };
        let f = &self.functions;
        let mut call = Call { lt: self, ending, desc: null_mut(), layouts: [null_mut(); 3], algo: [0; 8] };
        let epilogue = match ending {
            With::Nothing | With::Sum => EPILOGUE_DEFAULT,
            With::Bias | With::BiasResidual => EPILOGUE_BIAS,
            With::BiasGelu => EPILOGUE_GELU_BIAS,
            With::BiasGeluKept => EPILOGUE_GELU_AUX_BIAS,
            With::GeluGradient => EPILOGUE_DGELU,
        };
        // SAFETY: a descriptor is written.
        let status = unsafe { (f.desc_create)(&raw mut call.desc, COMPUTE_32F, R_32F) };
        checked("cublasLtMatmulDescCreate", status)?;
        call.set(DESC_EPILOGUE, &epilogue)?;
        if back {
            call.set(DESC_TRANSA, &OP_T)?;
        }
        // The heuristic wants to see pointers; the call sets the real ones.
        let somewhere = address(self.workspace.view());
        if matches!(epilogue, EPILOGUE_BIAS | EPILOGUE_GELU_BIAS | EPILOGUE_GELU_AUX_BIAS) {
            call.set(DESC_BIAS_POINTER, &somewhere)?;
        }
        if matches!(epilogue, EPILOGUE_GELU_AUX_BIAS | EPILOGUE_DGELU) {
            call.set(DESC_EPILOGUE_AUX_POINTER, &somewhere)?;
            call.set(DESC_EPILOGUE_AUX_LD, &(ld_out as i64))?;
        }
        // Weight, activation, output: row-major (K, N), (M, depth), (M, ld_out).
        for (layout, (rows, cols)) in call.layouts.iter_mut().zip([(n, k), (depth, m), (ld_out, m)]) {
            let (rows, cols, ld) = (rows as u64, cols as u64, rows as i64);
            // SAFETY: a layout is written.
            let status = unsafe { (f.layout_create)(&raw mut *layout, type_of(form), rows, cols, ld) };
            checked("cublasLtMatrixLayoutCreate", status)?;
        }
        let mut preference = null_mut();
        // SAFETY: a preference is written.
        checked("cublasLtMatmulPreferenceCreate", unsafe { (f.preference_create)(&raw mut preference) })?;
        let bytes: *const usize = &WORKSPACE_BYTES;
        // SAFETY: the attribute is a usize.
        let set = unsafe { (f.preference_set)(preference, PREFERENCE_MAX_WORKSPACE_BYTES, bytes.cast(), 8) };
        let [w, x, y] = call.layouts;
        let nothing = Heuristic { algo: [0; 8], workspace_bytes: 0, state: -1, waves: 0.0, reserved: [0; 4] };
        let (mut best, mut found) = (nothing, 0);
        // SAFETY: room for one result; the descriptors are alive.
        let status = unsafe {
            let (handle, desc) = (self.handle, call.desc);
            (f.heuristic)(handle, desc, w, x, y, y, preference, 1, &raw mut best, &raw mut found)
        };
        // SAFETY: created above, destroyed once.
        unsafe { (f.preference_destroy)(preference) };
        checked("cublasLtMatmulPreferenceSetAttribute", set)?;
        checked("cublasLtMatmulAlgoGetHeuristic", status)?;
        if found == 0 || best.state != 0 {
            return Err(Error::failed(format!(
                "cuBLASLt has no algorithm for {product:?} in {}",
                form.name()
            )));
        }
        call.algo = best.algo;
        Ok(call)
    }
}

/// A product that can be queued.
pub struct Call<'a> {
    lt: &'a CublasLt,
    ending: With,
    desc: Opaque,
    layouts: [Opaque; 3],
    algo: [u64; 8],
}

impl Call<'_> {
    fn set<T>(&self, attribute: c_int, value: &T) -> Result<()> {
        let at: *const T = value;
        // SAFETY: the attribute is of this type.
        let status = unsafe { (self.lt.functions.desc_set)(self.desc, attribute, at.cast(), size_of::<T>()) };
        checked("cublasLtMatmulDescSetAttribute", status)
    }

    /// Queues it on the compute stream. The tensors are those of our row: activation, weight, and residual or
    /// pre-activation; then output, and pre-activation to keep. The bias is in the form's type.
    pub fn queue(&self, ins: &[View], bias: View, outs: Vec<ViewMut>) -> Result<()> {
        let (x, w) = (address(ins[0]), address(ins[1]));
        let outs: Vec<*mut c_void> = outs.iter().map(|o| address(o.as_view())).collect();
        let y = outs[0];
        if matches!(self.ending, With::Bias | With::BiasResidual | With::BiasGelu | With::BiasGeluKept) {
            self.set(DESC_BIAS_POINTER, &address(bias))?;
        }
        let (mut beta, mut c) = (0.0f32, y);
        match self.ending {
            With::BiasResidual => (beta, c) = (1.0, address(ins[3])),
            With::Sum => beta = 1.0,
            With::BiasGeluKept => self.set(DESC_EPILOGUE_AUX_POINTER, &outs[1])?,
            With::GeluGradient => self.set(DESC_EPILOGUE_AUX_POINTER, &address(ins[3]))?,
            With::Nothing | With::Bias | With::BiasGelu => {}
        }
        let (alpha, lt) = (1.0f32, self.lt);
        let [w_at, x_at, y_at] = self.layouts;
        let stream = lt.gpu.raw_stream(StreamKind::Compute)?;
        let (alpha, beta): (*const f32, *const f32) = (&raw const alpha, &raw const beta);
        let workspace = address(lt.workspace.view());
        // SAFETY: the tensors have the extents of the product, which the row was made from; all are alive
        // until the stream has been waited for.
        let status = unsafe {
            (lt.functions.matmul)(
                lt.handle,
                self.desc,
                alpha.cast(),
                w.cast_const(),
                w_at,
                x.cast_const(),
                x_at,
                beta.cast(),
                c.cast_const(),
                y_at,
                y,
                y_at,
                &raw const self.algo,
                workspace,
                WORKSPACE_BYTES,
                stream,
            )
        };
        checked("cublasLtMatmul", status)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let f = &self.lt.functions;
        for layout in self.layouts.into_iter().filter(|l| !l.is_null()) {
            // SAFETY: created by `prepare`, destroyed once.
            unsafe { (f.layout_destroy)(layout) };
        }
        if !self.desc.is_null() {
            // SAFETY: as above.
            unsafe { (f.desc_destroy)(self.desc) };
        }
    }
}
