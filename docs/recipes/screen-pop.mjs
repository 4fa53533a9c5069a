// Screen pop: when a call rings at EXTENSION, the page of the caller opens.
import { BlackholeClient } from 'blackhole-events';

const { EVENTS_URL, TOKEN, EXTENSION } = process.env;
const client = new BlackholeClient(EVENTS_URL, { token: TOKEN });
const calls = client.watch(null, 'call.CHANNEL_CREATE.*');
await calls.subscribed;
console.log('ready');
for await (const message of calls) {
  if (message.action !== 'event') continue;
  const call = message.args;
  // Towards the phone, a call is outbound.
  if (call['Call-Direction'] !== 'outbound' || call['Callee-ID-Number'] !== EXTENSION) continue;
  console.log(`open https://crm.example.com/search?phone=${encodeURIComponent(call['Caller-ID-Number'])}`);
}
