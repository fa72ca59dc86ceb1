//! The topology and its changes over HTTP: the calls that requests become, and their answers.
//!
//! * A job is started once for each idempotency key.

use super::changes::{CancelJob, ChangeSetting, PlanChange, StartJob};
use super::problem::{Problem, Refused};
use super::requests::Nothing;
use super::{Asked, Door, document, invalid};
use crate::doors::clusters::ClusterCall;
use wire::json;
use wire::v1::{CancelJobRequest, ChangeSettingRequest, PlanChangeRequest, StartJobRequest};

impl Door {
    /// Serves a route of the topology.
    pub(super) async fn cluster(&self, asked: &Asked) -> Result<axum::response::Response, Problem> {
        let call = ClusterCall::within(&self.single, &asked.visitor, None);
        match (self.verb, self.path) {
            ("GET", "/v1/cluster/topology") => {
                asked.query::<Nothing>()?;
                document(json::Topology::from(&call.topology(0).await?))
            }
            ("GET", "/v1/cluster/jobs") => {
                asked.query::<Nothing>()?;
                let json::Topology { jobs, .. } = (&call.topology(0).await?).into();
                document(json::Jobs { jobs })
            }
            ("POST", "/v1/cluster/jobs") => {
                let request = asked.json::<StartJob>()?;
                let mut request_id = asked.request_id()?;
                if request_id.is_empty() {
                    request_id = rand::random::<[u8; 16]>().to_vec();
                }
                let (job, at_version) = (Some(request.spec()?), request.at_version);
                let at_version = at_version.unwrap_or_default();
                let started = call.start(StartJobRequest { request_id, job, at_version }).await?;
                document(json::JobStarted { job: started.job, version: started.version })
            }
            ("DELETE", "/v1/cluster/jobs/{id}") => {
                let CancelJob { at_version } = asked.query()?;
                let job = asked.of_path.parse().map_err(|_| {
                    invalid("the path has no number of a job: see GET /v1/cluster/jobs")
                })?;
                let at_version = at_version.unwrap_or_default();
                let ended = call.cancel(CancelJobRequest { job, at_version }).await?;
                document(json::Changed { version: ended.version })
            }
            ("POST", "/v1/cluster/settings") => {
                let request = asked.json::<ChangeSetting>()?;
                let setting = Some(request.change()?);
                let at_version = request.at_version.unwrap_or_default();
                let request = ChangeSettingRequest { setting, at_version };
                document(json::Changed { version: call.change_setting(request).await?.version })
            }
            ("POST", "/v1/cluster/plan") => {
                let change = Some(asked.json::<PlanChange>()?.change()?);
                let plan = call.plan_change(PlanChangeRequest { change }).await?;
                document(json::ChangePlan::from(&plan))
            }
            _ => Err(Refused::NoRoute.into()),
        }
    }
}
