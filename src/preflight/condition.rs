//! Doubts about `outbox.unpublished`: a condition may use other operators than its author means.
//!
//! outboxd's connections search `pg_catalog` only. So `status = 'New'` on a column of `citext` compares as text, case-sensitively: the
//! server coerces the value to text without a warning. The definition of a view shows the coercions of its condition, and tells an
//! implicit one from a cast. outboxd creates a temporary view and rolls it back. That calls no function, because neither the planner
//! nor the executor sees the view.
//!
//! Knows the definition of a view, and the types with operators of their own. Does not know what follows from a doubt.

use std::fmt;

use tokio_postgres::{Client, types::Type};

use diagnostics::chain;

use crate::postgres::{
    SourceDatabase,
    outbox_table::{TableFacts, TableKind},
    sql_text::identifier,
    statement::{CatalogError, failed},
};

/// The reason why a condition may select other rows than its author means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// A value of a type with operators outside of `pg_catalog` is coerced implicitly.
    OtherOperators {
        /// The type, as SQL writes it.
        type_name: String,
        /// Schema of its operators, as SQL writes it.
        schema: String,
    },
    /// The server does not show the coercions of the condition.
    Untold {
        /// Cause.
        why: String,
        /// Next step.
        cure: String,
    },
}

impl Doubt {
    /// Next step.
    pub fn cure(&self) -> String {
        match self {
            Doubt::OtherOperators { schema, .. } => format!(
                "qualify each operator of such a value with its schema, as in status OPERATOR({schema}.=) 'x'; or cast the value, \
                 as in status::text = 'x', which keeps the present comparison"
            ),
            Doubt::Untold { cure, .. } => cure.clone(),
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::OtherOperators { type_name, .. } => write!(
                f,
                "outbox.unpublished uses a value of type {type_name}. outboxd searches pg_catalog only and does not find the operators \
                 of that type: operators of text may take their place, so unpublished rows may count as published"
            ),
            Doubt::Untold { why, .. } => write!(
                f,
                "types in this database have operators outside of pg_catalog, and outboxd cannot tell whether outbox.unpublished uses \
                 one of them: {why}"
            ),
        }
    }
}

/// Finds a doubt about the condition of the source.
///
/// # Errors
/// [`CatalogError`]. A condition that the server refuses gives a doubt and no error.
pub(super) async fn doubt(
    client: &Client,
    database: &SourceDatabase,
    table: Option<&TableFacts>,
) -> Result<Option<Doubt>, CatalogError> {
    let (Some(condition), Some(table)) = (&database.rows.unpublished, table) else { return Ok(None) };
    // Planning a query of a view would call its functions.
    if table.kind == TableKind::Other {
        return Ok(None);
    }
    let row = client
        .query_typed_one(
            // Domains over such types, and arrays of them, count, too.
            "WITH RECURSIVE typed (oid) AS (
                 SELECT side FROM pg_operator o, unnest(ARRAY[o.oprleft, o.oprright]) side
                 WHERE o.oprnamespace <> 'pg_catalog'::regnamespace AND side >= 16384
                 UNION SELECT t.oid FROM typed JOIN pg_type t
                       ON t.typbasetype = typed.oid OR t.typelem = typed.oid AND t.typcategory = 'A')
             SELECT EXISTS (SELECT FROM typed),
                    ARRAY (SELECT lower(a.attname::text) FROM pg_attribute a
                           WHERE a.attrelid = $1 AND NOT a.attisdropped AND a.atttypid IN (SELECT oid FROM typed)),
                    has_database_privilege(current_database(), 'TEMPORARY')",
            &[(&table.oid, Type::OID)],
        )
        .await
        .map_err(failed("reading the types with operators of their own"))?;
    let (has_any, columns, may_ask): (bool, Vec<String>, bool) = (row.get(0), row.get(1), row.get(2));
    if !may_hold(condition, has_any, &columns) {
        return Ok(None);
    }
    if !may_ask {
        let (name, role) = (identifier(database.endpoint.database()), identifier(database.endpoint.user()));
        return Ok(Some(Doubt::Untold {
            why: format!("role {role} may not create the temporary view that would show it"),
            cure: format!("GRANT TEMPORARY ON DATABASE {name} TO {role};"),
        }));
    }
    let coerced = match definition(client, database, table, condition).await? {
        Ok(definition) => implicit_coercions(&definition),
        Err(why) => {
            let cure = "let the role create a temporary view of the outbox table with this condition";
            return Ok(Some(Doubt::Untold { why, cure: cure.to_owned() }));
        }
    };
    if coerced.iter().any(|(before, _)| *before == 0) {
        let why = "the server shows it in a form that outboxd does not know".to_owned();
        let cure = "cast the compared values to types of PostgreSQL's own, such as status::text";
        return Ok(Some(Doubt::Untold { why, cure: cure.to_owned() }));
    }
    let (before, after): (Vec<u32>, Vec<u32>) = coerced.into_iter().unzip();
    let found = client
        .query_typed_opt(
            // A domain and its base type count as the same type.
            "WITH RECURSIVE walk (root, at) AS (
                 SELECT oid, oid FROM unnest($1 || $2) root (oid)
                 UNION SELECT w.root, CASE t.typbasetype WHEN 0 THEN t.typelem ELSE t.typbasetype END
                       FROM walk w JOIN pg_type t ON t.oid = w.at
                       WHERE t.typbasetype <> 0 OR t.typcategory = 'A' AND t.typelem <> 0),
             core (root, oid) AS (
                 SELECT w.root, w.at FROM walk w JOIN pg_type t ON t.oid = w.at
                 WHERE t.typbasetype = 0 AND (t.typcategory <> 'A' OR t.typelem = 0))
             SELECT format_type(b.oid, NULL), quote_ident(n.nspname)
             FROM unnest($1, $2) coerced (before, after)
             JOIN core b ON b.root = coerced.before JOIN core a ON a.root = coerced.after AND a.oid <> b.oid
             JOIN pg_operator o ON b.oid IN (o.oprleft, o.oprright) JOIN pg_namespace n ON n.oid = o.oprnamespace
             WHERE b.oid >= 16384 AND n.nspname <> 'pg_catalog' ORDER BY 1, 2 LIMIT 1",
            &[(&before, Type::OID_ARRAY), (&after, Type::OID_ARRAY)],
        )
        .await
        .map_err(failed("reading the operators of a type"))?;
    Ok(found.map(|row| Doubt::OtherOperators { type_name: row.get(0), schema: row.get(1) }))
}

/// Tells whether the condition may use a value of a type with operators of its own. Without these characters it has only columns,
/// constants of PostgreSQL's own types, and operators.
fn may_hold(condition: &str, has_any: bool, columns: &[String]) -> bool {
    let (lower, has_column) = (condition.to_lowercase(), !columns.is_empty());
    // Quotes allow other spellings of a name.
    has_any && condition.contains(['(', '.', ':'])
        || has_column && condition.contains(['"', '&'])
        || columns.iter().any(|column| lower.contains(&column.to_lowercase()))
}

/// Reads the server's definition of a view with the condition, or the reason why the server refuses the view.
async fn definition(
    client: &Client,
    database: &SourceDatabase,
    table: &TableFacts,
    condition: &str,
) -> Result<Result<String, String>, CatalogError> {
    const DOING: &str = "reading how the server understands outbox.unpublished";
    // The condition has its own lines, because it may end in a comment.
    let make = format!(
        "CREATE TEMPORARY VIEW outboxd_condition AS SELECT ((\n{condition}\n) IS NOT FALSE) AS chosen FROM {}{}",
        table.kind.only(),
        database.table.quoted()
    );
    let read = "SELECT ev_action::text FROM pg_rewrite WHERE ev_class = 'pg_temp.outboxd_condition'::regclass AND ev_type = '1'";
    client.batch_execute("BEGIN").await.map_err(failed(DOING))?;
    let told = async {
        // A prepared statement is one statement only: the condition cannot begin another.
        client.execute_typed(&make, &[]).await?;
        client.query_typed_one(read, &[]).await.map(|row| row.get(0))
    }
    .await;
    client.batch_execute("ROLLBACK").await.map_err(failed(DOING))?;
    match told {
        Ok(definition) => Ok(Ok(definition)),
        Err(error) if error.code().is_some() => {
            let CatalogError::Statement { cause, .. } = failed(DOING)(error) else {
                return Ok(Err(String::new()));
            };
            Ok(Err(chain(&cause)))
        }
        Err(error) => Err(failed(DOING)(error)),
    }
}

/// Fields that name the type of a node's value (`nodes/primnodes.h`).
const TYPES: [&str; 18] = [
    ":vartype",
    ":consttype",
    ":paramtype",
    ":funcresulttype",
    ":opresulttype",
    ":resulttype",
    ":refelemtype",
    ":refrestype",
    ":casetype",
    ":typeId",
    ":type",
    ":array_typeid",
    ":row_typeid",
    ":coalescetype",
    ":minmaxtype",
    ":aggtype",
    ":wintype",
    ":seqtypid",
];
/// Fields with the form of a coercion; [`IMPLICIT`] is one that nobody wrote.
const FORMATS: [&str; 4] = [":relabelformat", ":coerceformat", ":funcformat", ":convertformat"];
/// `COERCE_IMPLICIT_CAST`.
const IMPLICIT: &str = "2";
/// Fields with the arguments of a node. A node without a type of its own has the type of the first argument.
const TAKEN: [&str; 5] = [":arg", ":args", ":expr", ":targetList", ":subselect"];

#[derive(Default)]
struct Node<'a> {
    field: &'a str,
    is_implicit: bool,
    /// Type of the node's value.
    own: Option<u32>,
    /// Type of the first argument.
    taken: Option<u32>,
}

/// Types before and after each implicit coercion, 0 if unknown. Works without recursion, because a hostile server may nest nodes
/// without limit.
fn implicit_coercions(definition: &str) -> Vec<(u32, u32)> {
    let (mut found, mut open) = (Vec::new(), Vec::<Node>::new());
    for token in tokens(definition) {
        match (token, open.last_mut()) {
            ("{", _) => open.push(Node::default()),
            ("}", _) => {
                let Some(node) = open.pop() else { break };
                if node.is_implicit {
                    found.push((node.taken.unwrap_or(0), node.own.unwrap_or(0)));
                }
                if let Some(parent) = open.last_mut()
                    && TAKEN.contains(&parent.field)
                {
                    parent.taken = parent.taken.or(node.own).or(node.taken);
                }
            }
            (word, Some(node)) if word.starts_with(':') => node.field = word,
            (word, Some(node)) if TYPES.contains(&node.field) => {
                node.own = word.parse().ok().filter(|oid| *oid != 0);
            }
            (word, Some(node)) if FORMATS.contains(&node.field) => node.is_implicit |= word == IMPLICIT,
            _ => {}
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Splits into words and single brackets, as the server does (`pg_strtok`, read.c).
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\n', '\t']);
        let mut escaped = false;
        let end = rest.find(|c: char| {
            let ends = !escaped && matches!(c, ' ' | '\n' | '\t' | '(' | ')' | '{' | '}');
            escaped = !escaped && c == '\\';
            ends
        });
        // A bracket is one byte long.
        let length = end.map_or(rest.len(), |end| end.max(1));
        let (token, after) = rest.split_at(length);
        rest = after;
        (!token.is_empty()).then_some(token)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As 15 prints `status = 'New'` and more, with 16385 for citext, 16390 for its array, and 25 for text.
    const VAR: &str =
        "{VAR :varno 3 :varattno 2 :vartype 16385 :vartypmod -1 :varcollid 100 :varlevelsup 0 :location 46}";

    fn relabel(arg: &str, after: u32, format: u32) -> String {
        format!(
            "{{RELABELTYPE :arg {arg} :resulttype {after} :resulttypmod -1 :resultcollid 100 :relabelformat {format} :location -1}}"
        )
    }

    #[test]
    fn a_coercion_that_nobody_wrote_is_told_from_a_cast() {
        let sublink = format!(
            "{{SUBLINK :subLinkType 4 :testexpr <> :subselect {{QUERY :cteList <> :targetList ({{TARGETENTRY :expr {VAR} :resno 1 \
             :resname a\\ b\\}} :resjunk false}}) :override 0}} :location 7}}"
        );
        for (definition, found) in [
            (relabel(VAR, 25, 2), vec![(16385, 25)]),
            (relabel(VAR, 25, 1), vec![]),
            (VAR.to_owned(), vec![]),
            // `status::public.citext` of a text column, and then text again.
            (relabel(&relabel("{VAR :vartype 25}", 16385, 1), 25, 2), vec![(16385, 25)]),
            (relabel("{CASETESTEXPR :typeId 16385 :typeMod -1 :collation 100}", 25, 2), vec![(16385, 25)]),
            (relabel(&sublink, 25, 2), vec![(16385, 25)]),
            (relabel("{COLLATEEXPR :arg {VAR :vartype 16385} :collOid 5}", 25, 2), vec![(16385, 25)]),
            (
                format!(
                    "({{OPEXPR :opno 98 :opresulttype 16 :args ({} {{CONST :consttype 25 :constvalue 7 [ 28 0 0 0 2 2 2 ]}})}})",
                    relabel(VAR, 25, 2)
                ),
                vec![(16385, 25)],
            ),
            (
                "{ARRAYCOERCEEXPR :arg {VAR :vartype 16390} :elemexpr {CASETESTEXPR :typeId 16385} :resulttype 1009 :coerceformat 2}"
                    .to_owned(),
                vec![(16390, 1009)],
            ),
            (
                "{FUNCEXPR :funcid 9 :funcresulttype 20 :funcformat 2 :args ({CONST :consttype 23} {CONST :consttype 16})}"
                    .to_owned(),
                vec![(23, 20)],
            ),
            ("{FUNCEXPR :funcid 9 :funcresulttype 20 :funcformat 0 :args ({CONST :consttype 23})}".to_owned(), vec![]),
            (relabel("{UNHEARDOF :location 3}", 25, 2), vec![(0, 25)]),
            (format!("{}}}", relabel(VAR, 25, 2)), vec![(16385, 25)]),
            ("{".repeat(100_000), vec![]),
        ] {
            assert_eq!(implicit_coercions(&definition), found, "{definition:.300}");
        }
    }

    #[test]
    fn a_condition_of_other_columns_alone_is_not_asked_about() {
        let columns = ["status".to_owned()];
        for (condition, has_any, columns, may) in [
            ("published_at IS NULL", true, &columns[..], false),
            ("published_at::text = 'x'", false, &[], false),
            ("txt::public.citext = 'x'", true, &[], true),
            ("CAST(txt AS citext) = 'x'", true, &[], true),
            ("STATUS = 'New'", true, &columns, true),
            ("\"published_at\" IS NULL", true, &[], false),
            ("U&\"st\\0061tus\" = 'New'", true, &columns, true),
        ] {
            assert_eq!(may_hold(condition, has_any, columns), may, "{condition}");
        }
    }
}
