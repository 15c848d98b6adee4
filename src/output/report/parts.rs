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

/// A table of rows beside published numbers: name, method, rule set, seeds, ours, published, verdict.
pub fn verdicts(title: &str, rows: &[[String; 7]]) -> String {
    let head = ["", "method", "rule set", "seeds", "average accuracy %", "published", "verdict"];
    let head: String = head.iter().map(|name| format!("<th>{name}</th>")).collect();
    let cells =
        |row: &[String; 7]| row.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect::<String>();
    let body: String = rows.iter().map(|row| format!("<tr>{}</tr>", cells(row))).collect();
    section(
        &escape(title),
        "Within: the difference to the published number is at most two deviations of both together, or half a point.",
        &format!(
            "<div class=\"card\"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        ),
    )
}
