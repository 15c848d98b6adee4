//! What a configuration key is: its name, its comment, and the kind of value that it takes.

/// What a value has to be.
#[derive(Debug, Clone, Copy)]
pub enum KeyKind {
    Bool,
    /// A whole number from 0.
    Size,
    /// A whole number from 0 to 2^63 - 1, the largest that TOML has.
    Seed,
    Number,
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    Texts,
    Sizes,
    /// A list of finite numbers.
    Numbers,
    /// One whole number, or a list of them.
    SizeOrSizes,
    /// A whole number, or the word `auto`.
    SizeOrAuto,
    /// A list of names and whole numbers, or one of them.
    Names,
    Table(&'static [Key]),
}

impl KeyKind {
    /// What an error message says was wanted.
    pub fn wanted(self) -> String {
        match self {
            KeyKind::Bool => "true or false".into(),
            KeyKind::Size => "a whole number, 0 or more".into(),
            KeyKind::Seed => format!("a whole number from 0 to {}", i64::MAX),
            KeyKind::Number => "a finite number".into(),
            KeyKind::Text => "text in quotes".into(),
            KeyKind::Word(words) => format!("one of {}", quoted(words)),
            KeyKind::Texts => "a list of texts such as [\"encoder\", \"cls\"]".into(),
            KeyKind::Sizes => "a list of whole numbers such as [0, 1]".into(),
            KeyKind::Numbers => "a list of finite numbers such as [0.1, 10]".into(),
            KeyKind::SizeOrSizes => "a whole number or a list of them such as [50, 10, 10]".into(),
            KeyKind::SizeOrAuto => "a whole number, or \"auto\"".into(),
            KeyKind::Names => "a list of names or numbers such as [\"cat\", 7], or the path of a file".into(),
            KeyKind::Table(_) => "a table".into(),
        }
    }
}

/// One key of a table.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    /// The lines of its comment, each with its leading space.
    pub doc: &'static [&'static str],
    pub kind: KeyKind,
}

/// Types that can be the value of a key.
pub trait Field {
    const KIND: KeyKind;
}

macro_rules! fields {
    ($($ty:ty => $kind:ident),+ $(,)?) => { $(impl Field for $ty { const KIND: KeyKind = KeyKind::$kind; })+ };
}
fields!(bool => Bool, usize => Size, u64 => Seed, f64 => Number, String => Text,
        Vec<String> => Texts, Vec<usize> => Sizes, Vec<f64> => Numbers);

/// `a`, `b`, `c`.
pub(super) fn quoted(names: &[&str]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}
