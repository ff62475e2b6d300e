//! The only place that imports every room: the builder wires them, the handle speaks for them, the owner ends them.

mod builder;
mod handle;
mod own_checks;
mod owner;
mod picture;
mod questions;
mod system_checks;

pub use builder::{Builder, builder, init};
pub use handle::{Handle, Stats};
pub use owner::{L0, get};
