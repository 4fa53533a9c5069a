#!/bin/sh
# Makes what compose.yaml needs and no repository may contain: a secret for development tokens in .env, and a certificate
# for trying things out. What is there already stays.
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

if [ ! -e haproxy/cert_key.pem ]; then
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
    -keyout haproxy/key.pem -out haproxy/cert.pem 2> /dev/null
  cat haproxy/cert.pem haproxy/key.pem > haproxy/cert_key.pem
  # HAProxy's user in the container has to read it. Do not do this with a real key.
  chmod 644 haproxy/cert_key.pem
  echo "made a test certificate, which browsers warn about, in deploy/haproxy"
fi
