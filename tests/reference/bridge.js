// A simple bridge from RabbitMQ to WebSocket: one process, one queue, a map of bindings. It speaks the part of Blackhole's
// protocol that the benchmarks use. It has no history and no limits.
'use strict';

const crypto = require('node:crypto');
const http = require('node:http');
const amqp = require('amqplib');
const { WebSocketServer } = require('ws');

const { PORT, AMQP_URL, SECRET } = process.env;

/** The bindings of each account, each with its sockets. */
const accounts = new Map();
let ready = false;

function verified(token) {
  const [header, claims, signature] = String(token).split('.');
  const own = crypto.createHmac('sha256', SECRET).update(`${header}.${claims}`).digest('base64url');
  if (own !== signature) throw new Error('failed to authenticate token');
  return JSON.parse(Buffer.from(claims, 'base64url'));
}

function subscribe(socket, { account_id: account, binding, bindings = [binding] }) {
  if (!accounts.has(account)) accounts.set(account, new Map());
  const wanted = accounts.get(account);
  for (const text of bindings) {
    if (!wanted.has(text)) wanted.set(text, { words: text.split('.'), sockets: new Set() });
    wanted.get(text).sockets.add(socket);
    socket.bound.push([account, text]);
  }
  return bindings;
}

function leave(socket) {
  for (const [account, text] of socket.bound) {
    const wanted = accounts.get(account);
    const entry = wanted?.get(text);
    entry?.sockets.delete(socket);
    if (entry?.sockets.size === 0) wanted.delete(text);
    if (wanted?.size === 0) accounts.delete(account);
  }
}

const matches = (pattern, key) =>
  pattern.length === key.length && pattern.every((word, index) => word === '*' || word === key[index]);

function deliver(message) {
  const body = JSON.parse(message.content);
  const words = message.fields.routingKey.split('.');
  const account = words[0] === 'fax' ? words[2] : body['Custom-Channel-Vars']?.['Account-ID'];
  const wanted = accounts.get(account);
  if (!wanted) return;
  // In a client's binding, the key of a fax event has no account.
  const key = words[0] === 'fax' ? [words[0], words[1], words[3]] : words;
  for (const [text, { words: pattern, sockets }] of wanted) {
    if (!matches(pattern, key)) continue;
    const frame = JSON.stringify({
      action: 'event',
      subscribed_key: text,
      name: body['Event-Name'],
      routing_key: message.fields.routingKey,
      args: body,
    });
    for (const socket of sockets) socket.send(frame);
  }
}

const server = http.createServer((request, response) => {
  response.writeHead(ready ? 200 : 503).end();
});
new WebSocketServer({ server, perMessageDeflate: false }).on('connection', (socket) => {
  socket.bound = [];
  socket.on('close', () => leave(socket));
  socket.on('error', () => {});
  socket.on('message', (frame) => {
    let request = {};
    try {
      request = JSON.parse(frame);
      if (request.auth_token) socket.claims = verified(request.auth_token);
      if (!socket.claims) throw new Error('authentication token required');
      const data = request.action === 'subscribe' ? { subscribed: subscribe(socket, request.data) } : {};
      socket.send(JSON.stringify({ action: 'reply', request_id: request.request_id, status: 'success', data }));
    } catch (error) {
      const data = { errors: [error.message] };
      socket.send(JSON.stringify({ action: 'reply', request_id: request.request_id, status: 'error', data }));
    }
  });
});

(async () => {
  const channel = await (await amqp.connect(AMQP_URL)).createChannel();
  const { queue } = await channel.assertQueue('', { exclusive: true });
  for (const [exchange, pattern] of [['callevt', 'call.*.*'], ['faxes', 'fax.status.*.*']]) {
    await channel.assertExchange(exchange, 'topic', { durable: false });
    await channel.bindQueue(queue, exchange, pattern);
  }
  await channel.consume(queue, deliver, { noAck: true });
  server.listen(Number(PORT), '127.0.0.1', () => { ready = true; });
})();
