//! Real brokers on free loopback ports, with all that they write below a given directory.

mod cluster;
mod nats;
mod rabbitmq;

pub use cluster::NatsCluster;
pub use nats::Nats;
pub use rabbitmq::RabbitMq;
