//! A generic tree over any parse node, so that one walk sees every field of every node kind.
//!
//! Built by a serde serialiser: node kinds are the type names of the parser's generated structs, `Node` wrappers and
//! oneof variants disappear. Typed visitors forget fields when the grammar grows; this cannot.
//! Refuses: trees deeper than [`DEPTH_MAX`] and value types the parser does not have.

use std::fmt;

use serde::ser::{self, Serialize};

/// Nesting of nodes and lists that is followed; the decoder's own limit is 100 messages.
const DEPTH_MAX: usize = 400;

/// One value of the parse tree.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tree {
    /// Absent, or a default that carries no information.
    Null,
    /// A flag.
    Bool(bool),
    /// A number or an enumeration value.
    Int(i64),
    /// Text.
    Text(String),
    /// Several values.
    List(Vec<Tree>),
    /// A parse node.
    Node(Node),
}

/// A parse node: its kind and all its fields.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// Name of the generated struct, for example `SelectStmt`.
    pub(super) kind: &'static str,
    /// Fields that are not null, by name.
    pub(super) fields: Vec<(&'static str, Tree)>,
}

/// Nothing to look at.
const NULL: &Tree = &Tree::Null;

impl Node {
    /// A field, or null.
    pub(super) fn get(&self, field: &str) -> &Tree {
        self.fields.iter().find(|(name, _)| *name == field).map_or(NULL, |(_, value)| value)
    }

    /// A list field's elements; empty if absent.
    pub(super) fn list(&self, field: &str) -> &[Tree] {
        self.get(field).as_list()
    }

    /// A text field; empty if absent.
    pub(super) fn text(&self, field: &str) -> &str {
        self.get(field).as_text()
    }

    /// A flag field; false if absent.
    pub(super) fn flag(&self, field: &str) -> bool {
        matches!(self.get(field), Tree::Bool(true))
    }

    /// A numeric field; 0 if absent.
    pub(super) fn int(&self, field: &str) -> i64 {
        match self.get(field) {
            Tree::Int(value) => *value,
            Tree::Null | Tree::Bool(_) | Tree::Text(_) | Tree::List(_) | Tree::Node(_) => 0,
        }
    }

    /// A node field.
    pub(super) fn node(&self, field: &str) -> Option<&Node> {
        self.get(field).as_node()
    }
}

impl Tree {
    /// The elements if this is a list (or the parser's `List` node), else none.
    pub(super) fn as_list(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            Self::Node(node) if node.kind == "List" => node.list("items"),
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Text(_) | Self::Node(_) => &[],
        }
    }

    /// The text if this is text or a `String` node, else empty.
    pub(super) fn as_text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Node(node) if node.kind == "String" => node.text("sval"),
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::List(_) | Self::Node(_) => "",
        }
    }

    /// The node, if it is one.
    pub(super) fn as_node(&self) -> Option<&Node> {
        match self {
            Self::Node(node) => Some(node),
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Text(_) | Self::List(_) => None,
        }
    }

    /// Calls `visit` on every node below and including this one; `visit` says whether to go deeper.
    pub(super) fn each_node<'t>(&'t self, visit: &mut dyn FnMut(&'t Node) -> Descend) {
        match self {
            Self::Node(node) => {
                if visit(node) == Descend::Yes {
                    node.fields.iter().for_each(|(_, value)| value.each_node(visit));
                }
            }
            Self::List(items) => items.iter().for_each(|item| item.each_node(visit)),
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Text(_) => {}
        }
    }

    /// Whether a node of one of `kinds` is below or at this one.
    pub(super) fn contains(&self, kinds: &[&str]) -> bool {
        let mut found = false;
        self.each_node(&mut |node| {
            found = found || kinds.contains(&node.kind);
            if found { Descend::No } else { Descend::Yes }
        });
        found
    }
}

/// Whether a visit goes on below a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Descend {
    /// Look below.
    Yes,
    /// Skip what is below.
    No,
}

/// Turns a parse node into a tree.
pub(super) fn grow(node: &impl Serialize) -> Result<Tree, TreeError> {
    node.serialize(Grower { depth: 0 })
}

/// The tree could not be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TreeError {
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("statement is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// The parser handed out a value of an unexpected sort.
    #[error("unexpected value in the parse tree: `{0}`")]
    Unexpected(String),
}

impl ser::Error for TreeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Unexpected(message.to_string())
    }
}

#[derive(Debug, Clone, Copy)]
struct Grower {
    depth: usize,
}

impl Grower {
    fn deeper(self) -> Result<Self, TreeError> {
        let depth = self.depth.saturating_add(1);
        if depth > DEPTH_MAX { Err(TreeError::TooDeep) } else { Ok(Self { depth }) }
    }

    fn unexpected(what: &str) -> Result<Tree, TreeError> {
        Err(TreeError::Unexpected(what.to_owned()))
    }
}

/// Collects list elements or struct fields.
#[derive(Debug)]
pub(super) struct Gather {
    grower: Grower,
    kind: &'static str,
    items: Vec<Tree>,
    fields: Vec<(&'static str, Tree)>,
}

impl ser::SerializeSeq for Gather {
    type Ok = Tree;
    type Error = TreeError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), TreeError> {
        self.items.push(value.serialize(self.grower)?);
        Ok(())
    }

    fn end(self) -> Result<Tree, TreeError> {
        Ok(Tree::List(self.items))
    }
}

impl ser::SerializeStruct for Gather {
    type Ok = Tree;
    type Error = TreeError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        field: &'static str,
        value: &T,
    ) -> Result<(), TreeError> {
        match value.serialize(self.grower)? {
            Tree::Null => {}
            Tree::List(items) if items.is_empty() => {}
            Tree::Text(text) if text.is_empty() => {}
            tree @ (Tree::Bool(_) | Tree::Int(_) | Tree::Text(_) | Tree::List(_) | Tree::Node(_)) => {
                self.fields.push((field, tree));
            }
        }
        Ok(())
    }

    fn end(mut self) -> Result<Tree, TreeError> {
        // The wrapper `Node { node: Some(variant) }` says nothing of its own.
        if self.kind == "Node" {
            return Ok(self.fields.pop().map_or(Tree::Null, |(_, inner)| inner));
        }
        Ok(Tree::Node(Node { kind: self.kind, fields: self.fields }))
    }
}

impl ser::Serializer for Grower {
    type Ok = Tree;
    type Error = TreeError;
    type SerializeSeq = Gather;
    type SerializeTuple = ser::Impossible<Tree, TreeError>;
    type SerializeTupleStruct = ser::Impossible<Tree, TreeError>;
    type SerializeTupleVariant = ser::Impossible<Tree, TreeError>;
    type SerializeMap = ser::Impossible<Tree, TreeError>;
    type SerializeStruct = Gather;
    type SerializeStructVariant = ser::Impossible<Tree, TreeError>;

    fn serialize_bool(self, value: bool) -> Result<Tree, TreeError> {
        Ok(Tree::Bool(value))
    }

    fn serialize_i8(self, value: i8) -> Result<Tree, TreeError> {
        Ok(Tree::Int(value.into()))
    }

    fn serialize_i16(self, value: i16) -> Result<Tree, TreeError> {
        Ok(Tree::Int(value.into()))
    }

    fn serialize_i32(self, value: i32) -> Result<Tree, TreeError> {
        Ok(Tree::Int(value.into()))
    }

    fn serialize_i64(self, value: i64) -> Result<Tree, TreeError> {
        Ok(Tree::Int(value))
    }

    fn serialize_u8(self, value: u8) -> Result<Tree, TreeError> {
        Ok(Tree::Int(value.into()))
    }

    fn serialize_u16(self, value: u16) -> Result<Tree, TreeError> {
        Ok(Tree::Int(value.into()))
    }

    fn serialize_u32(self, value: u32) -> Result<Tree, TreeError> {
        Ok(Tree::Int(value.into()))
    }

    fn serialize_u64(self, value: u64) -> Result<Tree, TreeError> {
        i64::try_from(value).map_or_else(|_| Self::unexpected("u64"), |value| Ok(Tree::Int(value)))
    }

    fn serialize_f32(self, _: f32) -> Result<Tree, TreeError> {
        Self::unexpected("f32")
    }

    fn serialize_f64(self, _: f64) -> Result<Tree, TreeError> {
        Self::unexpected("f64")
    }

    fn serialize_char(self, value: char) -> Result<Tree, TreeError> {
        Ok(Tree::Text(value.to_string()))
    }

    fn serialize_str(self, value: &str) -> Result<Tree, TreeError> {
        Ok(Tree::Text(value.to_owned()))
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<Tree, TreeError> {
        Self::unexpected("bytes")
    }

    fn serialize_none(self) -> Result<Tree, TreeError> {
        Ok(Tree::Null)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Tree, TreeError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Tree, TreeError> {
        Ok(Tree::Null)
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<Tree, TreeError> {
        Ok(Tree::Node(Node { kind: name, fields: Vec::new() }))
    }

    fn serialize_unit_variant(self, name: &'static str, _: u32, _: &'static str) -> Result<Tree, TreeError> {
        Self::unexpected(name)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Tree, TreeError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<Tree, TreeError> {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Gather, TreeError> {
        Ok(Gather { grower: self.deeper()?, kind: "", items: Vec::new(), fields: Vec::new() })
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, TreeError> {
        Err(TreeError::Unexpected("tuple".to_owned()))
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, TreeError> {
        Err(TreeError::Unexpected(name.to_owned()))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, TreeError> {
        Err(TreeError::Unexpected(name.to_owned()))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, TreeError> {
        Err(TreeError::Unexpected("map".to_owned()))
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Gather, TreeError> {
        Ok(Gather { grower: self.deeper()?, kind: name, items: Vec::new(), fields: Vec::new() })
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, TreeError> {
        Err(TreeError::Unexpected(name.to_owned()))
    }
}
