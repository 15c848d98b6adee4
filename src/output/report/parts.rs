//! What the sections of the page have in common.

use super::figures::colour;
use super::svg::escape;

/// A section with a sentence about it; nothing without a body.
pub fn section(title: &str, text: &str, body: &str) -> String {
    if body.is_empty() {
        return String::new();
    }
    format!("<section><h2>{title}</h2><p class=\"muted\">{text}</p>{body}</section>")
}

/// The name of group `g` in its colour.
pub fn heading(g: usize, label: &str) -> String {
    format!("<h3><span class=\"key {}\"></span>{}</h3>", colour(g), escape(label))
}
