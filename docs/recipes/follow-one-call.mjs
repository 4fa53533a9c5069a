// Follow one call: everything that happens to CALL_ID, from the last five minutes on, until it ends.
import { BlackholeClient } from 'blackhole-events';

const { EVENTS_URL, TOKEN, CALL_ID } = process.env;
const client = new BlackholeClient(EVENTS_URL, { token: TOKEN });
const word = CALL_ID.replaceAll('.', '%2E');   // a dot would begin another word
// If the history does not reach back that far, the call's last event comes instead.
for await (const message of client.watch(null, `call.*.${word}`, { since: '-5m', state: true })) {
  if (message.action !== 'event') continue;
  console.log(message.name);
  if (message.name === 'CHANNEL_DESTROY') break;
}
client.close();
