/*
 * A WebSocket for Node before 22, with what the client uses of a browser's: RFC 6455 without extensions and sub-protocols.
 * In `reason` of a failed upgrade it tells the HTTP status, which browsers hide.
 */
import { createHash, randomBytes } from 'node:crypto';
import http from 'node:http';
import https from 'node:https';

const MAX_MESSAGE = 32 * 1024 * 1024;
const CLOSE_TIMEOUT = 3000;
const [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG] = [0, 1, 2, 8, 9, 10];

export class WebSocket {
  onopen = null; onmessage = null; onclose = null; onerror = null;
  #request; #socket = null; #read = Buffer.alloc(0); #parts = []; #size = 0; #isClosing = false; #isClosed = false; #code = 1006; #reason = '';

  constructor(url) {
    const target = new URL(url);
    const transport = { 'ws:': http, 'wss:': https }[target.protocol];
    if (!transport) throw new SyntaxError(`not a WebSocket URL: ${url}`);
    target.protocol = target.protocol.replace('ws', 'http');
    const key = randomBytes(16).toString('base64');
    const headers = { Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Key': key };
    this.#request = transport.request(target, { headers, agent: false });
    this.#request.on('error', () => this.#closed());
    this.#request.on('response', (response) => {
      this.#reason = `HTTP ${response.statusCode}`;
      response.destroy();
      this.#closed();
    });
    this.#request.on('upgrade', (response, socket, head) => {
      const accept = createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
      if (this.#isClosed || response.headers['sec-websocket-accept'] !== accept) {
        socket.destroy();
        this.#closed();
      } else this.#opened(socket, head);
    });
    this.#request.end();
  }

  send(text) {
    if (!this.#isClosing) this.#write(TEXT, Buffer.from(text));
  }

  close(code = 1000) {
    if (this.#socket === null) {
      this.#request.destroy();
      this.#closed();
    } else this.#sendClose(code);
  }

  #opened(socket, head) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on('error', () => {});       // `close` follows
    socket.on('close', () => this.#closed());
    socket.on('end', () => socket.end());
    this.onopen?.({});
    socket.on('data', (bytes) => this.#received(bytes));
    if (head.length > 0) this.#received(head);
  }

  #closed() {
    if (this.#isClosed) return;
    this.#isClosed = this.#isClosing = true;
    queueMicrotask(() => this.onclose?.({ code: this.#code, reason: this.#reason }));
  }

  #received(bytes) {
    this.#read = this.#read.length === 0 ? bytes : Buffer.concat([this.#read, bytes]);
    while (!this.#isClosed && this.#socket.writable) {
      const frame = this.#frame();
      if (frame === null) return;
      this.#handle(frame);
    }
  }

  // The next whole frame.
  #frame() {
    const bytes = this.#read;
    if (bytes.length < 2) return null;
    const short = bytes[1] & 0x7f;
    const start = short === 126 ? 4 : short === 127 ? 10 : 2;
    if (bytes.length < start) return null;
    const length = short === 126 ? bytes.readUInt16BE(2) : short === 127 ? Number(bytes.readBigUInt64BE(2)) : short;
    const opcode = bytes[0] & 0x0f;
    const isControl = opcode >= CLOSE;
    // Reserved bits, masks of servers, and long or fragmented control frames are errors.
    if ((bytes[0] & 0x70) !== 0 || (bytes[1] & 0x80) !== 0 || (isControl && (short > 125 || (bytes[0] & 0x80) === 0))) return this.#fail(1002);
    if (this.#size + length > MAX_MESSAGE) return this.#fail(1009);
    if (bytes.length < start + length) return null;
    this.#read = bytes.subarray(start + length);
    return { opcode, isFinal: (bytes[0] & 0x80) !== 0, payload: bytes.subarray(start, start + length) };
  }

  #handle({ opcode, isFinal, payload }) {
    if (opcode === PING) this.#write(PONG, payload);
    else if (opcode === CLOSE) {
      this.#code = payload.length >= 2 ? payload.readUInt16BE(0) : 1005;
      this.#reason = payload.subarray(2).toString();
      this.#sendClose(payload.length >= 2 ? this.#code : 1000);
      this.#socket.end();
    } else if (opcode === TEXT || opcode === BINARY || opcode === CONTINUATION) {
      if ((opcode === CONTINUATION) !== (this.#parts.length > 0)) return this.#fail(1002);
      this.#parts.push(payload);
      this.#size += payload.length;
      if (!isFinal) return;
      const message = Buffer.concat(this.#parts);
      [this.#parts, this.#size] = [[], 0];
      if (!this.#isClosing) this.onmessage?.({ data: message.toString() });
    } else if (opcode !== PONG) this.#fail(1002);
  }

  #fail(code) {
    this.#sendClose(code);
    this.#code = code;
    this.#socket.destroy();
    return null;
  }

  #sendClose(code) {
    if (this.#isClosing) return;
    const payload = Buffer.alloc(2);
    payload.writeUInt16BE(code);
    this.#write(CLOSE, payload);
    this.#isClosing = true;
    setTimeout(() => this.#socket.destroy(), CLOSE_TIMEOUT).unref();
  }

  #write(opcode, payload) {
    const { length } = payload;
    const head = Buffer.alloc(length < 126 ? 2 : length < 65536 ? 4 : 10);
    head[0] = 0x80 | opcode;
    head[1] = 0x80 | (length < 126 ? length : length < 65536 ? 126 : 127);
    if (head.length === 4) head.writeUInt16BE(length, 2);
    else if (head.length === 10) head.writeBigUInt64BE(BigInt(length), 2);
    const mask = randomBytes(4);
    const masked = Buffer.alloc(length);
    for (let at = 0; at < length; at += 1) masked[at] = payload[at] ^ mask[at & 3];
    this.#socket.write(Buffer.concat([head, mask, masked]));
  }
}
