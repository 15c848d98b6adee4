//! What the sections of the page have in common.

use super::svg::{SERIES, Svg, escape};

/// A drawing with its name as a file and what it shows.
#[derive(Debug, Clone)]
pub struct Figure {
    pub name: String,
    pub title: String,
    pub caption: String,
    svg: Svg,
}

impl Figure {
    pub(super) fn new(name: &str, title: impl Into<String>, caption: impl Into<String>, svg: Svg) -> Figure {
        Figure { name: name.to_string(), title: title.into(), caption: caption.into(), svg }
    }

    /// For a page.
    pub fn inline(&self) -> String {
        self.svg.inline(&self.title)
    }

    /// An SVG file.
    pub fn file(&self) -> String {
        self.svg.file(&self.title)
    }
}

/// The class of a group.
pub fn colour(group: usize) -> String {
    format!("c{}", group % SERIES)
}

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

/// A table whose rows a reader may sort by a column; [`SORT`] does it.
pub fn sortable(head: &[&str], rows: &str) -> String {
    let head: String =
        head.iter().map(|name| format!("<th scope=\"col\"><button>{name}</button></th>")).collect();
    format!(
        "<div class=\"card\"><table class=\"sortable\"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
}

/// Sorts by the column whose name is chosen, with the mouse or the keyboard, down and then up; what is no number is last.
/// The page is whole without it.
pub const SORT: &str = "<script>\
document.querySelectorAll('table.sortable').forEach(function(table){\
const heads=table.querySelectorAll('th'),body=table.tBodies[0];\
heads.forEach(function(head,i){head.firstChild.addEventListener('click',function(){\
const down=head.getAttribute('aria-sort')!=='descending';\
function text(row){return row.cells[i].textContent.trim().replace('\u{2212}','-')}\
function value(row){const n=parseFloat(text(row));return isNaN(n)?(down?-Infinity:Infinity):n}\
function order(a,b){return i?value(a)-value(b):text(b).localeCompare(text(a))}\
const rows=Array.from(body.rows).sort(function(a,b){return down?order(b,a):order(a,b)});\
heads.forEach(function(h){h.removeAttribute('aria-sort')});\
head.setAttribute('aria-sort',down?'descending':'ascending');\
rows.forEach(function(row){body.append(row)})})})});\
</script>";

/// A table of rows beside published numbers: name, method, rule set, seeds, ours, published, verdict.
pub fn verdicts(title: &str, rows: &[[String; 7]]) -> String {
    let head = ["", "method", "rule set", "seeds", "average accuracy %", "published", "verdict"];
    let cells =
        |row: &[String; 7]| row.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect::<String>();
    let body: String = rows.iter().map(|row| format!("<tr>{}</tr>", cells(row))).collect();
    section(
        &escape(title),
        "Within: the difference to the published number is at most two deviations of both together, or half a point.",
        &sortable(&head, &body),
    )
}
