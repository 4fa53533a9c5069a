#!/bin/sh
# Makes what compose.yaml needs and no repository may contain: a secret for development tokens and passwords for NATS in
# .env, and a certificate for trying things out. What is there already stays.
set -eu
cd "$(dirname "$0")"
umask 077

[ -e .env ] || cp .env.example .env
# Empty, or the text that stood in .env.example once: everybody knows it.
if grep -Eq '^DEV_SECRET=(change-me-this-is-for-development)?$' .env; then
  secret=$(openssl rand -hex 32)
  sed "s/^DEV_SECRET=.*/DEV_SECRET=$secret/" .env > .env.new
  mv .env.new .env
  echo "made a secret, in deploy/.env"
fi

for name in NATS_INGEST_PASSWORD NATS_AUTH_PASSWORD NATS_EDGE_PASSWORD; do
  # A .env of an earlier release has no such lines.
  grep -q "^$name=" .env || echo "$name=" >> .env
  if grep -q "^$name=$" .env; then
    # nats-server reads a password of digits as a number, so it begins with a letter.
    sed "s/^$name=$/$name=p$(openssl rand -hex 24)/" .env > .env.new
    mv .env.new .env
    echo "made $name, in deploy/.env"
  fi
done

if [ ! -e haproxy/cert_key.pem ]; then
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE \
    -keyout haproxy/key.pem -out haproxy/cert.pem 2> /dev/null
  cat haproxy/cert.pem haproxy/key.pem > haproxy/cert_key.pem
  # HAProxy's user in the container has to read it. Do not do this with a real key.
  chmod 644 haproxy/cert_key.pem
  echo "made a test certificate, which browsers warn about, in deploy/haproxy"
fi
