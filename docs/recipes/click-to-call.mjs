// Click to call: the phone of USER_ID rings, then NUMBER is called. Tells how that goes.
import { BlackholeClient } from 'blackhole-events';

const { EVENTS_URL, TOKEN, ACCOUNT_ID, USER_ID, NUMBER } = process.env;
const client = new BlackholeClient(EVENTS_URL, { token: TOKEN });
const calls = client.watch(ACCOUNT_ID, 'call.*.*');
await calls.subscribed;   // before the call, so that nothing is missed

const endpoint = `/v2/accounts/${ACCOUNT_ID}/users/${USER_ID}/quickcall/${encodeURIComponent(NUMBER)}`;
const { status, message: why } = await client.request('api', { verb: 'get', endpoint });
if (status !== 'success') throw new Error(`no call: ${why}`);
console.log('asked');

for await (const message of calls) {
  if (message.action !== 'event' || message.args['Callee-ID-Number'] !== NUMBER) continue;
  if (message.name === 'CHANNEL_CREATE') console.log('ringing');
  if (message.name === 'CHANNEL_ANSWER') console.log('talking');
  if (message.name === 'CHANNEL_DESTROY') {
    console.log(`ended: ${message.args['Hangup-Cause']}`);
    break;
  }
}
client.close();
