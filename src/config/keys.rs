//! What is known about each key: its name, comment and kind, and which key somebody meant who wrote
//! another.

use super::schema::Config;

/// What a value has to be.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
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
    /// One whole number, or a list of them.
    SizeOrSizes,
    /// A list of names and whole numbers, or one of them.
    Names,
    Table(&'static [Key]),
}

impl Kind {
    /// What an error message says was wanted.
    pub fn wanted(self) -> String {
        match self {
            Kind::Bool => "true or false".into(),
            Kind::Size => "a whole number, 0 or more".into(),
            Kind::Seed => format!("a whole number from 0 to {}", i64::MAX),
            Kind::Number => "a finite number".into(),
            Kind::Text => "text in quotes".into(),
            Kind::Word(words) => format!("one of {}", quoted(words)),
            Kind::Texts => "a list of texts such as [\"encoder\", \"cls\"]".into(),
            Kind::Sizes => "a list of whole numbers such as [0, 1]".into(),
            Kind::SizeOrSizes => "a whole number or a list of them such as [50, 10, 10]".into(),
            Kind::Names => "a list of names or numbers such as [\"cat\", 7], or the path of a file".into(),
            Kind::Table(_) => "a table".into(),
        }
    }
}

/// One key of a table.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    /// The lines of its comment, each with its leading space.
    pub doc: &'static [&'static str],
    pub kind: Kind,
}

/// Types that can be the value of a key.
pub trait Field {
    const KIND: Kind;
}

macro_rules! fields {
    ($($ty:ty => $kind:ident),+ $(,)?) => { $(impl Field for $ty { const KIND: Kind = Kind::$kind; })+ };
}
fields!(bool => Bool, usize => Size, u64 => Seed, f64 => Number, String => Text,
        Vec<String> => Texts, Vec<usize> => Sizes);

/// Every key that takes a value, by its full dotted path, in the order of the file.
pub fn paths() -> Vec<(String, &'static Key)> {
    let mut all = Vec::new();
    for key in Config::KEYS {
        match key.kind {
            Kind::Table(keys) => all.extend(keys.iter().map(|k| (format!("{}.{}", key.name, k.name), k))),
            _ => all.push((key.name.to_string(), key)),
        }
    }
    all
}

/// Keys that had another name once: the old name, and the one of today.
const RENAMED: [(&str, &str); 3] = [
    ("floors.pool_of_one", "baselines.single_prompt"),
    ("baselines.pool_of_one", "baselines.single_prompt"),
    ("floors", "baselines"),
];

/// Today's name of a key that may be written with the name of an earlier version.
pub fn current(path: &str) -> String {
    let renamed = RENAMED.iter().find_map(|(old, new)| {
        let rest = path.strip_prefix(old)?;
        (rest.is_empty() || rest.starts_with('.')).then(|| format!("{new}{rest}"))
    });
    renamed.unwrap_or_else(|| path.to_string())
}

/// The key or table at a dotted path.
pub fn find(path: &str) -> Option<&'static Key> {
    let mut keys = Config::KEYS;
    let mut found = None;
    for part in path.split('.') {
        found = keys.iter().find(|k| k.name == part);
        keys = match found?.kind {
            Kind::Table(keys) => keys,
            _ => &[],
        };
    }
    found
}

/// Keys of the official and the PyTorch configurations and of earlier habits, and what to write here.
pub const ELSEWHERE: &[(&str, &str)] = &[
    ("batch_size", "did you mean `train.per_device_batch_size`?"),
    ("size", "did you mean `prompt_pool.pool_size`?"),
    ("lr", "did you mean `optim.learning_rate`?"),
    ("learning_rate_scale", "did you mean `optim.lr_batch`?"),
    ("unscale_lr", "set `optim.lr_batch = 0` to use the learning rate as it is"),
    ("epochs", "did you mean `train.num_epochs`?"),
    ("opt", "did you mean `optim.optim`?"),
    ("optimizer", "did you mean `optim.optim`?"),
    ("sched", "did you mean `optim.learning_rate_schedule`?"),
    ("min_lr", "did you mean `optim.min_learning_rate`?"),
    ("momentum", "did you mean `optim.sgd_momentum`?"),
    ("clip_grad", "did you mean `optim.grad_clip_max_norm`?"),
    ("smoothing", "did you mean `pretrain.label_smoothing`?"),
    ("prompt_length", "did you mean `prompt_pool.length`?"),
    ("prompt_len", "did you mean `prompt_pool.length`?"),
    ("pull_constraint", "set `prompt_pool.pull_constraint_coeff = 0` to switch the pull term off"),
    ("head_type", "did you mean `model.vit_classifier`?"),
    ("freeze", "did you mean `model.freeze_part`?"),
    ("pretrained", "did you mean `model.init_checkpoint`?"),
    ("model_name", "the network is read from `model.init_checkpoint`"),
    ("data_path", "did you mean `data.dir`?"),
    ("data_dir", "did you mean `data.dir`?"),
    ("num_classes", "classes are `continual.num_tasks` times `continual.num_classes_per_task`"),
    ("classes_per_task", "did you mean `continual.num_classes_per_task`?"),
    ("rand_seed", "set `continual.class_order` to \"natural\" or \"seed:N\""),
    ("shuffle", "set `continual.class_order` to \"natural\" or \"seed:N\""),
    ("num_samples_per_class", "did you mean `continual.replay_per_class`?"),
    ("num_samples_per_task", "did you mean `continual.replay_per_class`? It counts images of a class"),
    ("include_new_task", "did you mean `continual.replay_include_new_task`?"),
    ("review_trick", "set `continual.num_review_epochs` and `continual.replay_per_class`"),
    ("prompt_frequency", "did you mean `prompt_pool.diversified_selection`?"),
    ("kernel_only", "did you mean `continual.transfer_kernel_only`?"),
    ("eval_every_steps", "did you mean `train.eval_per_epochs`?"),
    ("task_inc", "did you mean `continual.eval_task_inc`?"),
    ("norm_01", "set `model.input_norm = \"unit\"`"),
    ("use_e_prompt", "set `prompt_pool.pool_size = 0` for no pool"),
    ("use_g_prompt", "set `g_prompt.g_prompt_length = 0` for no general prompt"),
    ("same_key_value_for_g", "did you mean `g_prompt.same_key_value`?"),
    (
        "same_key_value_for_pool",
        "pool prefixes always have separate keys and values, as the official code runs",
    ),
    ("mask_first_epoch", "it has no effect in the official code; leave it out"),
    ("predefined_key_path", "it has no effect in the official code; leave it out"),
    ("offline_eval", "it has no effect in the official code; leave it out"),
    ("eval_pad_last_batch", "evaluation always scores every test image; leave it out"),
    ("prompt_histogram", "the histogram is always written; leave it out"),
    ("workdir", "it is the command-line option `--workdir`"),
    ("device", "it is the command-line option `--device`"),
];

/// A sentence for somebody who wrote the unknown key `path`: what they may have meant.
pub fn hint(path: &str) -> String {
    let path = start(path);
    let (table, last) = path.rsplit_once('.').unwrap_or(("", path));
    if let Some(Key { kind: Kind::Table(_), .. }) = find(path) {
        return format!("`{path}` is a table: give its keys one by one");
    }
    let all = paths();
    let name = |full: &str| full.rsplit('.').next().unwrap_or_default().to_string();
    let same_name: Vec<&str> = all.iter().map(|(p, _)| p.as_str()).filter(|p| name(p) == last).collect();
    if !same_name.is_empty() {
        return format!("did you mean {}?", or(&same_name));
    }
    if let Some((_, says)) = ELSEWHERE.iter().find(|(foreign, _)| *foreign == last) {
        return (*says).to_string();
    }
    // Within the same table a slip of the pen is likelier than a wrong table.
    let distance = |full: &str| {
        let known = name(full);
        let known_table = full.rsplit_once('.').map_or("", |(t, _)| t);
        let away = if known_table == table { 0 } else { 1 };
        (strsim::damerau_levenshtein(last, &known) + away).min(strsim::damerau_levenshtein(path, full))
    };
    let nearest = all.iter().map(|(p, _)| (distance(p), p)).min();
    match nearest {
        Some((distance, p)) if distance <= 2.max(last.chars().count() / 3) => format!("did you mean `{p}`?"),
        _ => match find(table) {
            Some(Key { kind: Kind::Table(keys), .. }) => {
                let names: Vec<&str> = keys.iter().map(|k| k.name).collect();
                format!("`{table}` has {}", quoted(&names))
            }
            _ => format!(
                "the nearest known key is `{}`; `l2p-engine train --print-config` lists every key",
                nearest.map_or("seed", |(_, p)| p)
            ),
        },
    }
}

/// The word of `words` that is nearest to `found`, if it is near at all.
pub fn nearest_word(found: &str, words: &[&'static str]) -> Option<&'static str> {
    let found = start(found).to_lowercase();
    let (distance, word) = words.iter().map(|w| (strsim::damerau_levenshtein(&found, w), *w)).min()?;
    (distance <= 2.max(word.len() / 3) && distance < word.len()).then_some(word)
}

/// No name is longer; comparing a whole file of text to each of them would take long.
fn start(text: &str) -> &str {
    text.char_indices().nth(80).map_or(text, |(end, _)| &text[..end])
}

fn or(names: &[&str]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(" or ")
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}
