//! What the brokers do, as far as the simulator relies on it: the simulated ones do the same.

mod nats;
mod rabbitmq;
