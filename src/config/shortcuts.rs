//! The words of `train.shortcuts`.

/// The exact savings of work that a run uses; see `train.shortcuts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shortcuts {
    pub share_query_pass: bool,
    pub limit_last_block: bool,
    pub limit_query_block: bool,
    pub strassen: bool,
    pub packed_weights: bool,
}

impl Shortcuts {
    pub const WORDS: [&str; 5] =
        ["share_query_pass", "limit_last_block", "limit_query_block", "strassen", "packed_weights"];

    /// Every one of them, as the configuration writes it.
    pub fn all() -> Vec<String> {
        Shortcuts::WORDS.map(String::from).to_vec()
    }

    /// Those that a list names; the first word that is none of them, otherwise.
    pub fn named(words: &[String]) -> Result<Shortcuts, String> {
        match words.iter().find(|w| !Shortcuts::WORDS.contains(&w.as_str())) {
            Some(word) => Err(word.clone()),
            None => {
                let has = |i: usize| words.iter().any(|w| w == Shortcuts::WORDS[i]);
                Ok(Shortcuts {
                    share_query_pass: has(0),
                    limit_last_block: has(1),
                    limit_query_block: has(2),
                    strassen: has(3),
                    packed_weights: has(4),
                })
            }
        }
    }
}
