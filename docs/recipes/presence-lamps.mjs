// Presence lamps: which phones are free, ring or talk, now and at every change.
import { BlackholeClient } from 'blackhole-events';

const LAMPS = { early: 'blinks', confirmed: 'on' };
const client = new BlackholeClient(process.env.EVENTS_URL, { token: process.env.TOKEN });
const phones = new Map();   // what each phone does, by call

for await (const message of client.watch(null, 'presence.update.*', { state: true })) {
  if (message.action === 'present' && !message.complete) phones.clear();
  if (message.action !== 'event') continue;
  const { 'Presence-ID': phone, 'Call-ID': call, State: state } = message.args;
  const own = phones.get(phone) ?? new Map();
  phones.set(phone, own);
  if (state === 'terminated') own.delete(call);
  else own.set(call, state);
  const now = ['confirmed', 'early'].find((one) => [...own.values()].includes(one));
  console.log(`${phone.split('@')[0]} ${LAMPS[now] ?? 'off'}`);
}
