//! The kinds of chart: lines over an axis, heat map, values in a row, small multiples.

use super::svg::{Anchor, Svg};

/// Width of every chart in pixels at its natural size.
pub const WIDTH: f64 = 460.0;

/// Cells with numbers, and with texts under the mouse, up to this many columns and cells.
const MOST_NUMBERED: usize = 12;
const MOST_TITLED: usize = 2500;
/// Points of a line; more are not visible at this width.
const MOST_POINTS: usize = 300;

/// A line: its class, its name at its right end, its points, and the half height of a band around each.
#[derive(Debug, Clone, Default)]
pub struct Line {
    pub class: String,
    pub name: String,
    pub points: Vec<(f64, f64)>,
    pub band: Vec<f64>,
}

/// Name and marks of the horizontal axis.
#[derive(Debug, Clone, Default)]
pub struct Axis {
    pub name: String,
    /// Places with a text; without any, round numbers.
    pub ticks: Vec<(f64, String)>,
    /// Dotted vertical lines.
    pub cuts: Vec<f64>,
}

/// A rectangle of the drawing and the values at its edges.
#[derive(Debug, Clone, Copy)]
struct ChartFrame {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    x: (f64, f64),
    y: (f64, f64),
}

impl ChartFrame {
    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.across(x), self.top + self.height * (1.0 - part(y, self.y)))
    }

    fn across(&self, x: f64) -> f64 {
        self.left + self.width * part(x, self.x)
    }

    fn bottom(&self) -> f64 {
        self.top + self.height
    }

    fn right(&self) -> f64 {
        self.left + self.width
    }
}

/// Where `value` lies between `lo` and `hi`, as a fraction.
fn part(value: f64, (lo, hi): (f64, f64)) -> f64 {
    if hi > lo { (value - lo) / (hi - lo) } else { 0.5 }
}

/// Round numbers in a range, about `wanted` of them.
fn ticks((lo, hi): (f64, f64), wanted: f64) -> Vec<f64> {
    let rough = (hi - lo) / wanted;
    if !rough.is_finite() || rough <= 0.0 {
        return vec![lo];
    }
    let ten = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|f| f * ten).into_iter().find(|s| *s >= rough).unwrap_or(rough);
    let first = (lo / step - 1e-9).ceil();
    let last = (hi / step + 1e-9).floor();
    (0..=(last - first).max(0.0) as usize).map(|i| (first + i as f64) * step).collect()
}

/// The range of finite values, widened to round numbers.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (lo, hi) = values
        .filter(|v| v.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)));
    if lo > hi {
        return (0.0, 1.0);
    }
    let pad = ((hi - lo) * 0.05).max(hi.abs().max(1e-3) * 0.02);
    let (from, to) = (lo - pad, hi + pad);
    let marks = ticks((from, to), 8.0);
    let step = marks.get(1).map_or(to - from, |second| second - marks[0]);
    let (from, to) = ((from / step).floor() * step, (to / step).ceil() * step);
    // What is never negative, or no more than all, does not look as if it could be.
    (if lo >= 0.0 { from.max(0.0) } else { from }, if hi <= 100.0 && to > 100.0 { 100.0 } else { to })
}

/// A number as short as its axis allows.
fn short(value: f64, step: f64) -> String {
    let decimals = (-step.abs().log10().floor()).clamp(0.0, 4.0) as usize;
    let text = format!("{value:.decimals$}");
    if text.trim_start_matches(['-', '0', '.']).is_empty() { "0".into() } else { text }
}

/// About the width of a text of 12 pixels.
fn text_width(text: &str) -> f64 {
    6.7 * text.chars().count() as f64
}

fn clip(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_string();
    }
    text.chars().take(chars.saturating_sub(1)).chain(['…']).collect()
}

/// Lines over a common axis. `y`: the range; without one, that of the points.
pub fn lines(axis: &Axis, lines: &[Line], y: Option<(f64, f64)>) -> Svg {
    let height = 250.0;
    let mut svg = Svg::new(WIDTH, height);
    let names: Vec<String> = lines.iter().map(|l| clip(&l.name, 20)).collect();
    let margin = names.iter().map(|n| text_width(n)).fold(0.0, f64::max);
    let all = || lines.iter().flat_map(|l| &l.points);
    let y = y.unwrap_or_else(|| {
        let edges = lines.iter().flat_map(|l| {
            let band = |i: usize| l.band.get(i).copied().unwrap_or(0.0);
            l.points.iter().enumerate().flat_map(move |(i, p)| [p.1 - band(i), p.1 + band(i)])
        });
        range(edges)
    });
    let (lo, hi) = all()
        .map(|p| p.0)
        .chain(axis.ticks.iter().map(|t| t.0))
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)));
    let x = if lo <= hi { (lo, hi) } else { (0.0, 1.0) };
    let frame = ChartFrame {
        left: 38.0,
        top: 10.0,
        width: WIDTH - 38.0 - 12.0 - margin,
        height: height - 52.0,
        x,
        y,
    };
    grid(&mut svg, &frame, axis);
    let mut ends = Vec::new();
    for (line, name) in lines.iter().zip(names) {
        let points = thin(&line.points);
        if line.band.len() == line.points.len() && line.band.iter().any(|b| *b > 0.0) {
            let edge = |sign: f64| {
                let moved = line.points.iter().zip(&line.band).map(move |(p, b)| (p.0, p.1 + sign * b));
                moved.filter(|p| p.1.is_finite()).map(|p| frame.at(p)).collect::<Vec<_>>()
            };
            let outline: Vec<(f64, f64)> =
                edge(1.0).into_iter().chain(edge(-1.0).into_iter().rev()).collect();
            svg.path(&outline, &format!("band {}", line.class));
        }
        let drawn: Vec<(f64, f64)> = points.iter().map(|p| frame.at(*p)).collect();
        svg.path(&drawn, &line.class);
        if drawn.len() <= MOST_NUMBERED && !line.class.contains("baseline") {
            let kind = if line.class.contains("dash") { "ring" } else { "dot" };
            for (p, at) in points.iter().zip(&drawn).filter(|(_, at)| at.1.is_finite()) {
                let title = format!("{}: {}", line.name, short(p.1, 0.01));
                svg.titled(&title, |svg| svg.circle(*at, 3.2, &format!("{kind} {}", line.class)));
            }
        }
        if let Some(last) = drawn.iter().rev().find(|at| at.1.is_finite() && !name.is_empty()) {
            ends.push((last.1, name, line.class.clone()));
        }
    }
    for (at, name, class) in apart(ends, 14.0, (frame.top, frame.bottom())) {
        let class = class.replace("dash", "");
        svg.text((frame.right() + 9.0, at + 4.0), Anchor::Start, &format!("own {class}"), &name);
    }
    svg
}

fn grid(svg: &mut Svg, frame: &ChartFrame, axis: &Axis) {
    let marks = ticks(frame.y, 4.0);
    let step = marks.get(1).map_or(1.0, |second| second - marks[0]);
    for value in marks {
        let (_, at) = frame.at((frame.x.0, value));
        svg.line((frame.left, at), (frame.right(), at), "grid");
        svg.text((frame.left - 7.0, at + 4.0), Anchor::End, "muted", &short(value, step));
    }
    for cut in &axis.cuts {
        let at = frame.across(*cut);
        svg.line((at, frame.top), (at, frame.bottom()), "cut");
    }
    svg.line((frame.left, frame.bottom()), (frame.right(), frame.bottom()), "axis");
    let own: Vec<(f64, String)> = match axis.ticks.is_empty() {
        true => {
            let marks = ticks(frame.x, 5.0);
            let step = marks.get(1).map_or(1.0, |second| second - marks[0]);
            marks.into_iter().map(|v| (v, short(v, step))).collect()
        }
        false => axis.ticks.clone(),
    };
    // As many texts as have room.
    let widest = own.iter().map(|(_, t)| text_width(t)).fold(12.0, f64::max) + 8.0;
    let every = (own.len() as f64 * widest / frame.width).ceil().max(1.0) as usize;
    for (value, text) in own.iter().step_by(every) {
        svg.text((frame.across(*value), frame.bottom() + 17.0), Anchor::Middle, "muted", text);
    }
    let middle = 0.5 * (frame.left + frame.right());
    svg.text((middle, frame.bottom() + 35.0), Anchor::Middle, "muted", &axis.name);
}

/// At most [`MOST_POINTS`] points: means of neighbours.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let each = points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let n = chunk.len() as f64;
        (chunk.iter().map(|p| p.0).sum::<f64>() / n, chunk.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(each).map(mean).collect()
}

/// Moves places that are nearer than `gap` apart, within a range.
fn apart(
    mut ends: Vec<(f64, String, String)>,
    gap: f64,
    (top, bottom): (f64, f64),
) -> Vec<(f64, String, String)> {
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut lowest = top;
    for end in &mut ends {
        end.0 = end.0.max(lowest);
        lowest = end.0 + gap;
    }
    let mut ceiling = bottom;
    for end in ends.iter_mut().rev() {
        end.0 = end.0.min(ceiling);
        ceiling = end.0 - gap;
    }
    ends
}

/// A table of values as colours.
#[derive(Debug, Clone, Default)]
pub struct Heat {
    pub rows: Vec<String>,
    pub columns: Vec<String>,
    pub column_name: String,
    /// Row by row; rows may be short.
    pub values: Vec<Vec<f64>>,
    /// Values of the palest and the strongest colour.
    pub range: (f64, f64),
    /// Decimals of the numbers.
    pub decimals: usize,
    /// A column at the right: its name, and a text per row.
    pub beside: Option<(String, Vec<String>)>,
    /// Nothing is written where a value is zero.
    pub hide_zeros: bool,
    /// Columns to warn of.
    pub marked: Vec<usize>,
}

pub fn heat(map: &Heat) -> Svg {
    let (rows, columns) = (map.rows.len(), map.columns.len().max(1));
    let left = map.rows.iter().map(|r| text_width(r)).fold(0.0, f64::max).min(140.0) + 10.0;
    let beside = map.beside.as_ref();
    let right = beside.map_or(0.0, |(name, texts)| {
        texts.iter().chain([name]).map(|t| text_width(t)).fold(0.0, f64::max) + 10.0
    });
    let cell = (WIDTH - left - right) / columns as f64;
    let high = cell.clamp(if rows > 40 { 6.0 } else { 16.0 }, 34.0);
    let top = 22.0;
    let mut svg = Svg::new(WIDTH, top + high * rows as f64 + 24.0);
    let every = (columns as f64 * 22.0 / (WIDTH - left - right)).ceil().max(1.0) as usize;
    for (c, name) in map.columns.iter().enumerate() {
        let (named, marked) = (c % every == 0, map.marked.contains(&c));
        let (class, text) = match (named, marked) {
            (true, false) => ("muted", name.as_str()),
            (true, true) => ("warn strong", name.as_str()),
            (false, true) => ("warn strong", "×"),
            (false, false) => continue,
        };
        svg.text((left + (c as f64 + 0.5) * cell, top - 8.0), Anchor::Middle, class, text);
    }
    if let Some((name, _)) = beside {
        svg.text((WIDTH, top - 8.0), Anchor::End, "muted", name);
    }
    let row_step = (14.0 / high).ceil().max(1.0) as usize;
    let gap = if cell > 8.0 { 2.0 } else { 0.4 };
    for (r, name) in map.rows.iter().enumerate() {
        let y = top + high * r as f64;
        let middle = y + 0.5 * high + 4.0;
        if r % row_step == 0 {
            svg.text((left - 8.0, middle), Anchor::End, "muted", &clip(name, 21));
        }
        for c in 0..columns {
            let value = map.values.get(r).and_then(|row| row.get(c)).copied().filter(|v| v.is_finite());
            let Some(value) = value else { continue };
            let share = part(value, map.range).clamp(0.0, 1.0);
            let at = (left + cell * c as f64 + 0.5 * gap, y + 0.5 * gap);
            let number = format!("{value:.*}", map.decimals);
            let zero = number.trim_start_matches(['-', '0', '.']).is_empty();
            let number = if zero { number.trim_start_matches('-').to_string() } else { number };
            let draw = |svg: &mut Svg| {
                svg.rect(at, (cell - gap, high - gap), "heat", 0.05 + 0.95 * share);
                if columns <= MOST_NUMBERED
                    && !(map.hide_zeros && value == 0.0)
                    && text_width(&number) < cell - 2.0
                {
                    let class = if share > 0.55 { "on small" } else { "small" };
                    let class = if cell > 40.0 {
                        class.replace(" small", "").replace("small", "")
                    } else {
                        class.into()
                    };
                    svg.text((left + cell * (c as f64 + 0.5), middle), Anchor::Middle, &class, &number);
                }
            };
            match rows * columns <= MOST_TITLED {
                true => {
                    let column = map.columns.get(c).map_or("", String::as_str);
                    let title = format!("{name}, {} {column}: {number}", map.column_name);
                    svg.titled(&title, draw);
                }
                false => draw(&mut svg),
            }
        }
        if let Some(text) = beside.and_then(|(_, texts)| texts.get(r)) {
            svg.text((WIDTH, middle), Anchor::End, "", text);
        }
    }
    let middle = left + 0.5 * cell * columns as f64;
    svg.text((middle, svg.height - 6.0), Anchor::Middle, "muted", &map.column_name);
    svg
}

/// One line of a [`standing`]: a name, dots, and the text at its end.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    pub name: String,
    pub text: String,
    pub dots: Vec<Dot>,
}

/// A value with the half length of the bar through it.
#[derive(Debug, Clone, Default)]
pub struct Dot {
    pub value: f64,
    pub deviation: f64,
    /// Of the circle: `dot`, `ring` or `faint dot`, and a colour.
    pub class: String,
}

/// Values of several names on one horizontal axis.
pub fn standing(rows: &[Standing], axis_name: &str) -> Svg {
    let (high, top) = (26.0, 6.0);
    let name_chars = 22;
    let left = rows.iter().map(|r| text_width(&clip(&r.name, name_chars))).fold(0.0, f64::max) + 12.0;
    let right = rows.iter().map(|r| text_width(&r.text)).fold(0.0, f64::max) + 12.0;
    let mut svg = Svg::new(WIDTH, top + high * rows.len() as f64 + 42.0);
    let values = rows.iter().flat_map(|r| &r.dots);
    let x = range(values.flat_map(|d| [d.value - d.deviation, d.value + d.deviation]));
    let height = high * rows.len() as f64;
    let frame = ChartFrame { left, top, width: WIDTH - left - right, height, x, y: (0.0, 1.0) };
    let marks = ticks(x, 4.0);
    let step = marks.get(1).map_or(1.0, |second| second - marks[0]);
    for value in marks {
        let at = frame.across(value);
        svg.line((at, top), (at, frame.bottom()), "grid");
        svg.text((at, frame.bottom() + 17.0), Anchor::Middle, "muted", &short(value, step));
    }
    svg.line((left, frame.bottom()), (frame.right(), frame.bottom()), "axis");
    svg.text((0.5 * (left + frame.right()), frame.bottom() + 35.0), Anchor::Middle, "muted", axis_name);
    for (r, row) in rows.iter().enumerate() {
        let y = top + high * (r as f64 + 0.5);
        svg.text((left - 12.0, y + 4.0), Anchor::End, "", &clip(&row.name, name_chars));
        svg.line((left, y), (frame.right(), y), "grid");
        for dot in row.dots.iter().filter(|d| d.value.is_finite()) {
            if dot.deviation > 0.0 {
                let ends = [-1.0, 1.0].map(|sign| (frame.across(dot.value + sign * dot.deviation), y));
                svg.line(
                    ends[0],
                    ends[1],
                    &format!("bar {}", dot.class.replace("ring", "").replace("dot", "")),
                );
            }
            // A ring shows around a dot at the same place.
            let r = if dot.class.contains("faint") {
                3.0
            } else if dot.class.contains("ring") {
                5.8
            } else {
                4.2
            };
            let title = format!("{}: {:.2}", row.name, dot.value);
            svg.titled(&title, |svg| svg.circle((frame.across(dot.value), y), r, &dot.class));
        }
        svg.text((WIDTH, y + 4.0), Anchor::End, "strong", &row.text);
    }
    svg
}

/// Small charts of the same axes, three in a row: a title and lines each.
pub fn panels(panels: &[(String, Vec<Line>)], x: (f64, f64)) -> Svg {
    let across = 3;
    let y = range(panels.iter().flat_map(|(_, lines)| lines).flat_map(|l| &l.points).map(|p| p.1));
    let (wide, high) = (WIDTH / across as f64, 104.0);
    let mut svg = Svg::new(WIDTH, high * panels.len().div_ceil(across).max(1) as f64);
    for (n, (title, lines)) in panels.iter().enumerate() {
        let (left, top) = (wide * (n % across) as f64 + 26.0, high * (n / across) as f64 + 20.0);
        let frame = ChartFrame { left, top, width: wide - 40.0, height: high - 44.0, x, y };
        svg.text((left, top - 7.0), Anchor::Start, "small strong", &clip(title, 20));
        let marks = ticks(y, 2.0);
        let step = marks.get(1).map_or(1.0, |second| second - marks[0]);
        for value in marks {
            let (_, at) = frame.at((x.0, value));
            svg.line((left, at), (frame.right(), at), "grid");
            svg.text((left - 5.0, at + 3.5), Anchor::End, "muted small", &short(value, step));
        }
        svg.line((left, frame.bottom()), (frame.right(), frame.bottom()), "axis");
        for (value, anchor) in [(x.0, Anchor::Start), (x.1, Anchor::End)] {
            let at = (frame.across(value), frame.bottom() + 14.0);
            svg.text(at, anchor, "muted small", &short(value, 1.0));
        }
        for line in lines {
            let drawn: Vec<(f64, f64)> = line.points.iter().map(|p| frame.at(*p)).collect();
            svg.path(&drawn, &line.class);
            if let Some(last) = drawn.last().filter(|at| at.1.is_finite()) {
                let value = line.points.last().map_or(f64::NAN, |p| p.1);
                let (title, class) = (format!("{}: {value:.2}", line.name), format!("dot {}", line.class));
                svg.titled(&title, |svg| svg.circle(*last, 3.0, &class));
            }
        }
    }
    svg
}
