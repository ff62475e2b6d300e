//! How a program and what it depends on is: what checks say.

mod status;

pub use status::{IntoStatus, Status};
