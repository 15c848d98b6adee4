//! A drawing, element by element. Colours are classes: the page gives them their values for light and dark,
//! a file of its own carries the light ones.

use std::fmt::Write;

/// Every colour: name, light, dark.
const COLOURS: &[(&str, &str, &str)] = &[
    ("bg", "#f6f7f9", "#0f1216"),
    ("card", "#ffffff", "#171b21"),
    ("ink", "#1b2027", "#e6e9ee"),
    ("muted", "#667080", "#98a2b0"),
    ("line", "#e1e4e9", "#2b313b"),
    ("grid", "#edeff2", "#232932"),
    ("heat", "#1d5fc4", "#5b9dff"),
    ("on-heat", "#ffffff", "#0a1222"),
    ("warn", "#b42318", "#ff8a80"),
    ("c0", "#1d5fc4", "#6aa8ff"),
    ("c1", "#c2570c", "#ff9d52"),
    ("c2", "#18794e", "#4ccb8f"),
    ("c3", "#7c3aed", "#b69cff"),
    ("c4", "#be185d", "#ff7eb6"),
    ("c5", "#0e7490", "#4fc9dd"),
    ("c6", "#85600e", "#e3b341"),
    ("c7", "#4d5b70", "#a8b3c2"),
];

/// Classes `c0` to `c7`.
pub const SERIES: usize = 8;

/// What the classes of a drawing look like.
const RULES: &str = include_str!("chart.css");

/// The colours as custom properties and the rules of the drawings, for a page.
pub fn page_style() -> String {
    let values = |pick: fn(&(&str, &str, &str)) -> String| COLOURS.iter().map(pick).collect::<String>();
    format!(
        ":root{{color-scheme:light dark;{}}}\n@media (prefers-color-scheme:dark){{:root{{{}}}}}\n{RULES}",
        values(|(name, light, _)| format!("--{name}:{light};")),
        values(|(name, _, dark)| format!("--{name}:{dark};")),
    )
}

/// Text as it may stand between tags and in attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // Not allowed in XML, not even escaped.
            c if c.is_control() && !c.is_whitespace() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Where a text stands beside its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// A drawing of a width and height in units that are pixels at its natural size.
#[derive(Debug, Clone)]
pub struct Svg {
    pub width: f64,
    pub height: f64,
    body: String,
}

impl Svg {
    pub fn new(width: f64, height: f64) -> Svg {
        Svg { width, height, body: String::new() }
    }

    fn put(&mut self, element: std::fmt::Arguments) {
        let _ = self.body.write_fmt(element);
    }

    pub fn rect(&mut self, at: (f64, f64), size: (f64, f64), class: &str, opacity: f64) {
        let ((x, y), (w, h)) = (at, size);
        self.put(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" rx=\"2.5\" class=\"{class}\" \
             fill-opacity=\"{opacity:.3}\"/>"
        ));
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.put(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        ));
    }

    pub fn circle(&mut self, at: (f64, f64), r: f64, class: &str) {
        self.put(format_args!(
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{r:.1}\" class=\"{class}\"/>",
            at.0, at.1
        ));
    }

    /// A line through points; it breaks where one is not finite.
    pub fn path(&mut self, points: &[(f64, f64)], class: &str) {
        let mut d = String::new();
        let mut pen = 'M';
        for (x, y) in points {
            if x.is_finite() && y.is_finite() {
                let _ = write!(d, "{pen}{x:.1} {y:.1}");
                pen = 'L';
            } else {
                pen = 'M';
            }
        }
        if !d.is_empty() {
            self.put(format_args!("<path d=\"{d}\" class=\"{class}\"/>"));
        }
    }

    pub fn text(&mut self, at: (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.put(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{}</text>",
            at.0,
            at.1,
            escape(text)
        ));
    }

    /// What `draw` draws, with a text that shows when the mouse rests on it.
    pub fn titled(&mut self, title: &str, draw: impl FnOnce(&mut Svg)) {
        self.put(format_args!("<g><title>{}</title>", escape(title)));
        draw(self);
        self.put(format_args!("</g>"));
    }

    /// For a page that has [`page_style`].
    pub fn inline(&self, label: &str) -> String {
        format!(
            "<svg viewBox=\"0 0 {:.0} {:.0}\" role=\"img\" aria-label=\"{}\">{}</svg>",
            self.width,
            self.height,
            escape(label),
            self.body
        )
    }

    /// Width and height of [`Svg::file`].
    pub fn file_size(&self) -> (f64, f64) {
        ((self.width + 32.0).round(), (self.height + 56.0).round())
    }

    /// A file of its own: in the light colours, with its title.
    pub fn file(&self, title: &str) -> String {
        let rules = COLOURS
            .iter()
            .fold(RULES.to_string(), |css, (name, light, _)| css.replace(&format!("var(--{name})"), light));
        let (w, h) = self.file_size();
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w:.0}\" height=\"{h:.0}\" viewBox=\"0 0 {w:.0} {h:.0}\">\
             <style>{rules}</style><rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\
             <text x=\"16\" y=\"28\" class=\"title\">{}</text><g transform=\"translate(16 44)\">{}</g></svg>\n",
            escape(title),
            self.body
        )
    }
}
