//! Meaning of every parse node kind, by name. Kinds that are not here are unknown, and so is a statement with one.
//!
//! INVARIANT: a kind is `Part` only if it has no effect of its own, whatever its fields say. Kinds whose fields matter
//! are `Special` and read in `collect.rs`. Kinds of the analysed (not raw) tree never come from the parser and are
//! left out on purpose.

use crate::model::Effect;

/// What a node kind means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Harmless in itself; look below.
    Part,
    /// Handled by name.
    Special,
    /// A statement with these effects; relations and expressions are below.
    Does(&'static [Effect]),
    /// A statement whose reach no parser sees.
    Opaque,
    /// Never heard of.
    Stranger,
}

/// The meaning of a kind.
pub(super) fn meaning(kind: &str) -> Meaning {
    if PARTS.binary_search(&kind).is_ok() {
        return Meaning::Part;
    }
    if SPECIAL.binary_search(&kind).is_ok() {
        return Meaning::Special;
    }
    if OPAQUE.binary_search(&kind).is_ok() {
        return Meaning::Opaque;
    }
    definition(kind)
}

fn definition(kind: &str) -> Meaning {
    Meaning::Does(match kind {
        "CreateStmt"
        | "CreateTableAsStmt"
        | "IndexStmt"
        | "CreateSeqStmt"
        | "CreateSchemaStmt"
        | "RuleStmt"
        | "CreateDomainStmt"
        | "CreateEnumStmt"
        | "CreateRangeStmt"
        | "CompositeTypeStmt"
        | "DefineStmt"
        | "CreateCastStmt"
        | "CreateConversionStmt"
        | "CreateStatsStmt"
        | "CreateOpClassStmt"
        | "CreateOpFamilyStmt"
        | "CreatedbStmt"
        | "CreateTransformStmt"
        | "CreateAmStmt" => &[Effect::Create],
        "CreatePolicyStmt" => &[Effect::Create, Effect::Grant],
        "AlterTableStmt"
        | "AlterSeqStmt"
        | "AlterDomainStmt"
        | "AlterEnumStmt"
        | "AlterTypeStmt"
        | "AlterCollationStmt"
        | "AlterObjectDependsStmt"
        | "AlterOpFamilyStmt"
        | "AlterOperatorStmt"
        | "AlterStatsStmt"
        | "AlterTsConfigurationStmt"
        | "AlterTsDictionaryStmt"
        | "AlterDatabaseStmt"
        | "AlterDatabaseRefreshCollStmt"
        | "AlterFunctionStmt"
        | "ClusterStmt"
        | "ReindexStmt"
        | "VacuumStmt" => &[Effect::Alter],
        "AlterPolicyStmt" => &[Effect::Alter, Effect::Grant],
        "DropdbStmt" => &[Effect::Drop],
        "DropRoleStmt" => &[Effect::Drop, Effect::Grant],
        "GrantRoleStmt" | "AlterDefaultPrivilegesStmt" | "CreateRoleStmt" | "AlterRoleStmt" => {
            &[Effect::Grant]
        }
        "VariableShowStmt" | "ListenStmt" => &[Effect::Select],
        "FetchStmt" => &[Effect::Select],
        "NotifyStmt" => &[Effect::Update],
        "DiscardStmt" | "DeallocateStmt" | "ClosePortalStmt" | "UnlistenStmt" | "ConstraintsSetStmt" => {
            &[Effect::Set]
        }
        _ => return Meaning::Stranger,
    })
}

/// Sorted. Expressions, clauses and pieces of definitions.
const PARTS: &[&str] = &[
    "AArrayExpr",
    "AConst",
    "AIndices",
    "AStar",
    "AccessPriv",
    "Alias",
    "AtAlterConstraint",
    "BitString",
    "BoolExpr",
    "Boolean",
    "BooleanTest",
    "CaseExpr",
    "CaseWhen",
    "CoalesceExpr",
    "CollateClause",
    "ColumnDef",
    "Constraint",
    "CreateOpClassItem",
    "CteCycleClause",
    "CteSearchClause",
    "CurrentOfExpr",
    "Float",
    "FunctionParameter",
    "GroupingFunc",
    "GroupingSet",
    "InferClause",
    "Integer",
    "IntoClause",
    "JoinExpr",
    "JsonAggConstructor",
    "JsonArgument",
    "JsonArrayAgg",
    "JsonArrayConstructor",
    "JsonArrayQueryConstructor",
    "JsonBehavior",
    "JsonFormat",
    "JsonFuncExpr",
    "JsonIsPredicate",
    "JsonKeyValue",
    "JsonObjectAgg",
    "JsonObjectConstructor",
    "JsonOutput",
    "JsonParseExpr",
    "JsonReturning",
    "JsonScalarExpr",
    "JsonSerializeExpr",
    "JsonTable",
    "JsonTableColumn",
    "JsonTablePathSpec",
    "JsonValueExpr",
    "List",
    "MergeSupportFunc",
    "MergeWhenClause",
    "MinMaxExpr",
    "MultiAssignRef",
    "NamedArgExpr",
    "NullTest",
    "ObjectWithArgs",
    "OnConflictClause",
    "ParamRef",
    "PartitionBoundSpec",
    "PartitionCmd",
    "PartitionElem",
    "PartitionRangeDatum",
    "PartitionSpec",
    "RangeFunction",
    "RangeSubselect",
    "RangeTableFunc",
    "RangeTableFuncCol",
    "ReplicaIdentityStmt",
    "ReturnStmt",
    "ReturningOption",
    "RoleSpec",
    "RowExpr",
    "SetToDefault",
    "SqlValueFunction",
    "StatsElem",
    "String",
    "TableLikeClause",
    "TriggerTransition",
    "TypeCast",
    "VacuumRelation",
    "WindowDef",
    "XmlExpr",
    "XmlSerialize",
];

/// Sorted. Read field by field in `collect.rs`.
const SPECIAL: &[&str] = &[
    "AExpr",
    "AIndirection",
    "AlterObjectSchemaStmt",
    "AlterOwnerStmt",
    "AlterTableCmd",
    "CallStmt",
    "ColumnRef",
    "CommentStmt",
    "CommonTableExpr",
    "CopyStmt",
    "CreateExtensionStmt",
    "CreateFunctionStmt",
    "CreateTrigStmt",
    "DeclareCursorStmt",
    "DefElem",
    "DeleteStmt",
    "DropStmt",
    "ExecuteStmt",
    "ExplainStmt",
    "FuncCall",
    "GrantStmt",
    "IndexElem",
    "InsertStmt",
    "LockStmt",
    "LockingClause",
    "MergeStmt",
    "PrepareStmt",
    "RangeTableSample",
    "RangeVar",
    "RefreshMatViewStmt",
    "RenameStmt",
    "ResTarget",
    "ReturningClause",
    "SelectStmt",
    "SortBy",
    "SubLink",
    "TransactionStmt",
    "TruncateStmt",
    "TypeName",
    "UpdateStmt",
    "VariableSetStmt",
    "ViewStmt",
    "WithClause",
];

/// Sorted. Known, and known to reach further than their text says.
const OPAQUE: &[&str] = &[
    "AlterDatabaseSetStmt",
    "AlterEventTrigStmt",
    "AlterExtensionContentsStmt",
    "AlterExtensionStmt",
    "AlterFdwStmt",
    "AlterForeignServerStmt",
    "AlterPublicationStmt",
    "AlterRoleSetStmt",
    "AlterSubscriptionStmt",
    "AlterSystemStmt",
    "AlterTableMoveAllStmt",
    "AlterTableSpaceOptionsStmt",
    "AlterUserMappingStmt",
    "CheckPointStmt",
    "CreateEventTrigStmt",
    "CreateFdwStmt",
    "CreateForeignServerStmt",
    "CreateForeignTableStmt",
    "CreatePLangStmt",
    "CreatePublicationStmt",
    "CreateSubscriptionStmt",
    "CreateTableSpaceStmt",
    "CreateUserMappingStmt",
    "DoStmt",
    "DropOwnedStmt",
    "DropSubscriptionStmt",
    "DropTableSpaceStmt",
    "DropUserMappingStmt",
    "ImportForeignSchemaStmt",
    "LoadStmt",
    "ReassignOwnedStmt",
    "SecLabelStmt",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_kinds_are_sorted_and_disjoint() {
        for list in [PARTS, SPECIAL, OPAQUE] {
            assert!(list.is_sorted(), "{list:?}");
        }
        let mut all: Vec<_> = PARTS.iter().chain(SPECIAL).chain(OPAQUE).collect();
        let total = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), total);
    }

    #[test]
    fn a_new_node_kind_is_a_stranger() {
        assert_eq!(meaning("GraphTableExpr"), Meaning::Stranger);
        assert_eq!(meaning("FuncExpr"), Meaning::Stranger);
    }
}
