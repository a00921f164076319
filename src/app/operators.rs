//! What people do on the pages and over their API, carried out by the code behind the command line.

use std::sync::Arc;

use crate::{
    config::Config,
    ingress::endpoint::Endpoints,
    keys::Keys,
    ops::{Acts, Answered, Wanted},
    store::actions::{Act, Line},
    worker::{
        adjust::{self, Requested},
        approvals::{self, Approver},
        case_actions,
        reverify::Trust,
    },
};

/// With these keys, as they are at each act, and endpoints.
pub(super) fn acts(keys: Keys, endpoints: Endpoints, config: &Config) -> Acts {
    let (policy, approvals) = (config.worker.policy(), config.approvals);
    let endpoints = Arc::new(endpoints);
    let (keys_of_approvals, endpoints_of_approvals) = (keys.clone(), Arc::clone(&endpoints));
    Acts {
        approvals,
        run_action: Arc::new(move |mut connection, order, action| {
            let (keyring, endpoints) = (keys.current(), Arc::clone(&endpoints));
            Box::pin(async move {
                let trust = Trust { keyring: &keyring, endpoints: &endpoints };
                let done = case_actions::run(&mut connection, &order, action, &trust, policy, |_| {}).await;
                connection.close().await;
                done.map(drop)
            })
        }),
        adjust: Arc::new(move |mut connection, wanted: Wanted| {
            Box::pin(async move {
                let Wanted { correction, who, via, why } = wanted;
                let answered = match why {
                    None => {
                        let previewed = adjust::preview(&mut connection, &correction, policy).await;
                        previewed.map(Answered::Adjusted)
                    }
                    Some(why) => {
                        let chosen = correction.to_string();
                        let line = Line {
                            who: &who,
                            via,
                            action: Act::Adjust.as_str(),
                            why: &why,
                            chosen: &chosen,
                            key: None,
                            proposed_by: None,
                        };
                        let both = (policy, approvals);
                        adjust::request(&mut connection, &correction, both, line).await.map(|requested| {
                            match requested {
                                Requested::Adjusted(adjusted) => Answered::Adjusted(adjusted),
                                Requested::Proposed(start) => Answered::Start(start),
                            }
                        })
                    }
                };
                connection.close().await;
                answered
            })
        }),
        approve: Arc::new(move |mut connection, proposal, name, via| {
            let (keyring, endpoints) = (keys_of_approvals.current(), Arc::clone(&endpoints_of_approvals));
            Box::pin(async move {
                let trust = Trust { keyring: &keyring, endpoints: &endpoints };
                let approver = Approver { name: &name, via };
                let objection =
                    approvals::approve(&mut connection, proposal, approver, (&trust, policy)).await;
                connection.close().await;
                objection
            })
        }),
    }
}
