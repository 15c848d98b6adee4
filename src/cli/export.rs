//! `l2p-engine export`.

use super::print;
use crate::error::Result;
use crate::learner::SavedRun;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// What kind of file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One file with backbone, prompts, head and manifest; `predict` takes it instead of a run.
    Safetensors,
    /// The whole predictor for ONNX Runtime: pixels to logits, with the choice of prompts inside.
    Onnx,
    /// The backbone as safetensors with timm's names, and the head where it reads the plain network.
    Timm,
}

impl Format {
    fn ending(self) -> &'static str {
        match self {
            Format::Safetensors => "safetensors",
            Format::Onnx => "onnx",
            Format::Timm => "timm.safetensors",
        }
    }
}

#[derive(Debug, Args)]
pub struct Export {
    /// A work directory that `train` or `add-classes` wrote.
    #[arg(long, value_name = "DIR", default_value = "runs/default")]
    workdir: PathBuf,
    #[arg(long, value_enum, default_value = "safetensors", help = "The kind of file")]
    format: Format,
    /// The file to write; by default the name of the run with the ending of the format, beside it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Where the backbone lies now, if it has moved; its checksum must be the run's.
    #[arg(long, value_name = "FILE")]
    init_checkpoint: Option<String>,
}

impl Export {
    pub fn run(self) -> Result<()> {
        SavedRun::expect_folder(&self.workdir)?;
        let mut saved = SavedRun::read(&self.workdir)?;
        saved.locate_backbone(self.init_checkpoint.as_deref())?;
        let out = self.out.unwrap_or_else(|| {
            let whole = std::fs::canonicalize(&self.workdir).unwrap_or_else(|_| self.workdir.clone());
            let name = whole.file_name().map_or("run".into(), |name| name.to_string_lossy().into_owned());
            let folder = self.workdir.parent().filter(|_| self.workdir.file_name().is_some());
            folder.unwrap_or(&whole).join(format!("{name}.{}", self.format.ending()))
        });
        let how = match self.format {
            Format::Safetensors => {
                saved.export(&out)?;
                format!("`l2p-engine predict --workdir {} IMAGE` answers with it", out.display())
            }
            Format::Onnx => {
                saved.export_onnx(&out)?;
                "docs/export.md shows how ONNX Runtime answers with it".into()
            }
            Format::Timm => {
                saved.export_timm(&out)?;
                "docs/export.md shows how timm loads it".into()
            }
        };
        print(&format!(
            "written to {}: {}; {how}",
            out.display(),
            match self.format {
                Format::Safetensors | Format::Onnx => {
                    format!("{} classes, backbone included", saved.at.classes_seen.len())
                }
                Format::Timm => "the backbone without prompts".into(),
            },
        ));
        Ok(())
    }
}
