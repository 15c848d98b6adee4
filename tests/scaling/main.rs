//! `docs/scaling.md`: its tables are what its inputs give, and its counts are the program's.

#[path = "../common/mod.rs"]
mod common;

use common::process::{engine, expect};
use std::collections::BTreeMap;
use std::path::Path;

const METHODS: [(&str, &str, &str); 3] = [
    ("l2p", "L2P", "cifar100_l2p"),
    ("dualprompt", "DualPrompt", "cifar100_dualprompt"),
    ("full", "full fine-tuning", "core50_l2p"),
];

/// What the GPUs of a machine are joined by, and machines of how many GPUs there are.
struct Fabric {
    name: &'static str,
    within: &'static str,
    machines: fn(usize) -> usize,
}

const FABRICS: [Fabric; 3] = [
    Fabric { name: "NVLink", within: "nvlink", machines: |_| 1 },
    Fabric { name: "PCIe", within: "pcie", machines: |gpus| gpus / 8 },
    Fabric { name: "Ethernet", within: "nvlink", machines: |_| 8 },
];

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/scaling.md");
    std::fs::read_to_string(path).expect("docs/scaling.md")
}

/// The rows of the table of inputs: name to value.
struct Inputs(BTreeMap<String, f64>);

impl Inputs {
    fn read(text: &str) -> Inputs {
        let section = text.split("## Inputs").nth(1).expect("inputs").split("## ").next().expect("a section");
        let mut inputs = BTreeMap::new();
        for line in section.lines().filter(|l| l.starts_with("| ")).skip(1) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 5, "{line}");
            assert!(["counted", "published", "assumed", "measured by us"].contains(&cells[3]), "{line}");
            let value = cells[1].parse().unwrap_or_else(|_| panic!("a number: {line}"));
            assert!(inputs.insert(cells[0].to_string(), value).is_none(), "{} is there twice", cells[0]);
        }
        Inputs(inputs)
    }

    fn get(&self, name: &str) -> f64 {
        *self.0.get(name).unwrap_or_else(|| panic!("docs/scaling.md has no input `{name}`"))
    }

    /// Seconds of an all-reduce of so many bytes over `gpus` GPUs.
    fn all_reduce(&self, fabric: &Fabric, gpus: usize, bytes: f64) -> f64 {
        let machines = (fabric.machines)(gpus);
        let slowest = if machines > 1 { "net" } else { fabric.within };
        let whole = self.get(&format!("{slowest}.bandwidth")) * self.get(&format!("{slowest}.share"));
        let (n, m) = (gpus as f64, machines as f64);
        let mut best = f64::INFINITY;
        for (algorithm, [within, between], ratio) in [
            (
                "ring",
                if machines > 1 { [2.0 * (n - 1.0) - 2.0 * m, 2.0 * m] } else { [2.0 * (n - 1.0), 0.0] },
                n / (2.0 * (n - 1.0)),
            ),
            ("tree", [2.0 * (n / m - 1.0), 2.0 * m.log2()], 0.5 * self.get("tree.factor")),
        ] {
            for protocol in ["ll", "simple"] {
                let step = |link: &str| self.get(&format!("{link}.{algorithm}.{protocol}"));
                // A ring of one GPU per machine has nothing within.
                let steps =
                    within.max(0.0) * step(fabric.within) + between * (step("net") + self.get("tcp.step"));
                let latency = self.get(&format!("{algorithm}.{protocol}.base")) + steps;
                let bandwidth = if protocol == "ll" { (whole / 2.0).min(self.get("ll.most")) } else { whole };
                best = best.min(latency * 1e-6 + bytes / (bandwidth * ratio * 1e9));
            }
        }
        best
    }

    fn step(&self, method: &str, images: f64) -> f64 {
        self.get("fixed") * 1e-3 + images * self.get(&format!("{method}.work")) / (self.get("rate") * 1e3)
    }

    fn overlapped(&self, exchange: f64, images: f64) -> f64 {
        (exchange - images * self.get("query") / (self.get("rate") * 1e3)).max(0.0)
    }

    fn weak(&self) -> String {
        let mut text = String::from(
            "| method | MB | fabric | GPUs | all-reduce ms | step ms | by itself | overlapped |\n|---|--:|---|--:|--:|--:|--:|--:|\n",
        );
        for (method, name, _) in METHODS {
            let bytes = 4.0 * self.get(&format!("{method}.learned"));
            for fabric in &FABRICS {
                for gpus in [8, 64] {
                    let exchange = self.all_reduce(fabric, gpus, bytes);
                    let images = self.get("images");
                    let step = self.step(method, images);
                    let share = |seen: f64| 100.0 * step / (step + seen);
                    text += &format!(
                        "| {name} | {:.2} | {} | {gpus} | {:.3} | {:.1} | {:.1} % | {:.1} % |\n",
                        bytes / 1e6,
                        fabric.name,
                        1e3 * exchange,
                        1e3 * step,
                        share(exchange),
                        share(self.overlapped(exchange, images))
                    );
                }
            }
        }
        text
    }

    fn strong(&self) -> String {
        let mut text = String::from(
            "| method | images | fabric | GPUs | per GPU | by itself | overlapped | times as fast as one |\n|---|--:|---|--:|--:|--:|--:|--:|\n",
        );
        for (method, name, _) in METHODS {
            let bytes = 4.0 * self.get(&format!("{method}.learned"));
            let images = self.get(&format!("{method}.images"));
            for fabric in &FABRICS {
                for gpus in [8, 64] {
                    let exchange = self.all_reduce(fabric, gpus, bytes);
                    let own = images / gpus as f64;
                    let times = |seen: f64| self.step(method, images) / (self.step(method, own) + seen);
                    let hidden = times(self.overlapped(exchange, own));
                    let share = |times: f64| 100.0 * times / gpus as f64;
                    text += &format!(
                        "| {name} | {images} | {} | {gpus} | {own} | {:.1} % | {:.1} % | {hidden:.1} |\n",
                        fabric.name,
                        share(times(exchange)),
                        share(hidden)
                    );
                }
            }
        }
        text
    }
}

#[test]
fn the_tables_are_what_the_inputs_give() {
    let text = document();
    let inputs = Inputs::read(&text);
    let tables = [inputs.weak(), inputs.strong()];
    let stale = tables.iter().any(|table| !text.contains(table));
    assert!(!stale, "docs/scaling.md has other tables than its inputs give:\n{}", tables.join("\n"));
}

/// Limits that the formulas must keep.
#[test]
fn the_model_behaves() {
    let inputs = Inputs::read(&document());
    for fabric in &FABRICS {
        for gpus in [8, 64] {
            let [small, large] = [4e3, 4e9].map(|bytes| inputs.all_reduce(fabric, gpus, bytes));
            assert!(small > 6e-6 && small < large, "{}", fabric.name);
            // A large one moves every byte out of each machine and into it about once in each half.
            let slowest = if (fabric.machines)(gpus) > 1 { "net" } else { fabric.within };
            let rate =
                inputs.get(&format!("{slowest}.bandwidth")) * inputs.get(&format!("{slowest}.share")) * 1e9;
            let times = large * rate / 4e9;
            assert!(times > 1.74 && times < 2.2, "{}, {gpus}: {times}", fabric.name);
        }
    }
    assert!(inputs.overlapped(1e-3, 1e9) == 0.0 && inputs.overlapped(1e-3, 0.0) == 1e-3);
}

#[test]
fn the_counts_are_the_programs() {
    let inputs = Inputs::read(&document());
    for (method, _, config) in METHODS {
        let mut command = engine();
        command.args(["train", "--dry-run", "--device", "cpu", "--config"]);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("configs/{config}.toml")));
        let said = expect(command, 0);
        for wanted in [
            format!("steps of {} images", inputs.get(&format!("{method}.images"))),
            format!(" {} of ", inputs.get(&format!("{method}.learned"))),
            format!("per training image {:.2} GFLOP", inputs.get(&format!("{method}.work"))),
            format!("and once {:.2}", inputs.get("query")),
        ] {
            assert!(said.contains(&wanted), "{config}: no `{wanted}` in\n{said}");
        }
    }
}
