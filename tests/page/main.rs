//! The page of `serve` in a real browser: drop, paste, predict, teach, progress, undo, a hostile class name, keyboard, names
//! for screen readers, narrow windows, dark mode.

mod browser;
#[path = "../common/mod.rs"]
mod common;

use browser::Browser;
use common::pictures::{files, pictures};
use common::process::{expect, train};
use common::server::Server;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A run and its server.
fn server(dir: &Path) -> Server {
    let run = dir.join("digits");
    expect(train(&run, &["--set", "continual.num_tasks=2"]), 0);
    Server::start(&run, &[])
}

fn browser() -> Option<Browser> {
    let browser = Browser::start();
    if browser.is_none() {
        eprintln!(
            "skipped: the page in a browser (no chromedriver; Debian: apt-get install chromium chromium-driver)"
        );
    }
    browser
}

/// Drops a file, or pastes it: a script's event with bytes in base64.
const GIVE: &str = "
    const [kind, selector, name, type, text] = arguments;
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name, { type }));
    const event = kind === 'paste' ? new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true })
        : new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true });
    document.querySelector(selector).dispatchEvent(event);";

fn give(browser: &Browser, kind: &str, selector: &str, name: &str, bytes: &[u8]) {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    browser.run(GIVE, json!([kind, selector, name, "image/png", text]));
}

fn best(server: &Server, image: &[u8]) -> String {
    let answer = server.predict(&[image.to_vec()]);
    answer["answers"][0]["classes"][0]["class"].as_str().expect("a name").to_string()
}

/// Folder of pictures where `L2P_PAGE_SHOTS` asks for them.
fn shoot(browser: &Browser, name: &str) {
    let Some(dir) = std::env::var_os("L2P_PAGE_SHOTS") else { return };
    for width in [1300, 400] {
        for scheme in ["light", "dark"] {
            browser.show(width, scheme);
            browser.shoot(&PathBuf::from(&dir).join(format!("{name}_{width}_{scheme}.png")));
        }
    }
    browser.show(1300, "light");
}

#[test]
fn images_are_named_and_classes_are_taught_in_a_browser() {
    let Some(browser) = browser() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let server = server(dir.path());
    browser.show(1300, "light");
    browser.open(server.address);
    browser.wait("#about", "Version 1 answers · 4 classes");
    shoot(&browser, "start");

    // Chosen, dropped and pasted images get the names that the API gives.
    let folder = pictures(dir.path(), &["ring"], 10).join("ring");
    let (first, second) = (folder.join("ring_00.png"), folder.join("ring_01.png"));
    browser.keys("#predict-files", &format!("{}\n{}", first.display(), second.display()));
    browser.wait("#predict-says", "2 images named.");
    let wanted = best(&server, &std::fs::read(&second).expect("an image"));
    assert_eq!(browser.text("#answers li .best"), wanted);
    assert!(browser.text("#answers li .prompts").starts_with("Prompts chosen: "));
    let cross = files("cross", 1).remove(0);
    give(&browser, "drop", "#predict-drop", "dropped.png", &cross);
    browser.wait("#answers", "dropped.png");
    assert_eq!(browser.text("#answers li .best"), best(&server, &cross));
    give(&browser, "paste", "body", "pasted.png", &cross);
    browser.wait("#answers", "pasted.png");
    give(&browser, "drop", "#predict-drop", "text.png", b"no image at all");
    browser.wait("#predict-says", "0 images named, 1 refused.");
    assert!(browser.text("#answers li:first-child").contains("found a text file"));
    assert_eq!(browser.count("#answers > li"), 5);

    // A class with a hostile name, from a folder that is dropped, then by keyboard.
    let hostile = "<img src=x onerror=\"window.hacked=1\">";
    browser.run(
        "window.seen = []; const says = document.querySelector('#teach-says'), bar = document.querySelector('#teach-progress');
         new MutationObserver(() => window.seen.push([says.textContent, bar.hidden ? -1 : bar.value]))
             .observe(says, { childList: true });",
        json!([]),
    );
    browser.keys("#teach-name", hostile);
    browser.drop("#teach-drop", &folder);
    browser.wait("#teach-chosen", "10 images chosen");
    browser.keys("#teach-start", "\u{e007}");
    browser.wait("#teach-says", "and answers now.");
    browser.wait("#about", "Version 2 answers · 5 classes");
    let seen = browser.run("return window.seen", json!([]));
    let steps: Vec<f64> = seen
        .as_array()
        .expect("a list")
        .iter()
        .filter(|line| line[0].as_str().is_some_and(|says| says.contains(", step ")))
        .filter_map(|line| line[1].as_f64())
        .collect();
    assert!(
        steps.len() > 2 && steps.is_sorted() && steps.last() > Some(&1.0),
        "the bar did not move: {seen}"
    );
    assert!(browser.text("#teach-says").contains(hostile));
    assert!(browser.text("#versions").contains(hostile));
    assert_eq!(browser.count("#versions tr"), 2);
    assert_eq!(browser.count("#chart polyline"), 2);
    browser.keys("#predict-files", &first.display().to_string());
    browser.wait("#answers li .best", hostile);
    assert_eq!(browser.count("img[src='x']"), 0);
    assert_eq!(browser.run("return window.hacked === undefined", json!([])), true);
    shoot(&browser, "taught");

    // Undo, and back again.
    browser.click("#undo");
    browser.wait("#about", "Version 1 answers · 4 classes");
    assert_eq!(best(&server, &cross), browser.text("#answers > li:nth-last-child(3) .best"));
    browser.click("button[aria-label='Use version 2']");
    browser.wait("#about", "Version 2 answers");
    let failed = server.teach("again", &files("ring", 2));
    assert_eq!(failed.status, 422);

    // A class that cannot be taught says why.
    browser.keys("#teach-name", hostile);
    browser.keys("#teach-folder", &folder.display().to_string());
    browser.keys("#teach-start", "\u{e007}");
    browser.wait("#teach-says", "is there already");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn the_page_works_by_keyboard_and_screen_reader_in_any_window() {
    let Some(browser) = browser() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let server = server(dir.path());
    browser.show(1300, "light");
    browser.open(server.address);
    browser.wait("#about", "Version 1");

    // Every control is reached by Tab, and its focus is seen.
    let mut reached = Vec::new();
    for _ in 0..4 {
        browser.press("\u{e004}");
        let at = browser.run(
            "const at = document.activeElement, zone = at.closest('label.drop') || at;
             return [at.id, getComputedStyle(zone).outlineStyle]",
            json!([]),
        );
        assert_eq!(at[1], "solid", "the focus of {} is not seen", at[0]);
        reached.push(at[0].as_str().expect("an id").to_string());
    }
    // The button that starts to teach is disabled until there are images.
    assert_eq!(reached, ["predict-files", "teach-name", "teach-folder", "teach-choose"]);

    // Every control and every picture has a name in the accessibility tree.
    browser.devtools("Accessibility.enable", json!({}));
    let tree = browser.devtools("Accessibility.getFullAXTree", json!({}));
    let mut roles = Vec::new();
    for node in tree["nodes"].as_array().expect("nodes") {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        if ["button", "textbox", "image", "heading", "region", "progressbar"].contains(&role)
            && node["ignored"] != true
        {
            let name = node["name"]["value"].as_str().unwrap_or_default();
            assert!(!name.trim().is_empty(), "a {role} has no name: {node}");
            roles.push(role.to_string());
        }
    }
    for role in ["button", "textbox", "heading", "region", "image"] {
        assert!(roles.iter().any(|known| known == role), "no {role} in {roles:?}");
    }

    // No window is too narrow, and text can be read on light and dark ground.
    let contrast = "
        const light = (color) => {
            const part = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
            const [r, g, b] = color.match(/[\\d.]+/g).map(Number);
            return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
        };
        const of = (text, ground) => {
            const [a, b] = [light(text), light(ground)];
            return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        };
        const style = (selector) => getComputedStyle(document.querySelector(selector));
        const card = style('section:not([hidden])').backgroundColor, ground = style('body').backgroundColor;
        return [of(style('body').color, card), of(style('#about').color, ground), of(style('#predict-hint').color, card),
            of(style('#teach-start').color, style('#teach-start').backgroundColor)];";
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        for width in [320, 400, 760, 1300, 2200] {
            browser.show(width, scheme);
            let wide = browser.run(
                "const page = document.documentElement; return page.scrollWidth - page.clientWidth",
                json!([]),
            );
            assert_eq!(wide, 0, "{scheme}: the page is wider than its window of {width} pixels");
        }
        let ratios: Value = browser.run(contrast, json!([]));
        for ratio in ratios.as_array().expect("numbers") {
            assert!(ratio.as_f64() >= Some(4.5), "{scheme}: contrasts {ratios}");
        }
        grounds.push(browser.run("return getComputedStyle(document.body).backgroundColor", json!([])));
    }
    assert_ne!(grounds[0], grounds[1]);
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn the_page_asks_for_a_token() {
    let Some(browser) = browser() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let run = dir.path().join("digits");
    expect(train(&run, &["--set", "continual.num_tasks=2"]), 0);
    let file = dir.path().join("token");
    std::fs::write(&file, "0123456789abcdef\n").expect("a file");
    let server = Server::start(&run, &["--token-file", file.to_str().expect("UTF-8")]);
    browser.open(server.address);
    browser.wait("#about", "Authorization");
    browser.keys("#token-value", "a wrong one\u{e007}");
    browser.wait("#about", "Authorization");
    browser.keys("#token-value", "0123456789abcdef\u{e007}");
    browser.wait("#about", "Version 1 answers");
    browser.keys(
        "#predict-files",
        &pictures(dir.path(), &["ring"], 1).join("ring/ring_00.png").display().to_string(),
    );
    browser.wait("#predict-says", "1 image named.");
}
