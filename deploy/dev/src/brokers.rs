//! Real brokers on free loopback ports, with all that they write below a given directory.

mod nats;
mod rabbitmq;

pub use nats::Nats;
pub use rabbitmq::RabbitMq;
