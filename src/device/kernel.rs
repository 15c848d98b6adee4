//! What a binding says about a kernel: its name, its arguments, how many threads. The names and types of
//! the arguments stand in three places, the `.cu` file, the [`Kernel`] and the launch; a test compares the
//! first two, [`Gpu::launch`](super::Gpu::launch) the last two.

use super::tensor_map::TensorMap;
use crate::error::{Error, Result};

/// The type `T` of activations and matrices that a kernel was compiled for: the end of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElementType {
    F32,
    Bf16,
    F16,
}

impl ElementType {
    pub fn name(self) -> &'static str {
        match self {
            ElementType::F32 => "f32",
            ElementType::Bf16 => "bf16",
            ElementType::F16 => "f16",
        }
    }
}

/// An exported function of `kernels/<op>.cu`, made by [`kernel!`].
#[derive(Debug)]
pub struct Kernel {
    /// The file: `kernels/<op>.cu`.
    pub op: &'static str,
    /// `<op>_<pass>`; a [`ElementType`] follows.
    pub name: &'static str,
    /// Name and type of each argument, in order: `*T`, `*f32`, `*u32`, `*u8`, `u32`, `u64`, `f32`, `map`.
    pub parameters: &'static [(&'static str, &'static str)],
}

impl Kernel {
    /// The exported name.
    pub fn symbol(&self, form: ElementType) -> String {
        format!("{}_{}", self.name, form.name())
    }

    /// Checks that the arguments are those of the kernel. `*T` is a pointer to the form's type; a null pointer is one
    /// to any type.
    pub fn check(&self, form: ElementType, args: &[Arg]) -> Result<()> {
        let fits = |&(name, kind): &(&str, &str), arg: &Arg| {
            let kind_fits = match (kind.strip_prefix('*'), arg.kind.strip_prefix('*')) {
                (Some(_), Some("")) => true,
                (Some("T"), Some(to)) => to == form.name(),
                _ => kind == arg.kind,
            };
            name == arg.name && kind_fits
        };
        if self.parameters.len() == args.len() && self.parameters.iter().zip(args).all(|(p, a)| fits(p, a)) {
            return Ok(());
        }
        let wanted: Vec<String> = self.parameters.iter().map(|(n, k)| format!("{n}: {k}")).collect();
        let given: Vec<String> = args.iter().map(|a| format!("{}: {}", a.name, a.kind)).collect();
        Err(Error::failed(format!(
            "{} takes ({}), was given ({})",
            self.symbol(form),
            wanted.join(", "),
            given.join(", ")
        )))
    }
}

/// The `vectors` of a kernel that moves chunks of 16 bytes: whether rows of `len` elements, one after the
/// other, can be moved so in all of these tensors.
pub fn vectors(form: ElementType, len: usize, tensors: &[&dyn Argument]) -> u32 {
    let chunk = if form == ElementType::F32 { 4 } else { 8 };
    let aligned = |t: &&dyn Argument| matches!(t.argument().1, Cell::Pointer(at) if at.is_multiple_of(16));
    u32::from(len.is_multiple_of(chunk) && tensors.iter().all(aligned))
}

/// `kernel!("gelu", "gelu_forward", [y: *T, x: *T, n: u32])`.
macro_rules! kernel {
    ($op:literal, $name:literal, [$($arg:ident: $kind:tt $($to:ident)?),* $(,)?]) => {
        $crate::device::Kernel {
            op: $op,
            name: $name,
            parameters: &[$((stringify!($arg), concat!(stringify!($kind) $(, stringify!($to))?))),*],
        }
    };
}
pub(crate) use kernel;

/// How many blocks of how many threads, and dynamic shared memory. No blocks: nothing is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    pub blocks: [usize; 3],
    pub threads: u32,
    pub smem_bytes: usize,
}

impl Grid {
    pub fn new(blocks: usize, threads: u32) -> Grid {
        Grid { blocks: [blocks, 1, 1], threads, smem_bytes: 0 }
    }

    /// `blocks` in x, `y` and `z` in the other axes.
    pub fn by(self, y: usize, z: usize) -> Grid {
        Grid { blocks: [self.blocks[0], y, z], ..self }
    }

    pub fn smem(self, smem_bytes: usize) -> Grid {
        Grid { smem_bytes, ..self }
    }
}

/// A value as a kernel gets it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell {
    Pointer(u64),
    U32(u32),
    U64(u64),
    F32(f32),
    Map(TensorMap),
    /// An extent beyond 32 bits.
    TooLarge(usize),
    /// A tensor that is not on a GPU.
    HostMemory,
}

/// One argument of a launch, made by [`args!`].
#[derive(Debug, Clone, Copy)]
pub struct Arg {
    pub name: &'static str,
    pub kind: &'static str,
    pub cell: Cell,
}

impl Arg {
    pub fn new(name: &'static str, value: &impl Argument) -> Arg {
        let (kind, cell) = value.argument();
        Arg { name, kind, cell }
    }
}

/// What can be handed to a kernel: views, scratch memory and numbers.
pub trait Argument {
    /// The type as [`Kernel::parameters`] writes it, and the value.
    fn argument(&self) -> (&'static str, Cell);
}

impl Argument for u32 {
    fn argument(&self) -> (&'static str, Cell) {
        ("u32", Cell::U32(*self))
    }
}

impl Argument for u64 {
    fn argument(&self) -> (&'static str, Cell) {
        ("u64", Cell::U64(*self))
    }
}

impl Argument for f32 {
    fn argument(&self) -> (&'static str, Cell) {
        ("f32", Cell::F32(*self))
    }
}

impl Argument for TensorMap {
    fn argument(&self) -> (&'static str, Cell) {
        ("map", Cell::Map(*self))
    }
}

/// Extents and offsets are `unsigned` in kernels.
impl Argument for usize {
    fn argument(&self) -> (&'static str, Cell) {
        ("u32", u32::try_from(*self).map_or(Cell::TooLarge(*self), Cell::U32))
    }
}

/// Without a value: a null pointer.
impl<A: Argument> Argument for Option<A> {
    fn argument(&self) -> (&'static str, Cell) {
        self.as_ref().map_or(("*", Cell::Pointer(0)), Argument::argument)
    }
}

/// `args![y, x, n = x.len()]`: values with their names, for [`Gpu::launch`](super::Gpu::launch).
macro_rules! args {
    (@ $name:ident) => { $name };
    (@ $name:ident $value:expr) => { $value };
    ($($name:ident $(= $value:expr)?),* $(,)?) => {
        [$($crate::device::Arg::new(stringify!($name), &$crate::device::args!(@ $name $($value)?))),*]
    };
}
pub(crate) use args;

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: Kernel = kernel!("op", "op_pass", [y: *T, stats: *f32, n: u32, eps: f32]);

    struct Pointer(&'static str);
    impl Argument for Pointer {
        fn argument(&self) -> (&'static str, Cell) {
            (self.0, Cell::Pointer(16))
        }
    }

    #[test]
    fn arguments_are_compared_by_name_and_type() {
        assert_eq!(KERNEL.parameters, [("y", "*T"), ("stats", "*f32"), ("n", "u32"), ("eps", "f32")]);
        let (y, stats, eps) = (Pointer("*bf16"), Pointer("*f32"), 1e-6f32);
        let args = args![y, stats, n = 3usize, eps];
        assert!(KERNEL.check(ElementType::Bf16, &args).is_ok());
        assert!(KERNEL.check(ElementType::F32, &args).is_err());
        assert!(KERNEL.check(ElementType::Bf16, &args[1..]).is_err());
        let none: Option<Pointer> = None;
        assert!(KERNEL.check(ElementType::Bf16, &args![y, stats = none, n = 3u32, eps]).is_ok());
        for wrong in [
            args![stats = y, y = stats, n = 3u32, eps],
            args![y, stats = y, n = 3u32, eps],
            args![y, stats, n = 3.0f32, eps],
            args![y, stats, n = 3u32, epsilon = eps],
        ] {
            let message = KERNEL.check(ElementType::Bf16, &wrong).expect_err("must be refused").to_string();
            assert!(
                message.starts_with("op_pass_bf16 takes (y: *T, stats: *f32, n: u32, eps: f32)"),
                "{message}"
            );
        }
    }
}
