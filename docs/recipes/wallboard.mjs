// Wallboard: how many calls ring, talk and are held, now and at every change.
import { BlackholeClient } from 'blackhole-events';

const STATES = {
  CHANNEL_CREATE: 'ringing', CHANNEL_ANSWER: 'talking', CHANNEL_BRIDGE: 'talking', CHANNEL_HOLD: 'held',
  CHANNEL_UNHOLD: 'talking', PARK_PARKED: 'held', PARK_RETRIEVED: 'talking',
};
const client = new BlackholeClient(process.env.EVENTS_URL, { token: process.env.TOKEN });
const calls = new Map();
let isComplete = false;

for await (const message of client.watch(null, 'call.*.*', { state: true })) {
  if (message.action === 'present') {
    isComplete = message.complete;
    if (!isComplete) calls.clear();   // what lives comes anew
  } else if (message.action === 'event') {
    const { name, args } = message;
    if (name === 'CHANNEL_DESTROY') calls.delete(args['Call-ID']);
    else if (STATES[name]) calls.set(args['Call-ID'], STATES[name]);
  }
  if (!isComplete) continue;
  const count = (state) => [...calls.values()].filter((one) => one === state).length;
  console.log(`ringing ${count('ringing')}, talking ${count('talking')}, held ${count('held')}`);
}
