//! What happens to each column of one result.
//!
//! INVARIANT: a column beyond the plan's end is masked, so a plan that is too short never shows a value.

use crate::model::MaskStrategy;

use super::transform::Shape;

/// How one cell is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Strategy from policy.
    pub strategy: MaskStrategy,
    /// What the cell's type can hold.
    pub shape: Shape,
}

/// The cell used where the plan says nothing: NULL fits every type.
const BEYOND: Cell = Cell { strategy: MaskStrategy::Null, shape: Shape::Opaque };

/// A compiled plan: one entry per result column, `None` for a column that passes unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    cells: Vec<Option<Cell>>,
}

impl Plan {
    /// A plan from its columns.
    #[must_use]
    pub fn new(cells: Vec<Option<Cell>>) -> Self {
        Self { cells }
    }

    /// True if every column passes unchanged. A plan without columns clears nothing.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        !self.cells.is_empty() && self.cells.iter().all(Option::is_none)
    }

    /// What happens to column `index`, from 0.
    #[must_use]
    pub fn cell(&self, index: usize) -> Option<Cell> {
        self.cells.get(index).copied().unwrap_or(Some(BEYOND))
    }

    /// Number of columns that are masked.
    #[must_use]
    pub fn masked(&self) -> usize {
        self.cells.iter().filter(|cell| cell.is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_beyond_the_plan_is_masked() {
        let plan = Plan::new(vec![None]);
        assert_eq!(plan.cell(0), None);
        assert_eq!(plan.cell(1), Some(BEYOND));
        assert!(plan.is_clear());
        assert!(!Plan::default().is_clear());
    }
}
