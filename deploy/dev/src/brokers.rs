//! Real brokers on free loopback ports. Everything they write is below a given directory.

mod cluster;
mod nats;
mod rabbitmq;

pub use cluster::NatsCluster;
pub use nats::Nats;
pub use rabbitmq::RabbitMq;
