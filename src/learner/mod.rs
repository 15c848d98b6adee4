//! What can answer: configuration, device, backbone, prompts, head, preprocessing and class names, without data and
//! without tasks. A network is assembled here and nowhere else, for inference or for training.

mod answer;
mod assemble;
pub mod backbone;
mod exported;
mod locate;
mod onnx;
pub mod origin;
mod parts;
mod position;
mod precision;
mod purpose;
mod saved;
mod timm;

pub use answer::{Answer, ready};
pub use assemble::{InitialWeights, Learner, fitting_device, test_images};
pub use locate::locate_backbone;
pub use parts::divide;
pub use position::Position;
pub use precision::{bf16_arithmetic, precision, precision_on, reading_precision};
pub use purpose::{Purpose, planned};
pub use saved::SavedRun;
