//! The examples at the end of each command's `--help`.

pub const MAIN: &str = "\
Examples:
  l2p-engine train
  l2p-engine eval --workdir runs/default
  l2p-engine help train

Exit codes: 0 done, 1 failed, 2 usage or configuration, 130 interrupted after saving.";

pub const TRAIN: &str = "\
Examples:
  l2p-engine train
  l2p-engine train --config configs/cifar100_l2p.toml --init-checkpoint ViT-B_16.npz --data-dir data
  l2p-engine train --config configs/cifar100_l2p.toml --dry-run
  l2p-engine train --set prompt_pool.length=5 --seeds 0..4 --workdir runs/short_prompts
  l2p-engine train --workdir runs/short_prompts --set prompt_pool.length=5 --seeds 0..4 --resume";

pub const ADD_CLASSES: &str = "\
Examples:
  l2p-engine add-classes --workdir runs/default --data-dir animals
  l2p-engine add-classes --workdir runs/default --data-dir animals --into runs/zoo --epochs 5
  l2p-engine add-classes --workdir runs/zoo --data-dir more_animals --update";

pub const EVAL: &str = "\
Examples:
  l2p-engine eval --workdir runs/default
  l2p-engine eval --workdir runs/default --batch-size 128 --json";

pub const LEAKCHECK: &str = "\
Examples:
  l2p-engine leakcheck --workdir runs/default
  l2p-engine leakcheck --workdir runs/default --vote-group 64 --shuffles 10 --json";

pub const PREDICT: &str = "\
Examples:
  l2p-engine predict --workdir runs/default image.png
  l2p-engine predict --workdir runs/default --json first.jpg second.jpg";

pub const SERVE: &str = "\
Examples:
  l2p-engine serve --workdir runs/default
  l2p-engine serve --workdir digits.safetensors --listen 127.0.0.1:8080
  l2p-engine serve --workdir runs/default --listen 0.0.0.0:7860 --token-file token.txt";

pub const EXPORT: &str = "\
Examples:
  l2p-engine export --workdir runs/default --out digits.safetensors
  l2p-engine export --workdir runs/default --format onnx
  l2p-engine export --workdir runs/default --format timm --out backbone.safetensors";

pub const ADOPT: &str = "\
Examples:
  l2p-engine adopt task10.pth --from l2p-pytorch --config cifar100.toml --workdir runs/l2p
  l2p-engine adopt class.pth --from coda-prompt --config coda.toml --tasks 5 --workdir runs/coda";

pub const INSPECT: &str = "\
Examples:
  l2p-engine inspect ViT-B_16.npz
  l2p-engine inspect runs/default";

pub const REPORT: &str = "\
Examples:
  l2p-engine report --workdir runs/default --out report.html
  l2p-engine report --workdir runs --csv
  l2p-engine report --workdir runs/l2p runs/dualprompt --svg drawings";

pub const REPRODUCE: &str = "\
Examples:
  l2p-engine reproduce configs/reproduce/here.toml
  l2p-engine reproduce configs/reproduce/cifar100.toml --dry-run --gpu h200
  l2p-engine reproduce configs/reproduce/cifar100.toml --data-dir data --only l2p,dualprompt";

pub const DEVICES: &str = "\
Example:
  l2p-engine devices";

pub const PRETRAIN: &str = "\
Examples:
  l2p-engine pretrain --config configs/pretrain_micro.toml --data-dir glyphs --out micro.safetensors
  l2p-engine pretrain --init-checkpoint vit.safetensors --data-dir photos --config photos.toml
  l2p-engine pretrain --config configs/pretrain_micro.toml --data-dir glyphs --resume";

pub const COMPLETIONS: &str = "\
Examples:
  l2p-engine completions bash > ~/.local/share/bash-completion/completions/l2p-engine
  l2p-engine completions fish > ~/.config/fish/completions/l2p-engine.fish";

pub const MAN: &str = "\
Examples:
  l2p-engine man > l2p-engine.1
  l2p-engine man ~/.local/share/man/man1";

pub const CHECK_DEVICE: &str = "\
Examples:
  l2p-engine check-device
  l2p-engine check-device --device cuda:1 --config configs/cifar100_l2p.toml --again --json";
