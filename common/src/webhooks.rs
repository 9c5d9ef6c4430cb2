//! Webhooks: where people want to be told what happened (an endpoint), and what came of telling them (a delivery), after
//! Standard Webhooks. A request writes one event ([`events`](crate::events)); deliveries are made of it by
//! [`mod@fan_out`], and each is sent by a job of its own.

pub mod attempt;
mod delivery;
mod endpoint;
mod fan_out;
pub mod reseal;
pub mod signature;
pub mod target;

pub use self::{
    delivery::{
        Delivery, DeliveryDetail, DeliveryFilter, DeliveryState, MAX_RANGE, Range, Repeated, ping, redeliver,
        redeliver_range,
    },
    endpoint::{
        Endpoint, EndpointPatch, EndpointState, Health, Listed, MAX_PER_OWNER, NewEndpoint, SECRET_OVERLAP,
        WantedState,
    },
    fan_out::{BATCH, fan_out},
};
pub(crate) use endpoint::check_project;
