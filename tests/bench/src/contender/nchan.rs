//! nginx with nchan, from Debian: subscribing over WebSocket, publishing over HTTP.

use std::path::Path;

use anyhow::{Context, Result};
use blackhole_dev::process::Spec;
use blackhole_dev::server::{Ready, Server};
use blackhole_dev::{install, ports};

/// nginx.
pub(crate) struct Nchan {
    server: Server,
    port: u16,
}

impl Nchan {
    /// Starts it.
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let program = install::find(install::NGINX)?;
        let module = install::find(install::NCHAN)?;
        let port = ports::free()?;
        let file = dir.join("nginx.conf");
        std::fs::write(&file, config(dir, &module, port)).context("cannot write nginx's configuration")?;
        let spec = Spec::new(program).arg("-c").arg(&file).arg("-p").arg(dir).log(dir.join("nginx.log"));
        let ready = Ready::Http(format!("127.0.0.1:{port}"), "/ready".into());
        let server = Server::start("nginx", spec, ready, super::READY_TIMEOUT).await?;
        Ok(Self { server, port })
    }

    /// Restarts it.
    pub(crate) async fn renew(&self) -> Result<()> {
        self.server.restart().await
    }

    /// Its process.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Its port, for publishing and subscribing.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

fn config(dir: &Path, module: &Path, port: u16) -> String {
    let (dir, module) = (dir.display(), module.display());
    // One worker is fastest here: with two, nchan passes each event between them.
    format!(
        "load_module {module};\n\
         daemon off;\n\
         worker_processes 1;\n\
         worker_rlimit_nofile 20000;\n\
         pid {dir}/nginx.pid;\n\
         error_log stderr warn;\n\
         events {{ worker_connections 19000; }}\n\
         http {{\n\
           access_log off;\n\
           client_body_temp_path {dir}/body;\n\
           proxy_temp_path {dir}/proxy;\n\
           fastcgi_temp_path {dir}/fastcgi;\n\
           uwsgi_temp_path {dir}/uwsgi;\n\
           scgi_temp_path {dir}/scgi;\n\
           client_body_buffer_size 16k;\n\
           keepalive_requests 1000000000;\n\
           keepalive_timeout 1h;\n\
           nchan_shared_memory_size 512M;\n\
           server {{\n\
             listen 127.0.0.1:{port} backlog=4096;\n\
             location = /ready {{ return 200 ready; }}\n\
             location ~ /pub/(\\d+)$ {{\n\
               nchan_publisher http;\n\
               nchan_channel_id $1;\n\
               nchan_message_buffer_length 100;\n\
               nchan_message_timeout 10s;\n\
             }}\n\
             location ~ /sub/(\\d+)$ {{\n\
               nchan_subscriber websocket;\n\
               nchan_channel_id $1;\n\
               nchan_subscriber_first_message newest;\n\
             }}\n\
           }}\n\
         }}\n"
    )
}
