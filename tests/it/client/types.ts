// What the types of the npm package promise. Lines after `@ts-expect-error` must be errors.
import { BlackholeClient, type BodyOf, type EventOf, type Message } from 'blackhole-events';

const client = new BlackholeClient('wss://events.example.com/?view=args', {
  token: async () => 'eyJ',
  onevent: (event) => { const name: string = event.args['Event-Name']; console.log(name); },
  onstate: (state, { wait }) => { if (state === 'waiting') console.log(wait!.toFixed()); },
  ongap: ({ bindings, reason }) => console.log(bindings.join(), reason),
});

async function calls(): Promise<void> {
  const watch = client.watch(null, 'call.*.*', { state: true });
  const cursor: string | undefined = (await watch.subscribed).cursor;
  console.log(cursor);
  for await (const message of watch) {
    if (message.action === 'present') console.log(message.complete === true);
    if (message.action !== 'event') continue;
    const number: string | null | undefined = message.args['Caller-ID-Number'];
    const owner: string | null | undefined = message.args['Custom-Channel-Vars']?.['Owner-ID'];
    console.log(number, owner, message.args['A member of a later release']);
    // @ts-expect-error: it is a text
    const wrong: number = message.args['Call-ID'];
    console.log(wrong);
  }
}

async function several(): Promise<void> {
  for await (const message of client.watch('an account', ['call.CHANNEL_CREATE.*', 'fax.status.*'])) {
    if (message.action !== 'event') continue;
    if (message.subscribed_key === 'fax.status.*') console.log(message.args['Fax-State']?.toUpperCase());
    else console.log(message.args['Call-ID']?.toUpperCase());
  }
}

// With another view the body is elsewhere, and its members have other names.
const data = new BlackholeClient<'data'>('wss://events.example.com/?view=data', { token: 'eyJ' });
async function normalized(): Promise<void> {
  for await (const message of data.watch(null, 'call.*.*')) {
    if (message.action !== 'event') continue;
    const number: string | null | undefined = message.data.caller_id_number;
    console.log(number, message.data.custom_channel_vars?.owner_id);
    // @ts-expect-error: there is none
    console.log(message.args);
  }
}

// A binding of any text has what all events have.
export type Any = EventOf<string>['args']['Event-Name'] extends string ? true : false;
export const any: Any = true;
export const document: BodyOf<'doc_edited.*.user.*'>['Is-Soft-Deleted'] = false;
export const queue: Message<'qubicle.queue'>['action'] = 'gap';
// @ts-expect-error: a token is needed
new BlackholeClient('wss://events.example.com/', {});
export { calls, several, normalized };
