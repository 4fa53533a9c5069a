/*
 * The client for Node. Node 22 and later have a WebSocket; earlier ones get that of node-websocket.js.
 */
import { BlackholeClient as Client } from './client.js';
import { WebSocket } from './node-websocket.js';

export class BlackholeClient extends Client {
  constructor(url, options = {}) {
    super(url, { ...options, WebSocket: options.WebSocket ?? globalThis.WebSocket ?? WebSocket });
  }
}
