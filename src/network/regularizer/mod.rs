//! What holds a network near what it has learned: a term in the loss, of the parameters (EWC) or of the logits (LwF).
//!
//! The set is closed. `src/methods/gradient.rs` says what is learned beside the steps; the network asks for the term of a
//! step and its gradient.

mod ewc;
mod lwf;
mod settings;

pub use ewc::Ewc;
pub use lwf::Lwf;
pub use settings::{Settings, Sizes};

use crate::device::Device;
use crate::error::Result;
use crate::nn::params::{Grads, Params};
use crate::tensor::plan::Plan;
use crate::tensor::{Tensor, View, ViewMut};

/// The term that a method adds to the loss so that less is forgotten.
#[derive(Debug)]
pub enum Regularizer {
    None,
    Ewc(Ewc),
    Lwf(Lwf),
}

impl Regularizer {
    pub fn new(plan: &mut Plan, settings: &Settings, params: &Params, sizes: Sizes) -> Regularizer {
        plan.group("regularizer");
        match settings {
            Settings::None => Regularizer::None,
            Settings::Ewc(config) => Regularizer::Ewc(Ewc::new(plan, config, params, sizes)),
            Settings::Lwf(config) => Regularizer::Lwf(Lwf::new(plan, config, sizes)),
        }
    }

    pub fn ewc(&mut self) -> Option<&mut Ewc> {
        if let Regularizer::Ewc(ewc) = self { Some(ewc) } else { None }
    }

    pub fn lwf(&mut self) -> Option<&mut Lwf> {
        if let Regularizer::Lwf(lwf) = self { Some(lwf) } else { None }
    }

    /// The factor by which the term enters the loss; `None` without a term.
    pub fn weight(&self) -> Option<f64> {
        match self {
            Regularizer::None => None,
            Regularizer::Ewc(ewc) => Some(ewc.weight()),
            Regularizer::Lwf(lwf) => Some(lwf.weight()),
        }
    }

    /// Whether the term is in the loss yet: launches of a step depend on it.
    pub fn acts(&self) -> Result<bool> {
        match self {
            Regularizer::None => Ok(false),
            Regularizer::Ewc(ewc) => Ok(ewc.ended()? > 0),
            Regularizer::Lwf(lwf) => Ok(lwf.teaches()),
        }
    }

    /// Brings what the term knows of the images of the next step to the device.
    pub fn load(&mut self, dev: &Device) -> Result<()> {
        match self {
            Regularizer::None | Regularizer::Ewc(_) => Ok(()),
            Regularizer::Lwf(lwf) => lwf.load(dev),
        }
    }

    /// Where the term is one of the logits (B, K): overwrites `out` (1) with it, before its weight, and adds the gradient
    /// of the weighted term to `dlogits` (B, K).
    pub fn on_logits(&mut self, dev: &Device, out: ViewMut, dlogits: ViewMut, logits: View) -> Result<()> {
        match self {
            Regularizer::None | Regularizer::Ewc(_) => Ok(()),
            Regularizer::Lwf(lwf) => lwf.on_logits(dev, out, dlogits, logits),
        }
    }

    /// The same where the term is one of the parameters: adds `scale` times the gradient of the weighted term.
    pub fn on_parameters(
        &mut self,
        dev: &Device,
        out: ViewMut,
        p: &Params,
        grads: &mut Grads,
        scale: f64,
    ) -> Result<()> {
        match self {
            Regularizer::None | Regularizer::Lwf(_) => Ok(()),
            Regularizer::Ewc(ewc) => ewc.on_parameters(dev, out, p, grads, scale),
        }
    }

    /// What is as long as all that learns, by the word before the names of parameters in checkpoints; empty in a network
    /// that only answers.
    pub fn of_parameters(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Regularizer::None | Regularizer::Lwf(_) => Vec::new(),
            Regularizer::Ewc(ewc) => ewc.of_parameters().to_vec(),
        }
    }

    pub fn of_parameters_mut(&mut self) -> Vec<(&'static str, &mut Tensor)> {
        match self {
            Regularizer::None | Regularizer::Lwf(_) => Vec::new(),
            Regularizer::Ewc(ewc) => ewc.of_parameters_mut().into(),
        }
    }

    /// What else is learned beside the steps and saved, by name.
    pub fn state(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Regularizer::None => Vec::new(),
            Regularizer::Ewc(ewc) => vec![("tasks", ewc.tasks())],
            Regularizer::Lwf(lwf) => vec![("classes met", lwf.met())],
        }
    }

    pub fn state_mut(&mut self) -> Vec<(&'static str, &mut Tensor)> {
        match self {
            Regularizer::None => Vec::new(),
            Regularizer::Ewc(ewc) => vec![("tasks", ewc.tasks_mut())],
            Regularizer::Lwf(lwf) => vec![("classes met", lwf.met_mut())],
        }
    }
}
