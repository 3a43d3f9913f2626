//! How the operator itself is told where it is: flags, or the environment that the chart sets.

use clap::Args;

#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Namespace of the operator and the broker.
    #[arg(long, env = "RHIZON_NAMESPACE", default_value = "rhizon-system")]
    pub namespace: String,

    /// This replica's name, for the leader's lease and for events.
    #[arg(long, env = "RHIZON_IDENTITY", default_value = "rhizon-operator")]
    pub identity: String,

    /// Address of the broker, as the operator and the pods of workspaces reach it.
    #[arg(long, env = "RHIZON_NATS_URL", default_value = "tls://rhizon-nats.rhizon-system.svc:4222")]
    pub nats_url: String,

    /// Name of the broker's Service, when the chart brings the broker. Without it the broker is somebody else's, and its
    /// keys are in the Secret `rhizon-nats-operator`.
    #[arg(long, env = "RHIZON_NATS_SERVICE")]
    pub nats_service: Option<String>,

    /// Image of sidecars and gateways.
    #[arg(long, env = "RHIZON_RUNTIME_IMAGE", default_value = "localhost/rhizon/runtime:0.1.0")]
    pub runtime_image: String,

    #[arg(long, env = "RHIZON_RUNTIME_PULL_POLICY", default_value = "IfNotPresent")]
    pub runtime_pull_policy: String,

    /// Where sidecars and gateways send traces (OTLP over HTTP).
    #[arg(long, env = "RHIZON_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,

    /// Address for health and metrics.
    #[arg(long, env = "RHIZON_LISTEN", default_value = "0.0.0.0:9090")]
    pub listen: String,
}
