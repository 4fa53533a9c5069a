//! Key-value buckets.

use async_nats::jetstream::{
    Context, ErrorCode,
    context::{CreateStreamError, CreateStreamErrorKind},
    kv::Store,
    stream::{Config, DiscardPolicy},
};

/// Opens the bucket, or creates it with `replicas` copies.
///
/// # Errors
/// What JetStream answers.
pub async fn open_or_create(
    jetstream: &Context,
    bucket: &str,
    description: &str,
    replicas: usize,
) -> Result<Store, async_nats::Error> {
    if let Ok(store) = jetstream.get_key_value(bucket).await {
        return Ok(store);
    }
    // The stream that `create_key_value` would create. That function first requests the account's info, and cannot parse
    // the reply of nats-server 2.9.
    let config = Config {
        name: format!("KV_{bucket}"),
        description: Some(description.to_owned()),
        subjects: vec![format!("$KV.{bucket}.>")],
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        num_replicas: replicas,
        ..Config::default()
    };
    match jetstream.create_stream(&config).await {
        // A single server keeps one copy.
        Err(error) if is_without_replicas(&error) => {
            jetstream.create_stream(Config { num_replicas: 1, ..config }).await?;
        }
        created => drop(created?),
    }
    Ok(jetstream.get_key_value(bucket).await?)
}

fn is_without_replicas(error: &CreateStreamError) -> bool {
    matches!(error.kind(), CreateStreamErrorKind::JetStream(error)
        if error.error_code() == ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED)
}
