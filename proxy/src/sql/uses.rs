//! What a statement uses besides the functions that it calls by name.
//!
//! An operator, a cast or a type input runs a function too, and somebody may have put theirs under a built-in name. Here
//! is only what the text says; whether such code exists is for whoever knows the server's catalog.
//! INVARIANT: one walk over every node, so that a place the grammar gains is not forgotten; what a clause implies
//! (`IN`, `USING`, `CASE x WHEN`) is listed here.

use pg_query::protobuf::ObjectType;

use super::collect::explain_runs;
use super::facts::Uses;
use super::names;
use super::tree::{Descend, Node, Tree};

/// Everything that the statement uses.
pub(super) fn of(statement: &Tree) -> Uses {
    let mut uses = Uses::default();
    statement.each_node(&mut |node| {
        note(node, &mut uses);
        Descend::Yes
    });
    // Planning alone runs nothing that was prepared.
    if statement.as_node().is_some_and(|node| node.kind == "ExplainStmt" && !explain_runs(node)) {
        uses.executes.clear();
    }
    uses
}

fn note(node: &Node, uses: &mut Uses) {
    match node.kind {
        "AExpr" => operator(node.get("name"), uses),
        "SortBy" => operator(node.get("use_op"), uses),
        "SubLink" => {
            operator(node.get("oper_name"), uses);
            if node.node("testexpr").is_some() && node.list("oper_name").is_empty() {
                equality(uses);
            }
        }
        "CaseExpr" if node.node("arg").is_some() => equality(uses),
        "JoinExpr" if node.flag("is_natural") || !node.list("using_clause").is_empty() => equality(uses),
        "TypeName" if !node.flag("pct_type") => {
            uses.types.insert(names::parts(node.get("names")).join("."));
        }
        "ExecuteStmt" => {
            uses.executes.insert(node.text("name").to_owned());
        }
        "RenameStmt" => {
            if object(node.int("rename_type")) == Some(ObjectType::ObjectSchema) {
                uses.renames.insert(node.text("subname").to_owned());
            }
            uses.makes_code |= is_code(object(node.int("rename_type")));
        }
        "AlterObjectSchemaStmt" | "AlterOwnerStmt" => {
            uses.makes_code |= is_code(object(node.int("object_type")));
        }
        kind if MAKES_CODE.contains(&kind) => uses.makes_code = true,
        _ => {}
    }
}

fn equality(uses: &mut Uses) {
    uses.operators.insert("=".to_owned());
}

fn operator(name: &Tree, uses: &mut Uses) {
    let written = names::parts(name).join(".");
    let implied: &[&str] = match written.as_str() {
        "" => &[],
        "BETWEEN" | "BETWEEN SYMMETRIC" => &[">=", "<="],
        "NOT BETWEEN" | "NOT BETWEEN SYMMETRIC" => &["<", ">"],
        other => &[other],
    };
    uses.operators.extend(implied.iter().map(|name| (*name).to_owned()));
}

fn object(raw: i64) -> Option<ObjectType> {
    i32::try_from(raw).ok().and_then(|raw| ObjectType::try_from(raw).ok())
}

/// Kinds of statements that make code, or attach it to where it runs without being named.
const MAKES_CODE: &[&str] = &[
    "AlterFunctionStmt",
    "AlterOpFamilyStmt",
    "AlterOperatorStmt",
    "AlterTypeStmt",
    "CreateAmStmt",
    "CreateCastStmt",
    "CreateConversionStmt",
    "CreateEventTrigStmt",
    "CreateFunctionStmt",
    "CreateOpClassStmt",
    "CreateOpFamilyStmt",
    "CreatePLangStmt",
    "CreateRangeStmt",
    "CreateTransformStmt",
    "CreateTrigStmt",
    "DefineStmt",
];

/// Objects that are code, or lead to it: under another name or in another schema they run for other statements.
fn is_code(object: Option<ObjectType>) -> bool {
    matches!(
        object,
        None | Some(
            ObjectType::ObjectAccessMethod
                | ObjectType::ObjectAggregate
                | ObjectType::ObjectCast
                | ObjectType::ObjectConversion
                | ObjectType::ObjectEventTrigger
                | ObjectType::ObjectExtension
                | ObjectType::ObjectFunction
                | ObjectType::ObjectLanguage
                | ObjectType::ObjectOpclass
                | ObjectType::ObjectOperator
                | ObjectType::ObjectOpfamily
                | ObjectType::ObjectProcedure
                | ObjectType::ObjectRoutine
                | ObjectType::ObjectTransform
                | ObjectType::ObjectTrigger
                | ObjectType::ObjectType
                | ObjectType::Undefined
        )
    )
}
