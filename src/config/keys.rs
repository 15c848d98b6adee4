//! Every key by its dotted path, the names that keys had in earlier versions, and a suggestion for a key
//! that does not exist.

use super::kinds::{Key, KeyKind, quoted};
use super::schema::Config;

/// Every key that takes a value, by its full dotted path, in the order of the file.
pub fn paths() -> Vec<(String, &'static Key)> {
    let mut all = Vec::new();
    for key in Config::KEYS {
        match key.kind {
            KeyKind::Table(keys) => all.extend(keys.iter().map(|k| (format!("{}.{}", key.name, k.name), k))),
            _ => all.push((key.name.to_string(), key)),
        }
    }
    all
}

/// Tables and keys that had another name in an earlier version: the old name, and the one of today.
/// Old names are read with a note for one version.
const RENAMED: [(&str, &str); 3] = [
    ("floors.pool_of_one", "baselines.single_prompt"),
    ("baselines.pool_of_one", "baselines.single_prompt"),
    ("floors", "baselines"),
];

/// Today's name of a table or key that may be written with the name of an earlier version; `None`: it is
/// written with today's name.
pub fn renamed(path: &str) -> Option<String> {
    RENAMED.iter().find_map(|(old, new)| {
        let rest = path.strip_prefix(old)?;
        (rest.is_empty() || rest.starts_with('.')).then(|| format!("{new}{rest}"))
    })
}

/// The key or table at a dotted path.
pub fn find(path: &str) -> Option<&'static Key> {
    let mut keys = Config::KEYS;
    let mut found = None;
    for part in path.split('.') {
        found = keys.iter().find(|k| k.name == part);
        keys = match found?.kind {
            KeyKind::Table(keys) => keys,
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

/// A suggestion for the unknown key `path`: the nearest known key, or what to write instead.
pub fn hint(path: &str) -> String {
    let path = start(path);
    let (table, last) = path.rsplit_once('.').unwrap_or(("", path));
    if let Some(Key { kind: KeyKind::Table(_), .. }) = find(path) {
        return format!("`{path}` is a table: give its keys one by one");
    }
    let all = paths();
    let name = |full: &str| full.rsplit('.').next().unwrap_or_default().to_string();
    let same_name: Vec<&str> = all.iter().map(|(p, _)| p.as_str()).filter(|p| name(p) == last).collect();
    if !same_name.is_empty() {
        return format!("did you mean {}?", or(&same_name));
    }
    if let Some((_, advice)) = ELSEWHERE.iter().find(|(foreign, _)| *foreign == last) {
        return (*advice).to_string();
    }
    // A typing error within the right table is likelier than a wrong table.
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
            Some(Key { kind: KeyKind::Table(keys), .. }) => {
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

/// The first 80 characters: no name is longer, and the distance takes quadratic time.
fn start(text: &str) -> &str {
    text.char_indices().nth(80).map_or(text, |(end, _)| &text[..end])
}

fn or(names: &[&str]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(" or ")
}
