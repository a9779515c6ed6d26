//! JSON schemas as they stand in a document: with their references resolved, and strict.

use serde_json::{Value, json};

use super::target;

/// Returns the schema with what it refers to in place of each reference.
pub(super) fn resolved(document: &Value, schema: &Value) -> Value {
    match schema {
        Value::Object(members) if members.contains_key("$ref") => {
            resolved(document, target(document, schema))
        }
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), resolved(document, value))).collect()
        }
        Value::Array(elements) => elements.iter().map(|element| resolved(document, element)).collect(),
        other => other.clone(),
    }
}

/// Returns the schema without room for fields that it does not name, because a message has none.
fn strict(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            members.values_mut().for_each(strict);
            if members.contains_key("properties") && members.get("type").is_some_and(|kind| kind == "object")
            {
                members.insert("additionalProperties".to_owned(), json!(false));
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(strict),
        _ => {}
    }
}

/// Returns what is wrong with an instance; fields that the schema does not name are wrong.
pub(super) fn problems(document: &Value, schema: &Value, instance: &Value) -> Vec<String> {
    assert_eq!(schema["type"], "object", "no schema: {schema}");
    let mut schema = resolved(document, schema);
    strict(&mut schema);
    let validator = jsonschema::draft7::new(&schema).unwrap();
    validator.iter_errors(instance).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn an_instance_has_the_fields_of_its_schema_and_no_others() {
    let document = json!({ "components": { "schemas": { "Total": {
        "type": "object", "required": ["amount"], "properties": { "amount": { "type": "number", "exclusiveMinimum": 0 } }
    } } } });
    let total = json!({ "$ref": "#/components/schemas/Total", "description": "to be ignored" });
    let schema = json!({ "type": "object", "required": ["id"], "properties": { "id": { "type": "integer" }, "total": total } });
    let problems = |instance: Value| problems(&document, &schema, &instance).len();
    assert_eq!(problems(json!({ "id": 7, "total": { "amount": 0.07 } })), 0);
    for wrong in [
        json!({}),
        json!({ "id": "7" }),
        json!({ "id": 7, "total": { "amount": 0 } }),
        json!({ "id": 7, "total": {} }),
        json!({ "id": 7, "more": 1 }),
        json!({ "id": 7, "total": { "amount": 1, "currency": "EUR" } }),
    ] {
        assert_eq!(problems(wrong.clone()), 1, "{wrong}");
    }
}
