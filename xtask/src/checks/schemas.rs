//! JSON schemas for kubeconform, made from the OpenAPI description in the pinned Kubernetes module: nothing is downloaded for them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::{dirs, exec, tools};

/// The folder with a schema per kind, named as kubeconform looks for them.
pub(super) fn folder() -> Result<PathBuf> {
    let version = tools::version("kubectl")?;
    let folder = dirs::cache()?.join(format!("schemas-{version}"));
    if !folder.exists() {
        let description = fs::read(module_folder()?.join("api/openapi-spec/swagger.json"))?;
        let unfinished = folder.with_extension("unfinished");
        fs::create_dir_all(&unfinished)?;
        write_all(&serde_json::from_slice(&description)?, &unfinished)?;
        fs::rename(&unfinished, &folder)?;
    }
    Ok(folder)
}

/// Where Go keeps the module's sources.
fn module_folder() -> Result<PathBuf> {
    let args = ["list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"];
    let tools = dirs::repository().join("xtask/tools/kubernetes");
    exec::run(exec::command("go", ["mod", "download", "k8s.io/kubernetes"]).current_dir(&tools))?;
    Ok(PathBuf::from(exec::output(exec::command("go", args).current_dir(&tools))?.trim()))
}

fn write_all(description: &Value, folder: &Path) -> Result<()> {
    let definitions = description["definitions"].as_object().context("the description has no definitions")?;
    let converted: Map<String, Value> =
        definitions.iter().map(|(name, schema)| (name.clone(), convert(schema))).collect();
    for (name, schema) in definitions {
        for kind in schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            let of = |field: &str| kind[field].as_str().unwrap_or_default();
            let file = file_name(of("group"), of("version"), of("kind"));
            let schema = json!({ "$ref": format!("_definitions.json#/definitions/{name}") });
            fs::write(folder.join(file), schema.to_string())?;
        }
    }
    fs::write(folder.join("_definitions.json"), json!({ "definitions": converted }).to_string())?;
    Ok(())
}

/// `deployment-apps-v1.json`, `service-v1.json`, `role-rbac-v1.json`: the group's first label.
fn file_name(group: &str, version: &str, kind: &str) -> String {
    let group = group.split('.').next().unwrap_or_default();
    let parts = [kind.to_lowercase(), group.to_owned(), version.to_owned()];
    format!("{}.json", parts.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join("-"))
}

/// Swagger's dialect in JSON Schema: values that may be a number or a text, and no fields that nobody knows.
fn convert(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let is_either = fields.get("format").is_some_and(|format| format == "int-or-string")
                || fields
                    .get("description")
                    .and_then(Value::as_str)
                    .is_some_and(|text| text.starts_with("Quantity is a fixed-point"));
            if is_either {
                return json!({ "type": ["string", "number"] });
            }
            let mut converted: Map<String, Value> =
                fields.iter().map(|(name, value)| (name.clone(), convert(value))).collect();
            if converted.contains_key("properties") && !converted.contains_key("additionalProperties") {
                converted.insert("additionalProperties".to_owned(), json!(false));
            }
            Value::Object(converted)
        }
        Value::Array(items) => items.iter().map(convert).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_as_kubeconform_looks_for_them() {
        assert_eq!(file_name("apps", "v1", "Deployment"), "deployment-apps-v1.json");
        assert_eq!(file_name("", "v1", "Service"), "service-v1.json");
        assert_eq!(file_name("rbac.authorization.k8s.io", "v1", "Role"), "role-rbac-v1.json");
    }

    #[test]
    fn unknown_fields_are_closed_out() {
        let schema = json!({ "properties": { "port": { "type": "string", "format": "int-or-string" } } });
        let expected =
            json!({ "properties": { "port": { "type": ["string", "number"] } }, "additionalProperties": false });
        assert_eq!(convert(&schema), expected);
    }
}
