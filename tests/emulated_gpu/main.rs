//! The emulated GPU itself: that it computes what the hardware computes, that it finds each of the bugs
//! planted in `tests/emulation/planted`, and that its driver keeps the order of streams, events and graphs
//! and no more than that.

#[path = "../emulation/mod.rs"]
mod emulation;
#[path = "../emulation/gpu.rs"]
mod gpu;
#[path = "../emulation/hopper.rs"]
mod hopper;
#[path = "../emulation/planted.rs"]
mod planted;
#[path = "../emulation/races.rs"]
mod races;
#[path = "../emulation/streams.rs"]
mod streams;
