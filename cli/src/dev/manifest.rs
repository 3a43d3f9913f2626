//! The YAML of a workspace and its agents, as `kubectl apply` would take it.

use std::path::{Path, PathBuf};

use rhizon_api::settings::{self, parse_types};
use rhizon_api::{GROUP, RhizonAgent, RhizonAgentSpec, RhizonWorkspace, labels};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::failure::Failure;

/// JSON `{"from": …, "field": …}`: where `rhizon dev --expect` finds this agent's states in the expected result.
const EXPECT: &str = "rhizon.dev/dev-expect";

#[derive(Debug)]
pub(super) struct Manifest {
    /// Where the YAML stands, and where agents are started.
    pub(super) dir: PathBuf,
    pub(super) workspace: String,
    pub(super) access: Vec<settings::Access>,
    pub(super) agents: Vec<Described>,
}

/// An agent, and how it is started here.
#[derive(Clone, Debug)]
pub(super) struct Described {
    pub(super) name: String,
    pub(super) spec: RhizonAgentSpec,
    pub(super) command: Vec<String>,
    /// Variables with a value; those that come from Secrets are taken from this process's own environment.
    pub(super) environment: Vec<(String, String)>,
    pub(super) expect: Option<Expect>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expect {
    /// Member of the expected result that maps entities to what is expected.
    pub(super) from: String,
    /// The one field of the state that it speaks of; without it, of all fields.
    pub(super) field: Option<String>,
}

impl Manifest {
    pub(super) fn read(dir: &Path) -> Result<Self, Failure> {
        let mut objects = Vec::new();
        for file in yaml_files(dir)? {
            let wrong = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", file.display()));
            let text = std::fs::read_to_string(&file).map_err(|error| wrong(&error))?;
            objects.extend(parse(&text).map_err(|why| wrong(&why))?);
        }
        build(dir, objects)
    }

    /// The access entry that every caller has here: the one with this subject, or the first.
    pub(super) fn caller(&self, subject: Option<&str>) -> Result<&settings::Access, Failure> {
        let is_asked = |entry: &&settings::Access| {
            subject.is_none_or(|asked| entry.subject == asked || entry.subject.ends_with(&format!(":{asked}")))
        };
        self.access.iter().find(is_asked).ok_or_else(|| match subject {
            None => {
                Failure::Usage("spec.gateway.access of the workspace is empty: nobody may publish or read".to_owned())
            }
            Some(asked) => Failure::Usage(format!("spec.gateway.access of the workspace has no subject '{asked}'")),
        })
    }
}

enum Object {
    Workspace(Box<RhizonWorkspace>),
    Agent(Box<RhizonAgent>),
}

fn yaml_files(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let wrong = |error: std::io::Error| Failure::Usage(format!("cannot read the folder {}: {error}", dir.display()));
    let entries: Vec<PathBuf> =
        std::fs::read_dir(dir).and_then(|all| all.map(|entry| Ok(entry?.path())).collect()).map_err(wrong)?;
    let is_yaml = |path: &PathBuf| path.extension().is_some_and(|end| end == "yaml" || end == "yml");
    let mut files: Vec<PathBuf> = entries.into_iter().filter(is_yaml).collect();
    files.sort();
    Ok(files)
}

/// Rhizon's objects among the documents of a file; others are for the cluster.
fn parse(text: &str) -> Result<Vec<Object>, String> {
    let mut objects = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        let value = Value::deserialize(document).map_err(|error| error.to_string())?;
        let version = value["apiVersion"].as_str().unwrap_or_default();
        if version.split('/').next() != Some(GROUP) {
            continue;
        }
        let kind = value["kind"].as_str().unwrap_or_default().to_owned();
        objects.push(match kind.as_str() {
            "RhizonWorkspace" => Object::Workspace(read_object(&value)?),
            "RhizonAgent" => Object::Agent(read_object(&value)?),
            _ => return Err(format!("the kind '{kind}' is not known")),
        });
    }
    Ok(objects)
}

fn read_object<T: DeserializeOwned + Serialize>(value: &Value) -> Result<Box<T>, String> {
    let name = value["metadata"]["name"].as_str().unwrap_or("an object without name").to_owned();
    let object: T = T::deserialize(value).map_err(|error| format!("{name}: {error}"))?;
    let understood = serde_json::to_value(&object).map_err(|error| format!("{name}: {error}"))?;
    match unknown_field(&value["spec"], &understood["spec"]) {
        Some(path) => Err(format!("{name}: the field spec{path} is not known")),
        None => Ok(Box::new(object)),
    }
}

/// The first field that was given and not understood: an API server would refuse it too.
fn unknown_field(given: &Value, understood: &Value) -> Option<String> {
    match (given, understood) {
        (Value::Object(given), _) => given.iter().find_map(|(name, value)| match understood.get(name) {
            Some(known) => unknown_field(value, known).map(|rest| format!(".{name}{rest}")),
            // What is empty may have been left out again.
            None if value.is_null() || *value == json!([]) || *value == json!({}) => None,
            None => Some(format!(".{name}")),
        }),
        (Value::Array(given), Value::Array(understood)) => given
            .iter()
            .zip(understood)
            .enumerate()
            .find_map(|(index, (given, known))| unknown_field(given, known).map(|rest| format!("[{index}]{rest}"))),
        _ => None,
    }
}

fn build(dir: &Path, objects: Vec<Object>) -> Result<Manifest, Failure> {
    let (mut workspaces, mut agents) = (Vec::new(), Vec::new());
    for object in objects {
        match object {
            Object::Workspace(workspace) => workspaces.push(workspace),
            Object::Agent(agent) => agents.push(agent),
        }
    }
    let [workspace] = workspaces.as_slice() else {
        let (count, dir) = (workspaces.len(), dir.display());
        return Err(Failure::Usage(format!("{dir} has {count} RhizonWorkspaces, and one is needed")));
    };
    let namespace = workspace.namespace_name();
    let access = workspace.spec.gateway.access.iter().enumerate().map(|(index, entry)| access(index, entry));
    Ok(Manifest {
        dir: dir.to_owned(),
        workspace: workspace.metadata.name.clone().unwrap_or_default(),
        access: access.collect::<Result<_, _>>()?,
        agents: agents.into_iter().map(|agent| describe(*agent, namespace)).collect::<Result<_, _>>()?,
    })
}

fn access(index: usize, entry: &rhizon_api::workspace::Access) -> Result<settings::Access, Failure> {
    let field = format!("spec.gateway.access[{index}].send");
    let rhizon_api::workspace::Access { issuer, subject, roles, send, sources, read } = entry.clone();
    let send = parse_types(&field, &send).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(settings::Access { issuer, subject, roles, send, sources, read })
}

fn describe(agent: RhizonAgent, namespace: &str) -> Result<Described, Failure> {
    let name = agent.metadata.name.unwrap_or_default();
    let wrong = |why: String| Failure::Usage(format!("agent {name}: {why}"));
    let own = agent.metadata.namespace.as_deref().unwrap_or("default");
    if own != namespace {
        return Err(wrong(format!("its namespace '{own}' is not the workspace's, which is '{namespace}'")));
    }
    let annotations = agent.metadata.annotations.unwrap_or_default();
    let command = annotations.get(labels::DEV_COMMAND).ok_or_else(|| {
        wrong(format!("the annotation {} is missing: a JSON array, how to start it here", labels::DEV_COMMAND))
    })?;
    let command = serde_json::from_str(command).map_err(|error| wrong(format!("{}: {error}", labels::DEV_COMMAND)))?;
    let expect = annotations.get(EXPECT).map(|text| serde_json::from_str(text)).transpose();
    let expect = expect.map_err(|error| wrong(format!("{EXPECT}: {error}")))?;
    let environment = agent.spec.container.env.iter().filter_map(|var| Some((var.name.clone(), var.value.clone()?)));
    let environment = environment.collect();
    Ok(Described { name, command, environment, expect, spec: agent.spec })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/permits")
    }

    #[test]
    fn the_example_is_read_as_a_whole() {
        let manifest = Manifest::read(&example()).unwrap();
        assert_eq!(manifest.workspace, "permits");
        let names: Vec<&str> = manifest.agents.iter().map(|agent| agent.name.as_str()).collect();
        assert_eq!(names, ["permits", "ledger"]);
        assert_eq!(manifest.agents[0].command, ["python3", "agents/permits.py"]);
        assert_eq!(manifest.agents[0].expect, Some(Expect { from: "cases".into(), field: None }));
        assert_eq!(manifest.caller(None).unwrap().subject, "system:serviceaccount:permits:clerk");
        assert_eq!(manifest.caller(Some("clerk")).unwrap().roles, ["clerk"]);
        assert_eq!(manifest.caller(Some("nobody")).unwrap_err().code(), 2);
    }

    fn read(text: &str) -> Result<Manifest, Failure> {
        build(Path::new("dir"), parse(text).map_err(Failure::Usage)?)
    }

    #[test]
    fn what_is_missing_is_said() {
        let workspace = "apiVersion: rhizon.dev/v1alpha1\nkind: RhizonWorkspace\nmetadata: {name: w}\nspec: {}\n";
        let agent = "---\napiVersion: rhizon.dev/v1alpha1\nkind: RhizonAgent\nmetadata: {name: a, namespace: NS}\nspec: {subscribes: [cmd.a.b], container: {image: x}}\n";
        let error = |text: &str| read(text).unwrap_err().to_string();
        assert!(error("kind: Other").contains("has 0 RhizonWorkspaces"));
        assert!(error(&format!("{workspace}{}", agent.replace("NS", "x"))).contains("namespace 'x'"));
        assert!(
            error(&format!("{workspace}{}", agent.replace("NS", "w"))).contains("rhizon.dev/dev-command is missing")
        );
        assert!(error(&workspace.replace("RhizonWorkspace", "RhizonThing")).contains("'RhizonThing' is not known"));
        let misspelt = workspace.replace("spec: {}", "spec: {gateway: {access: [{subject: s, reads: true}]}}");
        assert!(error(&misspelt).contains("w: the field spec.gateway.access[0].reads is not known"));
        assert!(error(&format!("{workspace}---\n{workspace}")).contains("has 2 RhizonWorkspaces"));
    }
}
