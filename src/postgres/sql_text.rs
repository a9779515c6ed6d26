//! Quoting of names and values in statements that take no parameters.

use super::TableName;

pub(crate) use pg_replication::quote::{identifier, literal};

/// An anonymous block of PL/pgSQL (manual, "DO"), with its semicolon.
pub(crate) fn block(statements: &str) -> String {
    let body = format!(" BEGIN\n  {statements}\nEND ");
    // A name may contain the end of the quotation.
    if body.contains("$$") { format!("DO {};", literal(&body)) } else { format!("DO $${body}$$;") }
}

/// The statements by which another role creates the schema of outboxd's own tables.
pub(crate) fn make_schema_sql(schema: &str, role: &str) -> String {
    format!("CREATE SCHEMA IF NOT EXISTS {}; {}", identifier(schema), use_schema_sql(schema, role))
}

/// The statement that grants the source's role the use of that schema.
pub(crate) fn use_schema_sql(schema: &str, role: &str) -> String {
    format!("GRANT USAGE ON SCHEMA {} TO {}", identifier(schema), identifier(role))
}

impl TableName {
    /// The name for a statement, with both parts quoted.
    pub fn quoted(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(&self.table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_blocks_are_quoted() {
        let table = TableName { schema: "Bestell-Dienst".into(), table: "Aus\"gang".into() };
        assert_eq!(table.quoted(), r#""Bestell-Dienst"."Aus""gang""#);
        assert_eq!(block("NULL;"), "DO $$ BEGIN\n  NULL;\nEND $$;");
        assert_eq!(block("'$$'"), "DO ' BEGIN\n  ''$$''\nEND ';");
    }
}
