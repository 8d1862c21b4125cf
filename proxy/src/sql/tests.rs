//! Facts of whole texts.

use super::*;

mod corpus;
